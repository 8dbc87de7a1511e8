"""Which sets are kept: a number of good ones per class, never by their age alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from maintd.checks.backup_sets.layout import FoundSet


@dataclass(frozen=True)
class Keep:
    """Good sets that are kept: the last ones, and the last one of each of so many days, weeks and months with sets."""

    last: int
    daily: int
    weekly: int
    monthly: int


@dataclass(frozen=True)
class Deletion:
    """A set to delete. `successor`: the next newer one that is kept, which must be sound."""

    found: FoundSet
    successor: FoundSet
    why: str


def kept(sets: Sequence[FoundSet], keep: Keep) -> list[FoundSet]:
    """The good sets that are kept, newest first."""
    good = [one for one in sets if one.good]
    chosen = set(range(min(keep.last, len(good))))
    for count, form in ((keep.daily, "%Y-%m-%d"), (keep.weekly, "%G-%V"), (keep.monthly, "%Y-%m")):
        periods: dict[str, int] = {}
        for index, one in enumerate(good):
            periods.setdefault(f"{one.made_at:{form}}", index)
        chosen.update(list(periods.values())[:count])
    return [good[index] for index in sorted(chosen)]


def deletions(sets: Sequence[FoundSet], keep: Keep, sound: Callable[[FoundSet], bool]) -> list[Deletion]:
    """What is deleted of these sets, newest first, oldest at the end of the list.

    Nothing unless the newest is good. A set that is not good is deleted only when as many good ones are newer as days
    are kept. `sound` reads a set that is kept: one that has decayed does not replace the set that would be deleted.
    """
    sets = sorted(sets, key=lambda one: one.path.name, reverse=True)
    decayed: set[str] = set()
    while True:
        counted = [one for one in sets if one.path.name not in decayed]
        if not counted or counted[0] is not sets[0] or not counted[0].good:
            return []
        staying = kept(counted, keep)
        names = {one.path.name for one in staying}
        found: list[Deletion] = []
        for one in sets:
            if one.path.name in names:
                continue
            newer = [other for other in staying if other.path.name > one.path.name]
            bad = not one.good or one.path.name in decayed
            if not newer or (bad and len(newer) < max(keep.daily, keep.last)):
                continue
            why = "not good, and replaced" if bad else "beyond what is kept"
            found.append(Deletion(one, newer[-1], why))
        wrong = {one.successor.path.name for one in found if not sound(one.successor)}
        if not wrong:
            return found
        decayed |= wrong
