"""Exercise the requirements of many steps: all targets at once, each requirement once, for all steps that have it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from maintd.checks.clock_offset import ClockLimits, ClockOffset, clock_of_answer, clock_offset, report_clock
from maintd.checks.probes import Probe, answered, as_target_error, collect_all
from maintd.checks.requirements.connections import LOCAL_KINDS, Service, opened
from maintd.checks.requirements.requirement import Requirement, Unconfigured, default_requirements
from maintd.clients.docker import Docker
from maintd.clients.postgres import Postgres
from maintd.clients.redis import RedisServer
from maintd.errors import JobError, MaintdError, TargetError
from maintd.job.causes import Role, hint_for
from maintd.job.context import Context
from maintd.job.loader import open_module, traits_of
from maintd.job.params import JobParams
from maintd.job.references import has_reference, resolve_each
from maintd.model.target import Targets
from maintd.redaction import MASK

Place = tuple[str, str]
"""Kind and name of a target."""

_SHOWN_USERS = 4
_NOT_TRIED = TargetError("not tried, since an earlier exercise timed out", cause="timed_out")


class ExaminedStep(BaseModel):
    """A step of a calendar entry, with the path of its job's module. `params` is JSON, with references.

    required: without a target of each kind that its job needs, no step of the entry runs. gated: the entry has a gate,
    at which a run waits even when no step has its target.
    """

    model_config = ConfigDict(frozen=True)

    entry: str
    step: str
    job: str
    path: Path
    params: str = "{}"
    required: bool = False
    gated: bool = False


@dataclass
class Wanted:
    """The requirements of one target, each with the entries that have it."""

    users: dict[Requirement, list[str]] = field(default_factory=dict)

    def add(self, requirement: Requirement, entry: str) -> None:
        """Add a requirement of an entry."""
        entries = self.users.setdefault(requirement, [])
        if entry not in entries:
            entries.append(entry)


@dataclass
class Needs:
    """What all steps need: the requirements of each target; by what is not configured, the entries whose steps are
    skipped without it; and by entry of which nothing runs, why."""

    places: dict[Place, Wanted] = field(default_factory=dict)
    unconfigured: dict[Unconfigured, list[str]] = field(default_factory=dict)
    idle: dict[str, list[tuple[str, Unconfigured]]] = field(default_factory=dict)

    def add(self, requirement: Requirement, entry: str, targets: Targets) -> None:
        """Add a requirement of an entry."""
        if requirement.optional and self._is_missing(requirement, targets):
            self.add_unconfigured(_no_target(f"{requirement.kind} {requirement.target}"), entry)
        elif requirement.kind not in LOCAL_KINDS and not targets.of(requirement.kind):
            self.add_unconfigured(_no_target(requirement.kind), entry)
        else:
            self.places.setdefault(requirement.place, Wanted()).add(requirement, entry)

    @staticmethod
    def _is_missing(requirement: Requirement, targets: Targets) -> bool:
        return requirement.kind not in LOCAL_KINDS and requirement.target not in targets.of(requirement.kind)

    def add_unconfigured(self, missing: Unconfigured, entry: str) -> None:
        """Add that steps of an entry do nothing without this."""
        entries = self.unconfigured.setdefault(missing, [])
        if entry not in entries:
            entries.append(entry)


@dataclass(frozen=True)
class StepNeeds:
    """What one step needs. Without a target of the kinds in `kinds`, or what `others` name, it is skipped."""

    step: ExaminedStep
    kinds: tuple[Unconfigured, ...] = ()
    others: tuple[Unconfigured, ...] = ()
    requirements: tuple[Requirement, ...] = ()

    @property
    def missing(self) -> tuple[Unconfigured, ...]:
        """All without which the step is skipped."""
        return self.kinds or self.others


@dataclass(frozen=True)
class Examined:
    """What a target answered: to the first request, and to each exercise, a text or the error."""

    first: str
    seen: Mapping[Requirement, str | MaintdError]
    clock: ClockOffset | TargetError | None


def collect_needs(ctx: Context, steps: Sequence[ExaminedStep]) -> Needs:
    """What all steps need. A step whose job or params cannot be used is a failed check.

    Of an entry of which nothing runs, only what it lacks: what its other steps need is not needed.
    """
    found = Needs()
    by_entry: dict[str, list[StepNeeds]] = {}
    for needs in _needs_of_steps(ctx, steps):
        by_entry.setdefault(needs.step.entry, []).append(needs)
    for entry, all_needs in by_entry.items():
        reasons = _why_idle(all_needs, sum(step.entry == entry for step in steps))
        if reasons:
            found.idle[entry] = reasons
            continue
        for needs in all_needs:
            for missing in needs.missing:
                found.add_unconfigured(missing, entry)
            for requirement in () if needs.missing else needs.requirements:
                found.add(requirement, entry, ctx.targets)
    return found


def _why_idle(found: Sequence[StepNeeds], steps: int) -> list[tuple[str, Unconfigured]]:
    """Why nothing of an entry with that number of steps runs, by step; empty where something does.

    As a run decides it: a required step has no target, or each step is skipped and no gate waits.
    """
    required = [needs for needs in found if needs.step.required and needs.kinds]
    skipped = [needs for needs in found if needs.missing]
    none_left = len(skipped) == steps and not any(needs.step.gated for needs in found)
    reasons = [(needs.step.step, missing) for needs in required for missing in needs.kinds]
    return reasons or ([(needs.step.step, one) for needs in skipped for one in needs.missing] if none_left else [])


def _needs_of_steps(ctx: Context, steps: Sequence[ExaminedStep]) -> Iterator[StepNeeds]:
    for step in steps:
        subject = f"entry {step.entry}: {step.step}"
        given, unresolved = resolve_each(_without_secrets(json.loads(step.params)), os.environ)
        for reference, error in unresolved.items():
            ctx.fail(f"{subject}: {reference}", error.message, expected="a value", hint=error.hint or "")
        try:
            with as_target_error(subject):
                needs = _needs_of(step, given, ctx.targets)
        except MaintdError as error:
            if not unresolved:  # else it may be about a reference in place of a value
                hint = error.hint or "run: maintd validate"
                ctx.fail(subject, error.message, expected="a job that can run", hint=hint)
            continue
        yield needs


def examine(ctx: Context, needs: Needs, time_limit: timedelta, *, named: bool = False) -> None:
    """Exercise the requirements of all targets at once, each target within the time limit, and report them.

    named: the entries were chosen by name, so that one of which nothing runs is unknown, and not left to the site.
    """
    for entry, reasons in needs.idle.items():
        missing = ", ".join(f"{_in_words(unconfigured.subject)} ({step})" for step, unconfigured in reasons)
        text = f"not_configured: nothing of it runs without {missing}"
        hint = "; ".join(dict.fromkeys(unconfigured.hint for _, unconfigured in reasons))
        name = f"entry {entry}: configured"
        ctx.unknown(name, text, expected="a step that runs", hint=hint, optional=not named)
    for unconfigured, entries in needs.unconfigured.items():
        text = f"not_configured: the steps of {', '.join(entries)} that need it are skipped"
        name = f"{unconfigured.subject}: configured"
        ctx.unknown(name, text, expected="configured", hint=unconfigured.hint, optional=True)
    probes = [
        Probe(kind, name, partial(_examine_target, ctx.targets, kind, name, tuple(wanted.users)), time_limit)
        for (kind, name), wanted in sorted(needs.places.items())
    ]
    for probe, result in ctx.track(collect_all(probes), unit="target", total=len(probes)):
        _report(ctx, probe, needs.places[probe.kind, probe.name], result)


def _needs_of(step: ExaminedStep, given: Any, targets: Targets) -> StepNeeds:
    """What a step needs. `given` are its params. Raises JobError for those that are not valid."""
    module = open_module(step.path)
    traits = traits_of(module)
    params_type: type[JobParams] = getattr(module, "Params", JobParams)
    try:
        params = params_type.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise JobError(f"params: {where}: {first['msg']}", "correct the params of the entry") from None
    kinds = [need for need in traits.needs if not any(targets.of(kind) for kind in need.split(" or "))]
    requires = traits.requires
    found = list(default_requirements(traits.needs, targets, params) if requires is None else requires(targets, params))
    return StepNeeds(
        step,
        kinds=tuple(map(_no_target, kinds)),
        others=tuple(one for one in found if isinstance(one, Unconfigured)),
        requirements=tuple(
            one
            for one in found
            if isinstance(one, Requirement) and not has_reference(one.target)  # its value is unknown
        ),
    )


def _in_words(subject: str) -> str:
    """`a secrets target` for `secrets`, `the folder backups` for `folders backups`, and others as they are."""
    kind, _, name = subject.partition(" ")
    if kind not in Targets.model_fields:
        return subject
    if name and " or " not in subject:
        return f"the {kind.removesuffix('s')} {name}" if kind == "folders" else f"the {kind} target {name}"
    return f"{'an' if kind[0] in 'aeio' else 'a'} {subject} target"


def _no_target(kinds: str) -> Unconfigured:
    """That there is no target of these kinds, `prometheus or alertmanager`, or none with that name, `folders NAME`."""
    kind, _, name = kinds.partition(" ")
    settings = " or ".join(f"targets.{one}" for one in kinds.split(" or "))
    setting = f"targets.{kind}.{name}" if name and " or " not in kinds else settings
    return Unconfigured(kinds, f"set {setting} in the calendar")


def _without_secrets(value: Any) -> Any:
    """The params without the secrets of the calendar, which no requirement uses."""
    if isinstance(value, str):
        return MASK if "${secret:" in value else value
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_secrets(item) for key, item in value.items()}
    return value


def _examine_target(targets: Targets, kind: str, name: str, requirements: Sequence[Requirement]) -> Examined:
    with opened(targets, kind, name) as (connection, first):
        answered()
        seen: dict[Requirement, str | MaintdError] = {}
        for requirement in requirements:
            try:
                with as_target_error(requirement.name):
                    seen[requirement] = requirement.exercise(connection)
            except MaintdError as error:
                seen[requirement] = error
                if isinstance(error, TargetError) and error.cause in ("timed_out", "partial"):
                    break  # every other exercise would wait as long
        return Examined(first, seen, _clock(connection))


def _clock(connection: Any) -> ClockOffset | TargetError | None:
    """The clock of a server whose answers have its time; None for others."""
    try:
        with as_target_error("clock"):
            sent = time.time()
            match connection:
                case Postgres():
                    row = connection.one("SELECT extract(epoch FROM clock_timestamp())::float8 AS now")
                    return clock_offset(row["now"], sent, time.time())
                case RedisServer():
                    micros = connection.info("server").get("server_time_usec", 0)
                    return clock_offset(float(micros) / 1e6, sent, time.time()) if micros else None
                case Docker():
                    at = connection.system_time()
                    return clock_offset(at.timestamp(), sent, time.time())
                case Service():
                    return clock_of_answer(connection.answer) if "date" in connection.answer.headers else None
                case _:
                    return None
    except TargetError as error:
        return error


def _report(ctx: Context, probe: Probe, wanted: Wanted, result: Examined | MaintdError) -> None:
    if isinstance(result, MaintdError):
        entries = list(dict.fromkeys(entry for users in wanted.users.values() for entry in users))
        name = f"{probe.subject}: {'found' if probe.kind in LOCAL_KINDS else 'answers'}"
        _report_failure(ctx, name, result, entries)
        return
    if probe.kind not in LOCAL_KINDS:
        ctx.passed(f"{probe.subject}: answers", result.first, expected="an answer")
    for requirement, entries in wanted.users.items():
        if requirement.need == "answers":
            continue
        seen = result.seen.get(requirement, _NOT_TRIED)
        if isinstance(seen, str):
            ctx.passed(requirement.name, seen, expected=_users(entries))
        elif requirement.optional:
            cause = seen.cause if isinstance(seen, TargetError) else "failed"
            text, hint = f"{cause}: {seen.message}", seen.hint or hint_for(cause)
            ctx.unknown(requirement.name, text, expected=_users(entries), hint=hint, optional=True)
        else:
            _report_failure(ctx, requirement.name, seen, entries)
    if result.clock is not None:
        report_clock(ctx, probe.subject, result.clock, ClockLimits(), optional=isinstance(result.clock, TargetError))


def _report_failure(ctx: Context, name: str, error: MaintdError, entries: Sequence[str]) -> None:
    """What a job needs and does not have fails: its run would not do what it should."""
    ctx.report_error(name, error, expected=_users(entries), role=Role.WORK)


def _users(entries: Sequence[str]) -> str:
    more = f" and {len(entries) - _SHOWN_USERS} more" if len(entries) > _SHOWN_USERS else ""
    return f"works, for {', '.join(entries[:_SHOWN_USERS])}{more}"
