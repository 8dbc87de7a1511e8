"""Updates of images: compares the images in use with their registries, and pulls newer ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import NamedTuple

from maintd.checks.docker.images import Image, ImageInUse, PullProgress, find_image, pull, tag
from maintd.checks.docker.versions import VersionCheck
from maintd.clients.docker import Docker, connect
from maintd.clients.registry import Credentials, RateLimitedError, Reference, RegistryClient, RemoteImage, auth
from maintd.errors import TargetError
from maintd.job.causes import Role
from maintd.job.context import Context
from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus

ROLLBACK = "maintd/rollback"
"""Repository of the tags that keep an image in use before a newer one was pulled."""


def floating_reason(tag: str) -> str:
    """Why a tag may refer to another major version one day; empty when it names at least a minor version."""
    match = re.match(r"v?(\d+)(\.\d+)?", tag)
    if match is None:
        return "it names no version"
    if match[2] is None and not re.match(r"\d{8}", tag):
        return "it names only a major version"
    return ""


class PullLimits(NamedTuple):
    """`silence`: how long a pull may be silent; `duration`: how long it may take; `most`: pulls in one run."""

    silence: timedelta
    duration: timedelta
    most: int


class ImageUpdater:
    """Compares images with their registries; each tag is requested once."""

    def __init__(
        self,
        ctx: Context,
        engine: Docker,
        registry: RegistryClient,
        *,
        pulls: PullLimits | None,
        credentials: Mapping[str, Credentials],
    ) -> None:
        """`pulls`: None to pull nothing."""
        self._ctx, self._engine, self._registry = ctx, engine, registry
        self._pulls, self._credentials = pulls, credentials
        self._answers: dict[str, RemoteImage | TargetError] = {}
        self._limited: dict[str, TargetError] = {}  # registries with a rate limit that was reached
        self._versions = VersionCheck(ctx, registry, engine.name, self._limited)
        self._pulled: dict[str, Image] = {}

    def report(self, used: ImageInUse, reference: Reference, image: Image) -> None:
        """Report whether one image of one service is current, and pull the newer one when asked to."""
        ctx, current = self._ctx, f"{used.service}: current"
        local = image.digests_in(reference)
        if reference.digest:
            local |= {reference.digest}
        if not local:
            if reference.explicit:
                hint = "it was built here under that name, or loaded from a file: push it, or pull it"
                ctx.unknown(current, f"it did not come from {reference.registry}", hint=hint)
            else:
                ctx.log(f"{used.service}: {used.name} was built here; there is nothing to compare it with")
                self._report_deployed(used, reference, image)
            return
        if not reference.tag:
            ctx.log(f"{used.service}: {used.name} is pinned to its digest, without a tag to compare it with")
            return
        if not reference.digest:
            ctx.report([_tag_criterion(used, reference)])
        self._versions.report(used.service, reference)
        try:
            remote = self._remote(reference)
            behind = remote.digest not in local and not (
                remote.is_index and any(self._registry.contains(reference, remote, digest) for digest in local)
            )
        except TargetError as error:
            if isinstance(error, RateLimitedError):
                self._limited.setdefault(reference.registry, error)
            hint = error.hint or "the next run tries again"
            ctx.report_error(current, error, expected="the registry's answer", role=Role.SOURCE)
            self._report_deployed(used, reference, image)
            return
        ctx.measure("image_behind", int(behind), "", service=used.service)
        observed = f"behind: the registry has {short(remote.digest)}" if behind else "current"
        running = ", ".join(sorted(map(short, local)))
        hint = f"has {running}: read the release notes, then pull and recreate it in a maintenance window"
        ctx.check(current, observed, equals="current", severity=CheckStatus.WARN, hint=hint)
        newer = find_image(self._engine, f"{reference.familiar}@{remote.digest}") if behind else None
        if behind and newer is None and self._pulls is not None:
            newer = self._pull(used, reference, image, remote, self._pulls)
        self._report_deployed(used, reference, image, newer)

    def _remote(self, reference: Reference) -> RemoteImage:
        if reference.registry in self._limited:
            raise self._limited[reference.registry]
        name = f"{reference.familiar}:{reference.tag}"
        if name not in self._answers:
            try:
                self._answers[name] = self._registry.remote(reference)
            except TargetError as error:
                self._answers[name] = error
        answer = self._answers[name]
        if isinstance(answer, TargetError):
            raise answer
        return answer

    def _report_deployed(
        self, used: ImageInUse, reference: Reference, image: Image, newer: Image | None = None
    ) -> None:
        """Report whether the service runs the image that the engine has under the tag, or that was pulled."""
        tagged = find_image(self._engine, f"{reference.familiar}:{reference.tag}") if reference.tag else None
        other = newer or (tagged if tagged is not None and not reference.digest else None)
        if other is None:
            return
        observed = "running" if other.id == image.id else f"not running: {short(other.id)} is here"
        hint = f"runs {short(image.id)}: recreate {used.service} in a window; until then a restart may change it"
        self._ctx.check(
            f"{used.service}: newest image here", observed, equals="running", severity=CheckStatus.WARN, hint=hint
        )

    def _pull(
        self, used: ImageInUse, reference: Reference, image: Image, remote: RemoteImage, limits: PullLimits
    ) -> Image | None:
        ctx, name, check = self._ctx, f"{reference.familiar}@{remote.digest}", f"{used.service}: pulled"
        if name in self._pulled:
            return self._pulled[name]
        if len(self._pulled) >= limits.most:
            hint = "raise max_pulls"
            ctx.check(check, "postponed to the next run", equals="pulled", severity=CheckStatus.WARN, hint=hint)
            return None
        rollback = f"{used.service}-{ctx.now():%Y%m%dT%H%M%SZ}"
        try:
            with ctx.change("pull", name, service=used.service, tag=reference.tag, before=image.id) as allowed:
                if not allowed:
                    return None
                with ctx.change("tag", f"{ROLLBACK}:{rollback}", image=image.id):
                    tag(self._engine, image, ROLLBACK, rollback)
                login = auth(self._credentials, reference)
                target = ctx.target("docker", self._engine.name)
                with connect(target, name=self._engine.name) as engine, engine.api.each_within(limits.silence):
                    limit = min(limits.duration, ctx.remaining * 0.9)
                    progress = PullProgress(ctx, name)
                    pulled = pull(engine, reference, remote, login, limit, progress.receive)
                allowed.observed(after=pulled.id)
                if remote.digest not in pulled.digests_in(reference):
                    allowed.failed("the image here has another digest")
        except TargetError as error:
            ctx.report_error(check, error, expected=short(remote.digest), role=Role.WORK)
            return None
        self._pulled[name] = pulled
        ctx.check(
            check,
            remote.digest in pulled.digests_in(reference),
            equals=True,
            hint="the image is pulled; recreate the container to use it",
        )
        return pulled


def _tag_criterion(used: ImageInUse, reference: Reference) -> Criterion:
    return Criterion(
        f"{used.service}: tag",
        floating_reason(reference.tag) or "names a version",
        equals="names a version",
        severity=CheckStatus.WARN,
        hint="a pull may bring a new major version: use a tag with the minor version, or a digest",
    )


def short(digest: str) -> str:
    """The first twelve digits of a digest or id."""
    return digest.rpartition(":")[2][:12]
