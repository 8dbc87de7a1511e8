"""Newer versions of images among the tags of their repositories, by number and of the same variant."""

from __future__ import annotations

import re
from collections.abc import Collection, MutableMapping
from dataclasses import dataclass
from itertools import takewhile

from maintd.clients.registry import RateLimitedError, Reference, RegistryClient, Tags
from maintd.errors import TargetError
from maintd.job.causes import Role
from maintd.job.context import Context

# A version with at least two numbers, then the variant: v2.11.3, 15.20-alpine, 3.12.1-slim-bookworm.
_TAG = re.compile(r"(v?)(\d{1,9}(?:\.\d{1,9}){1,3})((?:-[a-z][a-z0-9.]*)*)")


@dataclass(frozen=True)
class Version:
    """A tag with a version. `variant` has no numbers: `-alpine` of `-alpine3.22`. `form`: `v`, and how many numbers."""

    tag: str
    numbers: tuple[int, ...]
    variant: str
    form: tuple[str, int]


def version(tag: str) -> Version | None:
    """The version that a tag names; None for `latest`, `7` or `20261105`, which have nothing to compare."""
    match = _TAG.fullmatch(tag)
    if match is None:
        return None
    numbers = tuple(int(number) for number in match[2].split("."))
    return Version(tag, numbers, re.sub(r"[\d.]+", "", match[3]), (match[1], len(numbers)))


def newer(current: Version, tags: Collection[str]) -> tuple[Version | None, Version | None]:
    """The newest version with the same major number, and the newest of all, if they are newer than `current`.

    Only tags of the same form and variant count, so that a pre-release or another base image is no update.
    """
    found = [
        other
        for other in map(version, tags)
        if other and (other.form, other.variant) == (current.form, current.variant) and other.numbers > current.numbers
    ]
    same_major = [other for other in found if other.numbers[0] == current.numbers[0]]
    newest = max(found, key=lambda other: other.numbers, default=None)
    return max(same_major, key=lambda other: other.numbers, default=None), newest


class VersionCheck:
    """Reports newer versions; the tags of each repository are requested once."""

    def __init__(
        self, ctx: Context, registry: RegistryClient, engine: str, limited: MutableMapping[str, TargetError]
    ) -> None:
        """`limited`: registries with a rate limit that was reached, which are not asked any more."""
        self._ctx, self._registry, self._engine, self._limited = ctx, registry, engine, limited
        self._answers: dict[str, Tags | TargetError] = {}
        self._without_tags = False

    def report(self, service: str, reference: Reference) -> None:
        """Report whether the registry has a newer version of a service's image with the same major number."""
        current, check = version(reference.tag), f"{service}: newer version"
        if current is None or self._without_tags:
            return
        answer = self._tags(reference)
        if isinstance(answer, TargetError):
            if answer.cause == "not_configured":
                self._without_tags = True
                name = f"{self._engine}: newer versions"
                self._ctx.unknown(name, f"{answer.cause}: {answer.message}", hint=answer.hint or "", optional=True)
            else:
                self._ctx.report_error(check, answer, expected="the registry's tags", role=Role.SOURCE)
            return
        update, newest = newer(current, answer.names)
        if newest is not None and newest != update:
            self._ctx.log(f"{service}: {newest.tag} is a newer major version than {reference.tag}; read how to upgrade")
        if update is None and not answer.complete:
            cause = f"only the first {len(answer.names)} tags were read, which have none"
            self._ctx.unknown(check, cause, hint=f"compare {reference.familiar} with its tags in the registry")
            return
        hint = "read the release notes, then set the new tag and recreate it in a maintenance window"
        known = 0 if update is None else 1
        text = f"{update.tag}, {self._first_seen(service, update.tag)}: {hint}" if update else ""
        self._ctx.check(check, known, warn_above=0, hint=text)
        labels = {"version": update.tag} if update else {}
        self._ctx.measure("image_newer_version", known, "", service=service, **labels)

    def _first_seen(self, service: str, tag: str) -> str:
        """Whether the last run that compared versions had this one as well, and since when it is known."""
        runs = self._ctx.series("image_newer_version", service=service)
        if not runs:
            return "found by the first comparison"
        known = list(takewhile(lambda point: point.labels.get("version") == tag, reversed(runs)))
        return f"known since {known[-1].at:%F}" if known else f"new since the run of {runs[-1].at:%F}"

    def _tags(self, reference: Reference) -> Tags | TargetError:
        name = reference.familiar
        if reference.registry in self._limited:
            return self._limited[reference.registry]
        if name not in self._answers:
            try:
                self._answers[name] = self._registry.tags(reference)
            except TargetError as error:
                self._answers[name] = error
                if isinstance(error, RateLimitedError):
                    self._limited.setdefault(reference.registry, error)
        return self._answers[name]
