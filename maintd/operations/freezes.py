"""Freezes: those of operators in the store, those of the calendar, and that of the freeze file."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from shlex import quote

from maintd.config.freeze_file import read_freeze_file
from maintd.errors import DaemonUnavailableError, RefusedError, UnknownNameError, UsageError
from maintd.model.entry import Freeze, StepPlan
from maintd.operations.service import OperatorService
from maintd.present import utc_minute
from maintd.present.freezes import freeze_text
from maintd.schedule.freezes import freeze_covering, mutates
from maintd.store import Store

LONGEST_FREEZE = timedelta(days=90)
"""A freeze by command that lasts longer would be forgotten; it can be renewed, or written into the calendar."""


@dataclass(frozen=True)
class KnownFreezes:
    """All freezes that this node knows. The file is that of this node, and applies to what this node plans and starts.

    `store` is None where there is none.
    """

    store: Store | None
    calendar: Callable[[], Sequence[Freeze]]
    file: Path | None

    def between(self, since: datetime, until: datetime) -> list[Freeze]:
        """The freezes of which a part may be in [since, until]. Raises StoreUnavailableError."""
        rows = [] if self.store is None else self.store.freezes.between(since, until)
        of_file = read_freeze_file(self.file)
        of_calendar = [
            freeze
            for freeze in self.calendar()
            if (freeze.since is None or freeze.since <= until) and (freeze.until is None or freeze.until > since)
        ]
        return [*([] if of_file is None else [of_file]), *rows, *of_calendar]

    def active(self, now: datetime) -> list[Freeze]:
        """The freezes at this time. Raises StoreUnavailableError."""
        return self.between(now, now)


def known_freezes(service: OperatorService) -> KnownFreezes:
    """The freezes of this service."""
    return KnownFreezes(service.store, lambda: service.calendar().freezes, service.settings.freeze_file)


def active_freezes(service: OperatorService) -> list[Freeze]:
    """The freezes that are active now. Raises StoreUnavailableError."""
    return known_freezes(service).active(service.store.now())


def refuse_frozen(
    freezes: Sequence[Freeze], entry: str, steps: Sequence[StepPlan], at: datetime, otherwise: str
) -> None:
    """Raise RefusedError if the steps change something and the entry is frozen at that time.

    `otherwise` is what can be done instead of waiting: `in an emergency: maintd trigger …`.
    """
    freeze = freeze_covering(freezes, entry, at) if mutates(steps) else None
    if freeze is not None:
        raise RefusedError(f"{entry} is {freeze_text(freeze)}", f"wait until the freeze is over, or {otherwise}")


def in_emergency(command: str) -> str:
    """How a command is typed during a freeze."""
    return f'in an emergency: {command} --emergency --why "..."'


def freeze(service: OperatorService, entries: str, why: str, by: str, until: datetime, *, origin: str = "") -> Freeze:
    """Freeze the entries that match a name or a pattern: those that change something do not run until then.

    Raises UnknownNameError if none matches, UsageError for a missing reason or a bad end.
    """
    names = [entry.name for entry in service.calendar().entries]
    if entries != "*" and not any(fnmatchcase(name, entries) for name in names):
        what = "entry that matches the pattern" if re.search(r"[*?\[]", entries) else "entry"
        raise UnknownNameError(what, entries, names)
    if not why.strip():
        raise UsageError("no reason given for the freeze", 'add for example --why "the year-end closing"')
    now = service.store.now()
    if until <= now:
        raise UsageError(f"the end of the freeze, {utc_minute(until)}, is in the past", "give an end in the future")
    if until > now + LONGEST_FREEZE + timedelta(minutes=1):
        raise UsageError(
            f"a freeze by command lasts at most {LONGEST_FREEZE.days}d", "write a longer one into the calendar: freezes"
        )
    frozen = service.store.freezes.add(entries, why=why, by=by, origin=origin, until=until, now=now)
    _wake(service)
    return frozen


def unfreeze(service: OperatorService, entries: str, by: str, *, origin: str = "", why: str = "") -> bool:
    """End a freeze by command, by the name or pattern that it was written with. False: nothing is frozen by command.

    Raises RefusedError if only the calendar or the file freezes these entries, and UnknownNameError where that would
    leave something frozen: for what is no entry, and where another name or pattern freezes some of these.
    """
    now = service.store.now()
    done = service.store.freezes.end(entries, by=by, origin=origin, why=why, now=now)
    _wake(service)
    if not done:
        others = [found for found in known_freezes(service).active(now) if found.entries == entries]
        if others:
            raise RefusedError(
                f"{entries} is {freeze_text(others[0])}", "remove it there; only a freeze by command ends by command"
            )
        _require_not_frozen(entries, [each.entries for each in service.store.freezes.active(now)], service)
    return done


def _require_not_frozen(entries: str, active: Sequence[str], service: OperatorService) -> None:
    """Raise UnknownNameError unless `entries`, of which no freeze is written so, is known and not frozen at all."""
    names = [entry.name for entry in service.calendar().entries]
    left = [each for each in active if entries == "*" or (entries in names and fnmatchcase(entries, each))]
    if left:
        commands = [f"maintd unfreeze --only {quote(each)}" if each != "*" else "maintd unfreeze" for each in left]
        raise UnknownNameError("freeze", entries, hint=f"frozen by another one; end it with: {', '.join(commands)}")
    if entries != "*" and entries not in names:
        raise UnknownNameError("freeze", entries, [*active, *names], "list the freezes with: maintd freeze")


def _wake(service: OperatorService) -> None:
    # Without a daemon here, the next one or another node finds the rows.
    with contextlib.suppress(DaemonUnavailableError):
        service.wake()
