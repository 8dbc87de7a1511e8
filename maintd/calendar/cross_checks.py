"""Checks across entries: `after`, `formerly`, blackouts and locks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import combinations, islice, pairwise

from maintd.calendar.entries import ReadEntry, schedule_node
from maintd.calendar.value_readers import NodeReader, unknown
from maintd.config.yaml_tree import Node
from maintd.model.entry import Entry, LockMode, OnFailure, Proof, Rule, StepPlan, merged_locks
from maintd.schedule import Schedule, compile_rule, first_outside, local_text, upcoming
from maintd.units import format_duration

CONFLICT_HORIZON = timedelta(days=400)
"""How far ahead lock conflicts are searched: a year, plus the days by which a yearly date can move."""

BLACKOUT_HORIZON = timedelta(days=4 * 366)
"""Within this time an entry must have a due time outside of its blackouts."""

MAX_DUE_TIMES = 200_000
"""Of all schedules together in the search for lock conflicts, about 0.25 s; each schedule gets an equal share."""

MAX_PAIRS = 20
"""Conflicts that are reported."""


def check_entries(scope: NodeReader, read: Sequence[ReadEntry], now: datetime) -> None:
    """Add errors and warnings about entries that do not fit together. Entries with errors of their own are left out."""
    names = [each.key.text for each in read]
    _formerly(scope, read, set(names))
    _after(scope, read, sorted(names))
    _follow_ups(scope, read, sorted(names))
    _gates(scope, read, sorted(names))
    _rehearsals(scope, read, sorted(names))
    timed = [
        _Timed(each.entry, each.entry.rule, compile_rule(each.entry.rule), each)
        for each in read
        if each.entry is not None and each.entry.rule is not None and each.entry.enabled
    ]
    for each in timed:
        _blackout(scope, each, now)
    _lock_conflicts(scope, timed, now)


@dataclass(frozen=True)
class _Timed:
    """An enabled entry with its schedule."""

    entry: Entry
    rule: Rule
    schedule: Schedule
    read: ReadEntry

    @property
    def node(self) -> Node:
        return schedule_node(self.read)


def _formerly(scope: NodeReader, read: Sequence[ReadEntry], names: set[str]) -> None:
    successors: dict[str, str] = {}
    for each in read:
        old = each.formerly
        if old is None:
            continue
        within, node = scope.within(f'entry "{each.key.text}"'), each.fields["formerly"][1]
        if old in names:
            within.error(node, f'formerly: "{old}" is still an entry; remove that entry or this line')
        elif old in successors:
            within.error(
                node, f'formerly: entry "{successors[old]}" also continues the history of "{old}"; only one entry can'
            )
        successors.setdefault(old, each.key.text)


def _after(scope: NodeReader, read: Sequence[ReadEntry], names: list[str]) -> None:
    needs = {each.key.text: each.after.entry for each in read if each.after}
    entries = {each.key.text: each.entry for each in read}
    reported: set[str] = set()
    for each in read:
        name = each.key.text
        if name not in needs:
            continue
        within, node = scope.within(f'entry "{name}"'), each.fields["after"][1]
        needed = entries.get(needs[name])
        if needs[name] not in entries:
            within.error(node, f"after: {unknown('entry', needs[name], names, 'name an entry of this calendar')}")
        elif needed is not None and not needed.enabled and not (each.after and each.after.if_configured):
            within.warn(node, f'after: entry "{needed.name}" is disabled, so this one is always skipped')
        cycle = _find_cycle(name, needs)
        if cycle and not reported & set(cycle):
            reported.update(cycle)
            chain = " needs ".join(f'"{link}"' for link in (*cycle, cycle[0]))
            within.error(node, f"after: a cycle, none of them can ever start: {chain}; remove one after")


def _follow_ups(scope: NodeReader, read: Sequence[ReadEntry], names: list[str]) -> None:
    """Errors of `on_failure: {run: …}`."""
    for each in read:
        if each.entry is None or "on_failure" not in each.fields:
            continue
        within, node = scope.within(f'entry "{each.key.text}"'), each.fields["on_failure"][1]
        policy, steps = each.entry.policy, each.entry.steps
        other = policy.on_failure_run
        if other and other not in names:
            within.error(node, f"on_failure: {unknown('entry', other, names, 'name an entry of this calendar')}")
        elif other == each.entry.name:
            within.error(node, "on_failure: the entry cannot run itself; use retries, or another entry")
        if policy.on_failure is OnFailure.UNDO and not any(step.undoes for step in steps):
            within.error(node, "on_failure: undo has nothing to undo; give a step an undo: {job: NAME}")


def _rehearsals(scope: NodeReader, read: Sequence[ReadEntry], names: list[str]) -> None:
    """Errors of `window: {rehearsal: …}`."""
    for each in read:
        window = None if each.entry is None else each.entry.policy.window
        if window is None or not window.rehearsal:
            continue
        within, node = scope.within(f'entry "{each.key.text}"'), each.fields["window"][1]
        if window.rehearsal not in names:
            otherwise = "name an entry with the job rehearsal, or with one of your own"
            within.error(node, f"window: rehearsal: {unknown('entry', window.rehearsal, names, otherwise)}")
        elif window.rehearsal == each.key.text:
            within.error(node, "window: rehearsal: the entry cannot rehearse itself; name another entry")


@dataclass(frozen=True)
class _Proved:
    """An item of a gate with a proof. `earlier` are the steps with a job before the gate, which may be its proof."""

    read: ReadEntry
    node: Node  # of the gate
    text: str
    proof: Proof
    earlier: Sequence[str]
    steps: Sequence[StepPlan]


def _proved_items(scope: NodeReader, read: Sequence[ReadEntry]) -> Iterator[_Proved]:
    for each in read:
        if each.entry is None or "steps" not in each.fields:
            continue
        main = [step for step in each.entry.steps if not step.always and not step.undoes]
        nodes = scope.items(each.fields["steps"][1])
        for index, (step, node) in enumerate(zip(main, nodes, strict=False)):
            earlier = [before.name for before in main[:index] if before.gate is None]
            for item in () if step.gate is None else step.gate.checklist:
                if item.proof is not None:
                    yield _Proved(each, node, item.text, item.proof, earlier, each.entry.steps)


def _gates(scope: NodeReader, read: Sequence[ReadEntry], names: list[str]) -> None:
    """Errors of gates that can never be passed: a proof of what does not exist, comes later, or waits for the gate."""
    proved = list(_proved_items(scope, read))
    enabled = {each.key.text: each.entry is None or each.entry.enabled for each in read}
    for each in proved:
        within, proof = scope.within(f'entry "{each.read.key.text}": gate'), each.proof
        problem = _proof_problem(each, names)
        if problem:
            within.error(each.node, f'"{each.text}": proof: {problem}')
        elif proof.entry is not None and not enabled[proof.entry]:
            within.warn(each.node, f'"{each.text}": proof: entry "{proof.entry}" is disabled, so it is not started')
    _require_order(scope, read, proved)
    _reminders(scope, read)


def _reminders(scope: NodeReader, read: Sequence[ReadEntry]) -> None:
    """Warnings about reminders of gates that would come after the last moment for work in a window."""
    for each in read:
        window = None if each.entry is None else each.entry.policy.window
        if each.entry is None or window is None or "steps" not in each.fields:
            continue
        work = window.lasts - window.rollback_by
        main = [step for step in each.entry.steps if not step.always and not step.undoes]
        for step, node in zip(main, scope.items(each.fields["steps"][1]), strict=False):
            if step.gate is not None and step.gate.remind is not None and step.gate.remind >= work:
                scope.within(f'entry "{each.key.text}": gate').warn(
                    node,
                    f"remind {format_duration(step.gate.remind)} never reminds: the window leaves "
                    f"{format_duration(work)} for work; make remind shorter",
                )


def _require_order(scope: NodeReader, read: Sequence[ReadEntry], proved: Sequence[_Proved]) -> None:
    """Errors of entries that wait for each other: none of them could ever end with a success."""
    needs: dict[str, dict[str, str]] = defaultdict(dict)  # entry → what it needs → by which key
    for before in read:
        if before.after is not None:
            needs[before.key.text][before.after.entry] = "after"
    for item in proved:
        if item.proof.entry is not None:
            needs[item.read.key.text][item.proof.entry] = "a proof"
    reported: set[str] = set()
    for item in proved:
        first, second = item.read.key.text, item.proof.entry
        if second is None or second == first or reported >= {first, second}:
            continue
        path = _find_path(second, first, needs)
        if path:
            reported.update(path)
            cycle = [first, *path]
            chain = ", ".join(f'"{one}" needs "{other}" ({needs[one][other]})' for one, other in pairwise(cycle))
            scope.within(f'entry "{first}": gate').error(
                item.node,
                f'"{item.text}": proof: a cycle, none of them can ever succeed: {chain}; remove one proof or after',
            )


def _find_path(start: str, end: str, needs: Mapping[str, Iterable[str]]) -> list[str] | None:
    """The names from `start` to `end`, each of which needs the next; None when there is no such way."""
    paths = [[start]]
    seen = {start}
    while paths:
        path = paths.pop(0)
        if path[-1] == end:
            return path
        following = [name for name in needs.get(path[-1], ()) if name not in seen]
        seen.update(following)
        paths += [[*path, name] for name in following]
    return None


def _proof_problem(item: _Proved, names: list[str]) -> str | None:
    """Why a proof can never be there; None when it can."""
    proof = item.proof
    if proof.entry is not None:
        if proof.entry == item.read.key.text:
            return "an entry cannot prove itself; name another entry, or a step"
        return None if proof.entry in names else unknown("entry", proof.entry, names, "name an entry of this calendar")
    name = proof.step if proof.step is not None else (proof.check or "").partition("/")[0]
    if name in item.earlier:
        return None
    otherwise = f"steps before this gate: {', '.join(item.earlier) or 'none'}"
    step = next((step for step in item.steps if step.name == name), None)
    if step is not None and step.gate is not None:
        return f'step "{name}" is a gate, and proves nothing; {otherwise}'
    if step is not None:
        return f'step "{name}" runs after this gate; move it before the gate, or name another step; {otherwise}'
    return unknown("step", name, item.earlier, otherwise)


def _find_cycle(start: str, needs: Mapping[str, str]) -> list[str] | None:
    path = [start]
    seen = {start}
    while path[-1] in needs:
        following = needs[path[-1]]
        if following == start:
            return path
        if following in seen:
            return None
        path.append(following)
        seen.add(following)
    return None


def _blackout(scope: NodeReader, each: _Timed, now: datetime) -> None:
    blackouts = each.entry.policy.blackout
    if not blackouts or each.schedule.next_after(now) is None:
        return
    if first_outside(each.schedule, blackouts, each.rule.timezone, now, now + BLACKOUT_HORIZON) is None:
        scope.within(f'entry "{each.entry.name}"').error(
            each.read.fields["blackout"][0] if "blackout" in each.read.fields else each.read.key,
            "the blackout covers every due time of the next 4 years; change it, or write enabled: false",
        )


def _lock_conflicts(scope: NodeReader, timed: Sequence[_Timed], now: datetime) -> None:
    """Warn about entries that are due at the same time and need the same lock, at least one of them exclusively."""
    holders: dict[str, dict[Schedule, list[tuple[_Timed, LockMode]]]] = defaultdict(lambda: defaultdict(list))
    for each in timed:
        for lock, mode in merged_locks(each.entry.steps).items():
            holders[lock][each.schedule].append((each, mode))
    contested = {
        lock: groups
        for lock, groups in holders.items()
        if sum(map(len, groups.values())) > 1 and any(_any_exclusive(held) for held in groups.values())
    }
    schedules = {schedule for groups in contested.values() for schedule in groups}
    share = MAX_DUE_TIMES // max(1, len(schedules))
    times = {schedule: list(islice(upcoming(schedule, now, now + CONFLICT_HORIZON), share)) for schedule in schedules}
    found: dict[tuple[str, str], tuple[_Timed, _Timed, datetime, list[str]]] = {}
    for lock, groups in sorted(contested.items()):
        at_once: dict[datetime, list[Schedule]] = defaultdict(list)
        for schedule in groups:
            for at in times[schedule]:
                at_once[at].append(schedule)
        seen: set[tuple[Schedule, ...]] = set()
        for at, there in sorted(at_once.items(), key=lambda item: item[0]):
            if tuple(there) not in seen and len(found) < MAX_PAIRS:
                seen.add(tuple(there))
                _add_pairs(found, [held for schedule in there for held in groups[schedule]], lock, at)
    for first, second, at, locks in found.values():
        _warn(scope, first, second, at, locks)


def _add_pairs(
    found: dict[tuple[str, str], tuple[_Timed, _Timed, datetime, list[str]]],
    there: Sequence[tuple[_Timed, LockMode]],
    lock: str,
    at: datetime,
) -> None:
    for pair in combinations(there, 2):
        if len(found) >= MAX_PAIRS:
            return
        if _any_exclusive(pair):
            first, second = sorted((each for each, _ in pair), key=lambda each: each.entry.line)
            locks = found.setdefault((first.entry.name, second.entry.name), (first, second, at, []))[3]
            if lock not in locks:
                locks.append(lock)


def _warn(scope: NodeReader, first: _Timed, second: _Timed, at: datetime, locks: Sequence[str]) -> None:
    wait = format_duration(second.entry.policy.lock_wait)
    named = ", ".join(f'"{lock}"' for lock in locks)
    scope.within(f'entry "{second.entry.name}"').warn(
        second.node,
        f'is due at the same time as "{first.entry.name}", first {local_text(at, second.rule.timezone)}, and both need '
        f"the lock {named}: one waits for the other, at most its lock_wait of {wait}; change one of the schedules",
    )


def _any_exclusive(held: Iterable[tuple[_Timed, LockMode]]) -> bool:
    return any(mode == "exclusive" for _, mode in held)
