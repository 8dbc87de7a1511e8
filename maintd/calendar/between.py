"""What can be wrong between entries that are right by themselves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice

from maintd.calendar.entries import ReadEntry, schedule_node
from maintd.calendar.policies import unknown
from maintd.calendar.reading import Scope
from maintd.model import Entry, LockMode
from maintd.schedule import Schedule, compile_rule, first_outside, local_text, upcoming
from maintd.values import format_duration

HORIZON = timedelta(days=400)
"""How far ahead collisions are looked for: a year, and what a yearly date can move by."""

FAR = timedelta(days=4 * 366)
"""How far ahead a blackout must leave a due time free."""

MOST_INSTANTS = 400_000
"""Of all entries together in one look for collisions, about half a second; each entry has an equal share."""

MOST_PAIRS = 50


def check_between(scope: Scope, read: Sequence[ReadEntry], names: Iterable[str], now: datetime) -> None:
    """Note what does not fit together. `names` are those of all entries, the mistaken ones included."""
    _formerly(scope, read, set(names))
    _after(scope, read, sorted(names))
    _blackouts(scope, read, now)
    _collisions(scope, read, now)


def _formerly(scope: Scope, read: Sequence[ReadEntry], names: set[str]) -> None:
    heirs: dict[str, str] = {}
    for each in read:
        old = each.entry.formerly
        if old is None:
            continue
        within, node = scope.within(f'entry "{each.entry.name}"'), each.fields["formerly"][1]
        if old in names:
            within.error(node, f'formerly: "{old}" is still an entry; remove that one or this line')
        elif old in heirs:
            within.error(node, f'formerly: entry "{heirs[old]}" is called so too; one entry can go on with a history')
        heirs.setdefault(old, each.entry.name)


def _after(scope: Scope, read: Sequence[ReadEntry], names: list[str]) -> None:
    needs = {each.entry.name: each.entry.policy.after.entry for each in read if each.entry.policy.after}
    entries = {each.entry.name: each.entry for each in read}
    reported: set[str] = set()
    for each in read:
        name = each.entry.name
        if name not in needs:
            continue
        within, node = scope.within(f'entry "{name}"'), each.fields["after"][1]
        needed = needs[name]
        if needed not in names:
            within.error(node, f"after: {unknown('entry', needed, names, 'name an entry of this calendar')}")
        elif needed in entries and not entries[needed].enabled:
            within.warn(node, f'after: entry "{needed}" is not enabled, so this one will be skipped')
        circle = _circle(name, needs)
        if circle and not reported & set(circle):
            reported.update(circle)
            chain = " needs ".join(f'"{link}"' for link in (*circle, circle[0]))
            within.error(node, f"after: each waits for the other: {chain}; remove one after")


def _circle(start: str, needs: Mapping[str, str]) -> list[str] | None:
    path = [start]
    while path[-1] in needs:
        following = needs[path[-1]]
        if following == start:
            return path
        if following in path:
            return None
        path.append(following)
    return None


def _blackouts(scope: Scope, read: Sequence[ReadEntry], now: datetime) -> None:
    for each in read:
        rule, blackouts = each.entry.rule, each.entry.policy.blackout
        if rule is None or not blackouts or not each.entry.enabled:
            continue
        schedule = compile_rule(rule)
        if schedule.next_after(now) is None:
            continue
        if first_outside(schedule, blackouts, rule.timezone, now, now + FAR) is None:
            scope.within(f'entry "{each.entry.name}"').error(
                each.fields["blackout"][0] if "blackout" in each.fields else each.key,
                "its blackout covers every due time of the next years; change one of them, or write enabled: false",
            )


def _collisions(scope: Scope, read: Sequence[ReadEntry], now: datetime) -> None:
    """Warn of entries that are due at one instant and need one lock, at least one of them alone."""
    holders: dict[str, list[tuple[ReadEntry, LockMode]]] = defaultdict(list)
    for each in read:
        if each.entry.enabled and each.entry.rule is not None:
            for lock, mode in _locks(each.entry).items():
                holders[lock].append((each, mode))
    contested = {lock: held for lock, held in holders.items() if len(held) > 1 and _alone(mode for _, mode in held)}
    schedules = {id(_schedule(each)): _schedule(each) for held in contested.values() for each, _ in held}
    share = MOST_INSTANTS // max(1, len(schedules))
    times = {
        key: frozenset(islice(upcoming(schedule, now, now + HORIZON), share)) for key, schedule in schedules.items()
    }
    pairs: dict[tuple[str, str], tuple[ReadEntry, ReadEntry, datetime, list[str]]] = {}
    for lock, held in sorted(contested.items()):
        by_instant: dict[datetime, list[tuple[ReadEntry, LockMode]]] = defaultdict(list)
        for each, mode in held:
            for at in times[id(_schedule(each))]:
                by_instant[at].append((each, mode))
        for at in sorted(at for at, there in by_instant.items() if len(there) > 1):
            _note(pairs, by_instant[at], lock, at)
            if len(pairs) > MOST_PAIRS:
                break
    for first, second, at, locks in pairs.values():
        assert second.entry.rule is not None
        wait = format_duration(second.entry.policy.lock_wait)
        named = " and ".join(f'"{lock}"' for lock in locks)
        when = local_text(at, second.entry.rule.timezone)
        scope.within(f'entry "{second.entry.name}"').warn(
            schedule_node(second),
            f'is due at the same instant as "{first.entry.name}", first {when}, and both need the lock {named}: one '
            f"waits for the other, at most its lock_wait of {wait}; move one of them",
        )


def _note(
    pairs: dict[tuple[str, str], tuple[ReadEntry, ReadEntry, datetime, list[str]]],
    there: Sequence[tuple[ReadEntry, LockMode]],
    lock: str,
    at: datetime,
) -> None:
    first, first_mode = next(((each, mode) for each, mode in there if mode == "exclusive"), there[0])
    for each, mode in there:
        if each is first or not _alone((mode, first_mode)):
            continue
        earlier, later = sorted((first, each), key=lambda side: side.entry.line)
        names = (earlier.entry.name, later.entry.name)
        known = pairs.get(names)
        if known is None:
            pairs[names] = (earlier, later, at, [lock])
        elif lock not in known[3]:
            known[3].append(lock)


def _alone(modes: Iterable[LockMode]) -> bool:
    return "exclusive" in modes


def _locks(entry: Entry) -> dict[str, LockMode]:
    found: dict[str, LockMode] = {}
    for step in entry.steps:
        for lock, mode in step.locks.items():
            found[lock] = "exclusive" if "exclusive" in (mode, found.get(lock)) else "shared"
    return found


def _schedule(read: ReadEntry) -> Schedule:
    assert read.entry.rule is not None
    return compile_rule(read.entry.rule)
