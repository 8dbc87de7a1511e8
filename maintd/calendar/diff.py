"""The differences between two calendars."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from maintd.model.entry import After, Blackout, Entry, Freeze, Policy, StepPlan
from maintd.model.notice import NotifyConfig
from maintd.model.target import Targets
from maintd.present.text import utc_minute
from maintd.schedule import describe
from maintd.secret_params import reference_prefix, used_secrets
from maintd.units import format_duration

if TYPE_CHECKING:
    from maintd.calendar.loading import Calendar


_STEP_FIELDS = ("timeout", "retries", "on_failure", "locks", "mutates", "repeatable", "only_in_window", "required")


def changes_between(old: Calendar, new: Calendar) -> list[str]:
    """One line of English for each change; empty if the two calendars are equivalent."""
    before = {entry.name: entry for entry in old.entries}
    after = {entry.name: entry for entry in new.entries}
    renamed = {
        entry.formerly: name
        for name, entry in after.items()
        if entry.formerly in before and name not in before and entry.formerly not in after
    }
    changes: list[str] = []
    for name, entry in after.items():
        was = before.get(name)
        if was is None and entry.formerly in renamed:
            was = before[entry.formerly]
            changes.append(f'renamed "{was.name}" to "{name}"')
        if was is None:
            changes.append(f'added "{name}": {_schedule(entry)}')
        else:
            broken = was.name in old.broken or name in new.broken
            changes += [f'"{name}": {change}' for change in _entry_changes(was, entry, broken)]
            changes += [f'"{name}": {change}' for change in _secret_changes(entry, old.secrets, new.secrets)]
            changes += _broken_changes(name, old.broken.get(was.name), new.broken.get(name))
    changes += [f'removed "{name}"' for name in before if name not in after and name not in renamed]
    changes += _target_changes(old.targets, new.targets)
    changes += _freeze_changes(old.freezes, new.freezes)
    return changes + list(_notify_changes(old.notify, new.notify))


def _schedule(entry: Entry) -> str:
    schedule = describe(entry.rule)
    return schedule if entry.enabled else f"{schedule}, disabled"


def _entry_changes(old: Entry, new: Entry, broken: bool) -> Iterator[str]:
    if old.enabled != new.enabled and not broken:  # a broken job has a line of its own
        yield "enabled" if new.enabled else "disabled"
    if old.rule != new.rule:
        before, after = (describe(entry.rule) for entry in (old, new))
        if before == after and old.rule is not None and new.rule is not None:
            before, after = f"{old.rule.kind} {old.rule.text}", f"{new.rule.kind} {new.rule.text}"
        yield f"schedule: {before} → {after}"
    if old.title != new.title:
        yield f"title: {old.title} → {new.title}"
    if old.runbook != new.runbook:
        yield f"runbook: {old.runbook or 'none'} → {new.runbook or 'none'}"
    for field in Policy.model_fields:
        before, after = _text(getattr(old.policy, field)), _text(getattr(new.policy, field))
        if before != after:
            yield f"{field}: {before} → {after}"
    yield from _step_changes(old.steps, new.steps)


def _step_changes(old: Sequence[StepPlan], new: Sequence[StepPlan]) -> Iterator[str]:
    names_before, names_after = [_step(step) for step in old], [_step(step) for step in new]
    if names_before != names_after:
        yield f"steps: {', '.join(names_before)} → {', '.join(names_after)}"
    known = {step.name: step for step in old}
    for step in new:
        was = known.get(step.name)
        if was is None or was.job != step.job:
            continue
        for param in sorted(was.params.keys() | step.params.keys()):
            before, after = was.params.get(param), step.params.get(param)
            if before != after:
                yield f"step {step.name}: param {param}: {_param(before)} → {_param(after)}"
        for field in _STEP_FIELDS:
            before, after = _text(getattr(was, field)), _text(getattr(step, field))
            if before != after:
                yield f"step {step.name}: {field}: {before} → {after}"


def _secret_changes(entry: Entry, old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    """Only names. A secret of params is a reference in them, the same before and after."""
    for step in entry.steps:
        prefix = reference_prefix(entry.name, step.name)
        for name, secret in used_secrets(step.params, new).items():
            if old.get(name, secret) != secret:
                yield f"step {step.name}: param {name.removeprefix(prefix)} changed"


def _step(step: StepPlan) -> str:
    return f"{step.name} (always)" if step.always else step.name


def _param(value: Any) -> str:
    return "default" if value is None else json.dumps(value, ensure_ascii=False, default=str)


def _text(value: Any) -> str:
    if value is None or value in ((), {}):
        return "none"
    if isinstance(value, timedelta):
        return format_duration(value)
    if isinstance(value, After):
        return f"{value.entry} within {format_duration(value.within)}"
    if isinstance(value, Blackout):
        return _blackout(value)
    if isinstance(value, tuple):
        return "; ".join(_text(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in sorted(value.items()))
    return str(value)


def _blackout(blackout: Blackout) -> str:
    if blackout.cron is not None and blackout.lasting is not None:
        text = f"{format_duration(blackout.lasting)} from cron {blackout.cron}"
    elif blackout.holidays is not None:
        return f"holidays {blackout.holidays}"
    elif blackout.date is not None:
        text = str(blackout.date)
    else:
        text = f"{blackout.first} to {blackout.last}"
    return f"{blackout.name} ({text})" if blackout.name else text


def _broken_changes(name: str, before: str | None, after: str | None) -> list[str]:
    if before == after:
        return []
    return [f'"{name}": can run again' if after is None else f'"{name}": cannot run: {after}']


def _target_changes(old: Targets, new: Targets) -> Iterator[str]:
    """Only names, because values can be secret."""
    for kind in Targets.model_fields:
        before, after = old.of(kind), new.of(kind)
        for name in dict.fromkeys([*before, *after]):
            if name not in after:
                yield f'targets: removed {kind} "{name}"'
            elif name not in before:
                yield f'targets: added {kind} "{name}"'
            elif before[name] != after[name]:
                yield f'targets: {kind} "{name}" changed'


def _freeze_changes(old: Sequence[Freeze], new: Sequence[Freeze]) -> Iterator[str]:
    before, after = ({_freeze(freeze) for freeze in freezes} for freezes in (old, new))
    yield from (f"freezes: removed {text}" for text in sorted(before - after))
    yield from (f"freezes: added {text}" for text in sorted(after - before))


def _freeze(freeze: Freeze) -> str:
    since, until = ("" if at is None else utc_minute(at) for at in (freeze.since, freeze.until))
    return f"{freeze.entries} from {since} until {until}: {freeze.why}"


def _notify_changes(old: NotifyConfig, new: NotifyConfig) -> Iterator[str]:
    """Only names, because URLs of channels have secrets."""
    for name in dict.fromkeys([*old.channels, *new.channels]):
        if name not in new.channels:
            yield f'notify: removed channel "{name}"'
        elif name not in old.channels:
            yield f'notify: added channel "{name}"'
        elif old.channels[name] != new.channels[name]:
            yield f'notify: channel "{name}" changed'
    for name in dict.fromkeys([*old.entries, *new.entries]):
        if old.rules_of(name) != new.rules_of(name):
            yield f'notify: the rules of "{name}" changed'
    for name in dict.fromkeys([*old.pings, *new.pings]):
        if old.pings.get(name) != new.pings.get(name):
            yield f'notify: the ping of "{name}" changed'
    if old.own_ping != new.own_ping:
        yield "notify: the ping of maintd changed"
    for field in ("rules", "quiet", "digest", "page"):
        if getattr(old, field) != getattr(new, field) and (old.channels or new.channels):
            yield f"notify: {field} changed"
