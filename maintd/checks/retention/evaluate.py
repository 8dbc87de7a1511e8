"""Compare what there is of a class with its policy, in both directions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise

from maintd.checks.hints import name_first
from maintd.checks.retention.observed import Observed
from maintd.checks.retention.policy import DataClass
from maintd.job.context import Context
from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus
from maintd.reports.document import Cell, Line, Section, Table, columns
from maintd.units import format_duration

CLOCKS = timedelta(minutes=5)
"""Tolerated difference between the clocks of two machines."""

AGREE = "dates and modification times agree"
"""The name of a check that concerns no retention."""

DAY = timedelta(days=1)
HELD = "retention_held_since"
"""The measure that keeps from when the oldest data of a class is that was seen under a hold, in Unix time."""

VIOLATIONS = "retention_violations"
"""The measure of how many checks of a class failed or warned."""

DELETES = {
    "folder": "log_cleanup deletes rotated logs, if it is of that folder: maintd run log_cleanup --here --dry-run",
    "backup_sets": "backup deletes sets beyond its params keep: maintd run backup --here --dry-run",
    "table": "its owner deletes rows; maintd does not",
    "prometheus": "set --storage.tsdb.retention.time",
    "loki": "set limits_config.retention_period, with compactor.retention_enabled",
    "stream": "redis_maintenance trims streams by its param trim: maintd run redis_maintenance --here --dry-run",
    "history": "the daemon deletes old runs daily: maintd db prune",
    "reports": "reviews keep the newest of each kind by their param keep",
}
_HELD = "a legal hold forbids to delete, and requires what was there"


@dataclass
class Reviewed:
    """A class for the report."""

    name: str
    policy: DataClass
    seen: Observed | None = None
    violations: int = 0
    outcome: list[str] = field(default_factory=list)


def report_class(ctx: Context, found: Reviewed, seen: Observed, now: datetime) -> None:
    """Report one class, and measure it."""
    name, policy, found.seen = found.name, found.policy, seen
    held_before = ctx.last(HELD, None, **{"class": name}) if policy.hold else None
    for criterion in criteria(name, policy, seen, held_before, now):
        check = criterion.evaluate()
        if check.status in (CheckStatus.WARN, CheckStatus.FAIL) and not check.name.endswith(AGREE):
            found.violations += 1
        if check.status is not CheckStatus.OK:
            found.outcome.append(f"{check.status.value}: {check.name.rpartition(': ')[2]}")
        ctx.report([criterion])
    if seen.oldest_at is not None:
        if policy.hold:
            # The earliest ever seen: data that is deleted under a hold stays missing.
            seconds = seen.oldest_at.timestamp()
            ctx.measure(HELD, seconds if held_before is None else min(seconds, held_before), "", **{"class": name})
        ctx.measure("retention_oldest_days", max((now - seen.oldest_at) / DAY, 0), "day", **{"class": name})
    ctx.measure(VIOLATIONS, found.violations, "", **{"class": name})


def criteria(
    name: str, policy: DataClass, seen: Observed, held_before: float | None, now: datetime
) -> Iterator[Criterion]:
    """The criteria of a class. held_before: the time of the oldest data that was seen under the hold, Unix time."""
    if policy.personal and policy.keep_at_most is None:
        hint = f"set keep_at_most of {name}: a time after which it is deleted"
        rule = "Regulation (EU) 2016/679, article 5(1)(e): storage limitation"
        yield Criterion(f"{name}: maximum of personal data", "none", equals="a maximum", hint=hint, rule=rule)
    if seen.problems:
        hint = "give read access to it, or correct the policy"
        yield Criterion(f"{name}: seen as a whole", unknown=name_first(seen.problems), equals="all of it", hint=hint)
    newest = seen.newest_at or seen.oldest_at
    if newest is not None and newest > now + CLOCKS + _slack(seen):
        hint = "check the clock of what wrote it, and of this machine"
        which = "newest" if seen.newest_at is not None else "oldest"
        text = f"its {which} data is from {newest:%Y-%m-%d %H:%M} UTC, which is in the future"
        yield Criterion(f"{name}: clock", unknown=text, equals="nothing in the future", hint=hint)
    for param, day in _later(policy, now):
        text = f"{param} is {day:%Y-%m-%d}, which is in the future: from when on data must be there is not known"
        hint = f"correct {param} of {name}, or check the clock of this machine"
        yield Criterion(f"{name}: {param}", unknown=text, equals=f"{now:%Y-%m-%d} or earlier", hint=hint)
    conflicts = [item for item in seen.items if item.conflicts]
    if any(item.modified_at is not None for item in seen.items):
        named = [f"{item.name}: modified {item.modified_at:%Y-%m-%d}" for item in conflicts]
        yield Criterion(
            f"{name}: {AGREE}",
            len(conflicts),
            warn_above=0,
            hint=f"the date in the name counts; restored or renamed: {name_first(named)}" if named else "",
            rule="the date in the name is that of the data, the modification time that of the copy",
        )
    if seen.configured:
        yield from _of_configuration(name, policy, seen)
    if seen.examined:
        yield from _of_data(name, policy, seen, held_before, now)


def _later(policy: DataClass, now: datetime) -> list[tuple[str, date]]:
    """The days of the policy that have not come yet, UTC."""
    days = (("started", policy.started), ("hold_since", policy.hold_since))
    today = now.astimezone(UTC).date()
    return [(param, day) for param, day in days if day is not None and day > today]


def _slack(seen: Observed) -> timedelta:
    # A date without a time counts as the end of its day.
    return DAY if seen.items else timedelta(0)


def _of_configuration(name: str, policy: DataClass, seen: Observed) -> Iterator[Criterion]:
    """Whether what is configured to delete agrees with the policy."""
    check, hint = f"{name}: configured to delete", DELETES[policy.kind]
    after = seen.deletes_after
    text = "never" if after is None else f"after {format_duration(after)}"
    rule = _rule(policy)
    if policy.hold:
        wanted = f"never: {policy.hold}"
        yield Criterion(check, text, one_of=("never",), hint=f"{wanted}; {hint}", rule=_HELD)
        return
    if policy.keep_at_least is not None:
        enough = after is None or after >= policy.keep_at_least
        limit = f"after {format_duration(policy.keep_at_least)} at the earliest"
        observed = limit if enough else text
        yield Criterion(f"{check}, at the earliest", observed, equals=limit, hint=hint, rule=rule)
    if policy.keep_at_most is not None:
        soon = after is not None and after <= policy.keep_at_most + policy.grace
        limit = f"after {format_duration(policy.keep_at_most)} at the latest"
        observed = limit if soon else text
        yield Criterion(
            f"{check}, at the latest", observed, equals=limit, severity=CheckStatus.WARN, hint=hint, rule=rule
        )


def _of_data(
    name: str, policy: DataClass, seen: Observed, held_before: float | None, now: datetime
) -> Iterator[Criterion]:
    rule, oldest = _rule(policy), seen.oldest_at
    if oldest is None and seen.problems:
        return  # nothing was seen, which is reported
    missing = f"{name}: history"
    since, why = _required(policy, held_before, now)
    if oldest is None:
        hint = "check the policy: nothing is there" if since is None else f"find out what deleted it; {why}"
        if since is None:
            yield Criterion(missing, unknown="empty: there is no data", equals="data", hint=hint, rule=rule)
        else:
            yield Criterion(missing, "nothing", equals=f"data since {since:%Y-%m-%d}", hint=hint, rule=rule)
        return
    if since is not None:
        exact = held_before is not None and since.timestamp() == held_before
        kept = oldest <= since + (timedelta(seconds=1) if exact else policy.grace)
        wanted = f"since {since:%Y-%m-%d} or earlier"
        observed = wanted if kept else f"since {oldest:%Y-%m-%d}"
        hint = f"{why}; find out what deleted it, and look for it in a backup; set started if there was none before"
        if seen.problems and not kept:
            yield Criterion(missing, unknown="older data may be in what was not seen", equals=wanted, rule=rule)
        else:
            yield Criterion(missing, observed, equals=wanted, hint=hint, rule=rule)
    if policy.hold:
        if not _later(policy, now):
            yield Criterion(f"{name}: legal hold", "held", equals="held", hint=policy.hold, rule=_HELD)
    elif policy.keep_at_most is not None and oldest <= now + CLOCKS + _slack(seen):
        hint = policy.deleted_by or DELETES[policy.kind]
        age = max(now - oldest, timedelta(0))
        most = policy.keep_at_most + policy.grace
        count = sum(now - item.at > most for item in seen.items)
        text = f"{count} of {seen.count} items are too old; " if count else ""
        yield Criterion(f"{name}: oldest", age, warn_above=most, hint=f"{text}{hint}", rule=rule)
    if policy.every is not None and seen.items:
        yield _gaps(name, policy, seen, now)


def _required(policy: DataClass, held_before: float | None, now: datetime) -> tuple[datetime | None, str]:
    """From when on data must be there, and why; None: no history is required, or it is not known from when on."""
    later = dict(_later(policy, now))
    if policy.hold:
        marks = [_start_of(policy.hold_since)] if policy.hold_since and "hold_since" not in later else []
        marks += [datetime.fromtimestamp(held_before, UTC)] if held_before is not None else []
        if marks:
            return min(marks), f"hold: {policy.hold}"
        return None, ""
    if policy.keep_at_least is None or "started" in later:
        return None, ""
    since = now - policy.keep_at_least
    if policy.started is not None:
        since = max(since, _start_of(policy.started) + DAY)
    return since, f"at least {format_duration(policy.keep_at_least)} must be kept"


def _gaps(name: str, policy: DataClass, seen: Observed, now: datetime) -> Criterion:
    since, _ = _required(policy, None, now)
    times = [item.at for item in seen.items if since is None or item.at >= since - policy.grace]
    every = policy.every or timedelta(0)
    ends = [*times, now]
    gaps = [(one, after) for one, after in pairwise(ends) if after - one > every + policy.grace]
    named = [f"{one:%Y-%m-%d} to {after:%Y-%m-%d}" for one, after in gaps]
    hint = f"nothing from {name_first(named)}" if named else ""
    text = f"one each {format_duration(every)}"
    return Criterion(f"{name}: gaps", len(gaps), equals=0, hint=hint, rule=f"{_rule(policy)}; {text}")


def _start_of(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _rule(policy: DataClass) -> str:
    least = "" if policy.keep_at_least is None else f"at least {format_duration(policy.keep_at_least)}"
    most = "" if policy.keep_at_most is None else f"at most {format_duration(policy.keep_at_most)}"
    grace = f"grace {format_duration(policy.grace)}"
    personal = "personal data" if policy.personal else ""
    return f"policy of the class: {', '.join(part for part in (least, most, grace, personal) if part)}"


def section(found: Reviewed, now: datetime) -> Section:
    """The evidence of one class."""
    policy, seen = found.policy, found.seen
    origin = f"{policy.place}, {now:%Y-%m-%d %H:%M} UTC"
    lines = [Line("Policy", _rule(policy).partition(": ")[2], "params of the job")]
    if policy.hold:
        since = f" since {policy.hold_since:%Y-%m-%d}" if policy.hold_since else ""
        lines.append(Line("Legal hold", f"{policy.hold}{since}", "params of the job"))
    if seen is None:
        return Section(
            f"Class {found.name}",
            (*lines, Line("Data", "; ".join(found.outcome) or "not known", origin, mark="unknown")),
        )
    if seen.examined:
        lines.append(Line("Oldest", _day(seen.oldest_at), origin, str(seen.oldest_at or "")))
        if seen.newest_at is not None:
            lines.append(Line("Newest", _day(seen.newest_at), origin, str(seen.newest_at)))
    if seen.count is not None:
        lines.append(Line("Items", f"{seen.count:,}", origin, seen.count))
    if seen.configured:
        text = "never" if seen.deletes_after is None else f"after {format_duration(seen.deletes_after)}"
        lines.append(Line("Configured to delete", text, origin))
    lines.append(Line("Result", "; ".join(found.outcome) or "ok", origin))
    rows = tuple(
        (
            Cell(item.name),
            Cell(_day(item.at)),
            Cell("name" if item.modified_at is not None else "set" if policy.backup_sets else "modification time"),
            Cell("–" if item.modified_at is None else _day(item.modified_at), mark="warn" if item.conflicts else ""),
        )
        for item in seen.items[:10]
    )
    titles = columns("Item", "From", "By", "Modified")
    tables = (Table("Oldest items, at most 10", titles, rows),) if rows else ()
    return Section(f"Class {found.name}", tuple(lines), tables=tables, notes=seen.notes[:20])


def _day(at: datetime | None) -> str:
    return "none" if at is None else f"{at:%Y-%m-%d %H:%M}"
