"""One entry of the calendar: its schedule, its steps and its policy."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from maintd.calendar.policies import POLICY_KEYS, read_after, read_locks, read_policy
from maintd.calendar.procedures import read_on_failure, read_window, with_undo
from maintd.calendar.steps import StepReader, with_unique_names
from maintd.calendar.value_readers import NodeReader, overlaid
from maintd.config.yaml_tree import Node, ScalarNode
from maintd.model.entry import After, Entry, Policy, Rule, ScheduleKind, StepPlan
from maintd.schedule import compile_rule, describe, uneven_steps, zone_problem

DEFAULT_KEYS = (*POLICY_KEYS, "on_failure", "jitter")
SCHEDULE_KEYS = ("schedule", "cron", "oncalendar", "every", "at")
ENTRY_KEYS = (
    "title",
    "runbook",
    *SCHEDULE_KEYS,
    "timezone",
    "job",
    "params",
    "steps",
    "always",
    *POLICY_KEYS,
    "on_failure",
    "window",
    "after",
    "locks",
    "jitter",
    "notify",
    "ping",
    "enabled",
    "formerly",
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_KINDS = {
    "schedule": ScheduleKind.PHRASE,
    "cron": ScheduleKind.CRON,
    "oncalendar": ScheduleKind.ONCALENDAR,
    "every": ScheduleKind.EVERY,
    "at": ScheduleKind.AT,
}

_Fields = Mapping[str, tuple[ScalarNode, Node]]


@dataclass(frozen=True)
class Defaults:
    """The values of an entry that has none of its own."""

    timezone: str
    policy: Mapping[str, Any]
    jitter: timedelta = timedelta(0)


@dataclass(frozen=True)
class ReadEntry:
    """An entry with its nodes, for the positions of later errors; `entry` is None if the entry has an error."""

    key: ScalarNode
    fields: _Fields
    entry: Entry | None
    after: After | None
    formerly: str | None


def read_defaults(scope: NodeReader, node: Node | None, timezone: str) -> Defaults:
    """The calendar's `defaults`."""
    if node is None:
        return Defaults(timezone, {})
    within = scope.within("defaults")
    fields = within.fields(node, "defaults", DEFAULT_KEYS)
    policy = {**read_policy(within, fields, timezone), **_on_failure(within, fields)}
    return Defaults(timezone, policy, _jitter(within, fields) or timedelta(0))


def read_entry(
    scope: NodeReader, key: ScalarNode, node: Node, defaults: Defaults, steps: StepReader, now: datetime
) -> ReadEntry:
    """Read an entry; adds its errors and warnings to the scope."""
    name = key.text
    within = scope.within(f'entry "{name}"')
    before = len(scope.problems.errors)
    if not _NAME.fullmatch(name):
        within.error(key, "a name has at most 100 letters, digits, - _ and ., and begins with a letter or a digit")
    fields = within.fields(node, "an entry", ENTRY_KEYS)
    timezone = _timezone(within, fields) or defaults.timezone
    given = {**read_policy(within, fields, timezone), **_on_failure(within, fields)}
    policy = Policy(**{**defaults.policy, **given})
    if "window" in fields:
        policy = policy.model_copy(update={"window": read_window(within, fields["window"][1])})
    after = read_after(within, fields["after"][1]) if "after" in fields else None
    if after is not None:
        policy = policy.model_copy(update={"after": after})
    rule = _rule(within, fields, timezone, defaults.jitter)
    plan = _steps(within, key, fields, steps)
    if policy.window is None:
        _refuse_confined(within, fields, plan)
    enabled = within.flag(fields["enabled"][1], "enabled") if "enabled" in fields else True
    texts = {
        field: within.text(fields[field][1], field) or ""
        for field in ("title", "runbook", "formerly")
        if field in fields
    }
    formerly = texts.get("formerly") or None
    if len(scope.problems.errors) > before or not plan:
        return ReadEntry(key, fields, None, after, formerly)
    entry = Entry(
        name=name,
        title=texts.get("title") or title_of(name),
        runbook=texts.get("runbook", ""),
        rule=rule,
        timezone=timezone,
        steps=plan,
        policy=policy,
        enabled=bool(enabled),
        formerly=formerly,
        line=key.line,
        overlaid=overlaid(pair for name, pair in fields.items() if name != "params"),
    )
    _warn(within, entry, fields, now)
    return ReadEntry(key, fields, entry, after, formerly)


def title_of(name: str) -> str:
    """`morning-health-check` → `Morning health check`."""
    words = re.sub(r"[-_.]+", " ", name).strip()
    return words[:1].upper() + words[1:]


def schedule_node(read: ReadEntry) -> Node:
    """The node of its schedule, or of its name if it has no schedule."""
    return next((read.fields[key][1] for key in SCHEDULE_KEYS if key in read.fields), read.key)


def _timezone(scope: NodeReader, fields: _Fields) -> str | None:
    if "timezone" not in fields:
        return None
    name = scope.text(fields["timezone"][1], "timezone")
    problem = None if name is None else zone_problem(name)
    if problem:
        scope.error(fields["timezone"][1], problem)
        return None
    return name


def _jitter(scope: NodeReader, fields: _Fields) -> timedelta | None:
    return scope.duration(fields["jitter"][1], "jitter") if "jitter" in fields else None


def _rule(scope: NodeReader, fields: _Fields, timezone: str, jitter: timedelta) -> Rule | None:
    own = _jitter(scope, fields)
    given = [key for key in SCHEDULE_KEYS if key in fields]
    if len(given) > 1:
        scope.error(fields[given[1]][0], f"an entry has one schedule; keep one of {', '.join(given)}")
        return None
    if not given:
        return None
    node = fields[given[0]][1]
    text = scope.text(node, given[0])
    if text is None:
        return None
    rule = Rule(kind=_KINDS[given[0]], text=text, timezone=timezone, jitter=jitter if own is None else own)
    try:
        compile_rule(rule)
    except ValueError as error:
        scope.error(node, f"{given[0]}: {error}")
        return None
    return rule


def _on_failure(scope: NodeReader, fields: _Fields) -> dict[str, Any]:
    if "on_failure" not in fields:
        return {}
    how, run = read_on_failure(scope, fields["on_failure"][1])
    return {"on_failure_run": run} | ({} if how is None else {"on_failure": how})


def _steps(scope: NodeReader, key: ScalarNode, fields: _Fields, steps: StepReader) -> tuple[StepPlan, ...]:
    locks = read_locks(scope, fields["locks"][1]) if "locks" in fields else {}
    found: list[StepPlan] = []
    undo: list[StepPlan | None] = []
    if "job" in fields and "steps" in fields:
        scope.error(fields["job"][0], "an entry has job or steps, not both; make the job the first of the steps")
    elif "job" in fields:
        params = fields["params"][1] if "params" in fields else None
        step = steps.one(scope, fields["job"][1], params, locks)
        found += [] if step is None else [step]
    elif "steps" in fields:
        if "params" in fields:
            scope.error(fields["params"][0], "params belong to a step; write steps: [{job: NAME, params: {…}}]")
        read = steps.steps_with_undo(scope, fields["steps"][1], locks, always=False)
        found += [step for step, _ in read]
        undo += [undoing for _, undoing in read]
        if not scope.items(fields["steps"][1]):
            scope.error(fields["steps"][1], "steps is empty; name at least one job")
    else:
        scope.error(key, "the entry has no steps; write steps: [NAME, …] or job: NAME")
    if "always" in fields:
        found += steps.steps(scope, fields["always"][1], locks, always=True)
    named = with_unique_names(found)
    return with_undo(named, {step.name: each for step, each in zip(named, undo, strict=False) if each is not None})


def _refuse_confined(scope: NodeReader, fields: _Fields, plan: Sequence[StepPlan]) -> None:
    """Add an error for each step whose job runs only in a window; the entry has none."""
    undone = {step.undoes for step in plan if step.undoes and step.only_in_window}
    for key, always in (("steps", False), ("always", True)):
        items = scope.items(fields[key][1]) if key in fields else ()
        steps = [step for step in plan if step.always is always and not step.undoes]
        for node, step in zip(items, steps, strict=False):
            if step.only_in_window or step.name in undone:
                what = f'job "{step.job}"' if step.only_in_window else f'the undo of "{step.name}"'
                scope.error(node, f"{what} runs only in a window; give the entry one, as window: {{lasts: 2h}}")
    if "job" in fields and any(step.only_in_window for step in plan):
        scope.error(fields["job"][1], f'job "{plan[0].job}" runs only in a window; add window: {{lasts: 2h}}')


def _warn(scope: NodeReader, entry: Entry, fields: _Fields, now: datetime) -> None:
    if entry.rule is not None and entry.rule.kind is ScheduleKind.CRON:
        for field in uneven_steps(entry.rule.text):
            scope.warn(
                fields["cron"][1],
                f'"{field}" is not an interval, for it begins again at 0: due {describe(entry.rule)}; '
                "for an interval use the key `every`",
            )
    if "retries" in fields and entry.policy.retries and not any(step.repeatable for step in entry.steps):
        scope.warn(fields["retries"][1], "retries has no effect: none of its jobs is repeatable")
    if entry.enabled and entry.rule is not None and compile_rule(entry.rule).next_after(now) is None:
        node = next(fields[key][1] for key in SCHEDULE_KEYS if key in fields)
        scope.warn(node, f'"{entry.rule.text}" is in the past; remove the entry or write enabled: false')
