"""What must hold for any bytes, written once: `make test` replays the corpora with it, `make fuzz` searches with it.

A property takes bytes and returns; whatever it raises is a finding. It is made by a context manager, since some need
a folder, a store or a served daemon, which hundreds of thousands of inputs share.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from pathlib import Path

from support.calendars import NOW, jobs, validate_all

from maintd.calendar import Calendar, load_calendar
from maintd.config.file import read_config
from maintd.errors import CalendarError, SettingsError
from maintd.executor.child_protocol import MAX_MESSAGE, Began, Ended
from maintd.executor.outcome import AttemptEvidence, Exit, Returned, evaluate_attempt
from maintd.executor.report_reader import ReportReader, redacted
from maintd.model.entry import Rule, ScheduleKind
from maintd.model.evidence import LogLine
from maintd.model.run_updates import AttemptReported
from maintd.schedule import compile_rule, describe
from maintd.schedule.phrases import parse_phrase
from maintd.schedule.wall_time import LAST_YEAR
from maintd.units import format_duration, parse_duration, parse_size

Property = Callable[[bytes], None]
Opened = Callable[[], AbstractContextManager[Property]]

SOON = 5.0
"""Seconds of processor time for one input; an honest one takes some milliseconds, also under coverage."""

STARTS = (
    NOW,
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(2026, 3, 29, 0, 59, 59, tzinfo=UTC),
    datetime(2026, 10, 25, 0, 30, tzinfo=UTC),
    datetime(2199, 12, 30, tzinfo=UTC),
)
ZONES = ("UTC", "Europe/Berlin", "Australia/Lord_Howe", "Pacific/Apia", "America/St_Johns")
_PLACE = re.compile(r"(\d+):(\d+): \S")


@contextmanager
def in_time() -> Iterator[None]:
    """Fail when the body takes longer than SOON."""
    began = time.process_time()
    yield
    took = time.process_time() - began
    assert took < SOON, f"took {took:.1f} s"


@contextmanager
def calendars() -> Iterator[Property]:
    """Any file is a calendar, or is refused with the place of each mistake; what is accepted can be worked out."""
    with tempfile.TemporaryDirectory(prefix="maintd-fuzz-") as folder:
        path = Path(folder) / "schedules.yaml"

        def holds(data: bytes) -> None:
            path.write_bytes(data)
            with in_time():
                try:
                    calendar = load_calendar(path, jobs(), validate_all, NOW)
                except CalendarError as error:
                    _told_with_its_place(error.problems, str(path), data)
                else:
                    _can_be_worked_out(calendar)

        yield holds


@contextmanager
def settings_files() -> Iterator[Property]:
    """Any file of settings is a mapping, or is refused by name."""
    with tempfile.TemporaryDirectory(prefix="maintd-fuzz-") as folder:
        path = Path(folder) / "maintd.yaml"

        def holds(data: bytes) -> None:
            path.write_bytes(data)
            with in_time():
                try:
                    found = read_config(path)
                except SettingsError as error:
                    assert str(error).startswith(str(path))
                else:
                    assert all(found.place(name).startswith(f"{path}:") for name in found.values)

        yield holds


@contextmanager
def rules() -> Iterator[Property]:
    """Byte 0 is the kind, byte 1 the zone, the rest the rule: it is refused in words, or its due times grow."""
    kinds = tuple(ScheduleKind)

    def holds(data: bytes) -> None:
        kind, zone = kinds[data[0] % len(kinds)] if data else kinds[0], ZONES[data[1] % len(ZONES)] if data[1:] else ""
        rule = Rule(kind=kind, text=data[2:].decode(errors="replace"), timezone=zone or "UTC")
        with in_time():
            try:
                schedule = compile_rule(rule)
            except ValueError as error:
                assert str(error).strip()
                return
            said = describe(rule)
            assert said
            for start in STARTS:
                due = [start, *islice(schedule.instants(start), 12)]
                assert all(earlier < later for earlier, later in pairwise(due)), due
                assert all(at.tzinfo is UTC for at in due[1:])
                assert kind is ScheduleKind.EVERY or due[-1].year <= LAST_YEAR + 1  # in UTC
            if kind is ScheduleKind.PHRASE:
                again = parse_phrase(said.removesuffix(f" ({rule.timezone})").replace("weekend day", "weekend"))
                assert again == parse_phrase(rule.text), said

    yield holds


@contextmanager
def values() -> Iterator[Property]:
    """Durations and sizes are values or refused in words; a duration that is written again is the same."""

    def holds(data: bytes) -> None:
        text = data.decode(errors="replace")
        with in_time():
            try:
                duration = parse_duration(text)
            except ValueError as error:
                assert not isinstance(error, UnicodeError)
                assert str(error)
            else:
                if duration < timedelta.max - timedelta(seconds=1):
                    again = parse_duration(format_duration(duration))
                    assert abs(again - duration) <= timedelta(microseconds=500)
            try:
                assert parse_size(text) >= 0
            except ValueError as error:
                assert str(error)

    yield holds


@contextmanager
def reports() -> Iterator[Property]:
    """What a hostile child writes, cut into pieces of any size: valid items of evidence and a verdict with a reason.

    Byte 0 says how long the pieces are. After each the memory held is at most one message and one piece.
    """
    with tempfile.TemporaryDirectory(prefix="maintd-fuzz-") as folder:
        root = Path(folder)
        (root / "own").mkdir()
        (root / "own" / "report.txt").write_text("x", encoding="utf-8")

        def holds(data: bytes) -> None:
            size = 1 + (data[0] if data else 0) ** 2
            seen = ReportReader(root, root / "own")
            with in_time():
                for start in range(1, len(data), size):
                    for item in seen.feed(data[start : start + size]):
                        _can_be_kept(item)
                    assert len(seen._buffer) <= MAX_MESSAGE
                seen.end()
                assert not seen._buffer
                _is_judged(seen)

        yield holds


def _told_with_its_place(problems: list[str], path: str, data: bytes) -> None:
    assert problems
    lines = len(data.decode("utf-8", errors="replace").splitlines()) + 1
    for problem in problems:
        if re.fullmatch(re.escape(path) + r": and \d+ more errors", problem):
            continue
        assert problem.startswith(f"{path}:"), problem
        place = _PLACE.match(problem.removeprefix(f"{path}:"))
        assert place is not None, problem
        assert 1 <= int(place[1]) <= lines + data.count(b"\r"), problem
        assert int(place[2]) >= 1, problem
        assert "Traceback" not in problem


def _can_be_worked_out(calendar: Calendar) -> None:
    for entry in calendar.entries:
        if entry.rule is None:
            continue
        assert describe(entry.rule)
        due = list(islice(compile_rule(entry.rule).instants(NOW), 3))
        assert all(earlier < later for earlier, later in pairwise([NOW, *due])), due
        past = entry.enabled and not due
        assert not past or any(f'entry "{entry.name}"' in warning for warning in calendar.warnings), entry.name


def _can_be_kept(item: object) -> None:
    """It can be written to a row and to the spool and read back."""
    if isinstance(item, Began | Ended):
        return
    for kept in (item, redacted(item, ("hunter2",))):
        if isinstance(kept, LogLine):
            assert kept.stream == "log"
        written = AttemptReported.model_validate({"step": 0, "attempt": 1, "items": [kept]}).model_dump_json()
        again = AttemptReported.model_validate_json(written)
        assert again.model_dump_json() == written
        assert "\\u0000" not in written


def _is_judged(seen: ReportReader) -> None:
    verdict = evaluate_attempt(
        AttemptEvidence(
            returned=None if seen.ended is None else Returned(seen.ended.ok, seen.ended.reason),
            exit=Exit(code=0),
            worst=seen.worst,
            failed=tuple(seen.failed),
            failed_count=seen.failed_count,
            warned=tuple(seen.warned),
            warned_count=seen.warned_count,
            unknown=tuple(seen.unknown),
            unknown_count=seen.unknown_count,
            stopped=None,
            protocol_error=seen.protocol_error,
            phase=seen.phase,
        )
    )
    succeeded = verdict.state.value == "succeeded"
    assert succeeded != bool(verdict.reason), verdict
    assert not succeeded or (seen.ended is not None and seen.ended.ok and not seen.protocol_error)
