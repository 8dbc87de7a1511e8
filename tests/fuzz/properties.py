"""Properties that must hold for any bytes: `make test` runs them on the corpora, `make fuzz` searches with them.

A property takes bytes and returns; an exception is a finding. It comes from a context manager, since some need a
folder, a store or a served daemon that hundreds of thousands of inputs share.
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
from maintd.executor.child_protocol import MAX_MESSAGE, ChildStarted, JobEnded
from maintd.executor.message_reader import MessageReader, redacted
from maintd.executor.outcome import AttemptEvidence, JobResult, ProcessExit, evaluate_attempt
from maintd.model.entry import Rule, ScheduleKind
from maintd.model.evidence import LogLine
from maintd.model.run_updates import AttemptReported
from maintd.schedule import compile_rule, describe
from maintd.schedule.phrases import parse_phrase
from maintd.schedule.wall_time import LAST_YEAR
from maintd.units import format_duration, parse_duration, parse_size

Property = Callable[[bytes], None]
Opened = Callable[[], AbstractContextManager[Property]]

MAX_SECONDS = 5.0
"""Seconds of processor time for one input; a normal one takes some milliseconds, also with coverage."""

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
def within_time() -> Iterator[None]:
    """Fail if the body takes longer than MAX_SECONDS."""
    began = time.process_time()
    yield
    duration = time.process_time() - began
    assert duration < MAX_SECONDS, f"took {duration:.1f} s"


@contextmanager
def calendars() -> Iterator[Property]:
    """Any file is a calendar whose due times can be computed, or is rejected with the position of each error."""
    with tempfile.TemporaryDirectory(prefix="maintd-fuzz-") as folder:
        path = Path(folder) / "schedules.yaml"

        def holds(data: bytes) -> None:
            path.write_bytes(data)
            with within_time():
                try:
                    calendar = load_calendar(path, jobs(), validate_all, NOW)
                except CalendarError as error:
                    _check_errors_have_positions(error.problems, str(path), data)
                else:
                    _check_due_times(calendar)

        yield holds


@contextmanager
def settings_files() -> Iterator[Property]:
    """Any settings file is a mapping, or is rejected with its name."""
    with tempfile.TemporaryDirectory(prefix="maintd-fuzz-") as folder:
        path = Path(folder) / "maintd.yaml"

        def holds(data: bytes) -> None:
            path.write_bytes(data)
            with within_time():
                try:
                    found = read_config(path)
                except SettingsError as error:
                    assert str(error).startswith(str(path))
                else:
                    assert all(found.place(name).startswith(f"{path}:") for name in found.values)

        yield holds


@contextmanager
def rules() -> Iterator[Property]:
    """Byte 0 is the kind, byte 1 the time zone, the rest the rule: it has an error, or increasing due times."""
    kinds = tuple(ScheduleKind)

    def holds(data: bytes) -> None:
        kind, zone = kinds[data[0] % len(kinds)] if data else kinds[0], ZONES[data[1] % len(ZONES)] if data[1:] else ""
        rule = Rule(kind=kind, text=data[2:].decode(errors="replace"), timezone=zone or "UTC")
        with within_time():
            try:
                schedule = compile_rule(rule)
            except ValueError as error:
                assert str(error).strip()
                return
            description = describe(rule)
            assert description
            for start in STARTS:
                due = [start, *islice(schedule.instants(start), 12)]
                assert all(earlier < later for earlier, later in pairwise(due)), due
                assert all(at.tzinfo is UTC for at in due[1:])
                assert kind is ScheduleKind.EVERY or due[-1].year <= LAST_YEAR + 1  # in UTC
            if kind is ScheduleKind.PHRASE:
                again = parse_phrase(description.removesuffix(f" ({rule.timezone})").replace("weekend day", "weekend"))
                assert again == parse_phrase(rule.text), description

    yield holds


@contextmanager
def values() -> Iterator[Property]:
    """Durations and sizes are values or errors; a duration that is formatted and parsed is the same."""

    def holds(data: bytes) -> None:
        text = data.decode(errors="replace")
        with within_time():
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
    """What a hostile child writes, in chunks of any size: valid evidence, and an outcome with a reason.

    Byte 0 gives the size of the chunks. After each chunk the buffer holds at most one message.
    """
    with tempfile.TemporaryDirectory(prefix="maintd-fuzz-") as folder:
        root = Path(folder)
        (root / "own").mkdir()
        (root / "own" / "report.txt").write_text("x", encoding="utf-8")

        def holds(data: bytes) -> None:
            size = 1 + (data[0] if data else 0) ** 2
            seen = MessageReader(root, root / "own")
            with within_time():
                for start in range(1, len(data), size):
                    for item in seen.feed(data[start : start + size]):
                        _check_can_be_stored(item)
                    assert len(seen._buffer) <= MAX_MESSAGE
                seen.end()
                assert not seen._buffer
                _check_outcome(seen)

        yield holds


def _check_errors_have_positions(problems: list[str], path: str, data: bytes) -> None:
    assert problems
    lines = len(data.decode("utf-8", errors="replace").splitlines()) + 1
    for problem in problems:
        if re.fullmatch(re.escape(path) + r": and \d+ more errors?", problem):
            continue
        assert problem.startswith(f"{path}:"), problem
        place = _PLACE.match(problem.removeprefix(f"{path}:"))
        assert place is not None, problem
        assert 1 <= int(place[1]) <= lines + data.count(b"\r"), problem
        assert int(place[2]) >= 1, problem
        assert "Traceback" not in problem


def _check_due_times(calendar: Calendar) -> None:
    for entry in calendar.entries:
        if entry.rule is None:
            continue
        assert describe(entry.rule)
        due = list(islice(compile_rule(entry.rule).instants(NOW), 3))
        assert all(earlier < later for earlier, later in pairwise([NOW, *due])), due
        past = entry.enabled and not due
        assert not past or any(f'entry "{entry.name}"' in warning for warning in calendar.warnings), entry.name


def _check_can_be_stored(item: object) -> None:
    """Check that the item can be written to a row and to the spool, and read back."""
    if isinstance(item, ChildStarted | JobEnded):
        return
    for kept in (item, redacted(item, ("hunter2",))):
        if isinstance(kept, LogLine):
            assert kept.stream == "log"
        written = AttemptReported.model_validate({"step": 0, "attempt": 1, "items": [kept]}).model_dump_json()
        again = AttemptReported.model_validate_json(written)
        assert again.model_dump_json() == written
        assert "\\u0000" not in written


def _check_outcome(seen: MessageReader) -> None:
    verdict = evaluate_attempt(
        AttemptEvidence(
            returned=None if seen.ended is None else JobResult(seen.ended.ok, seen.ended.reason),
            exit=ProcessExit(code=0),
            worst=seen.worst,
            failed=tuple(seen.failed),
            failed_count=seen.failed_count,
            warned=tuple(seen.warned),
            warned_count=seen.warned_count,
            unobserved=tuple(seen.unobserved),
            unobserved_count=seen.unobserved_count,
            stopped=None,
            protocol_error=seen.protocol_error,
            phase=seen.phase,
        )
    )
    succeeded = verdict.state.value == "succeeded"
    assert succeeded != bool(verdict.reason), verdict
    assert not succeeded or (seen.ended is not None and seen.ended.ok and not seen.protocol_error)
