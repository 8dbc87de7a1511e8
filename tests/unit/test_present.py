"""Texts for terminals: complete, within the width, in colour only on request."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maintd.model.entry import Entry, Pause
from maintd.model.evidence import Artifact, Change, ChangeState, Check, CheckStatus, LogLine, Measure, Progress
from maintd.model.job import BrokenJob
from maintd.model.run import Attempt, AttemptState, Run, RunState, RunSummary, SkipReason, Step, StepState, Trigger
from maintd.model.status import DueTime, EntryStatus, LockHolder, StatusReport
from maintd.operations.diagnosis import diagnose
from maintd.present import (
    LiveRun,
    ago,
    due_text,
    entry_text,
    exit_code_of,
    from_now,
    job_text,
    jobs_text,
    log_line_text,
    progress_text,
    run_text,
    runs_text,
    settings_text,
    skip_text,
    start_text,
    status_text,
)
from maintd.present.runs import attempt_lines, step_lines
from maintd.present.status import short_local
from maintd.present.text import Style, wrap
from maintd.store import LastRuns
from maintd.units import duration_text, plural, value_text

NOW = datetime(2026, 11, 24, 11, 30, tzinfo=UTC)  # a Tuesday
HOUR = timedelta(hours=1)


def a_run(number: int = 1842, **fields: Any) -> RunSummary:
    state = fields.pop("state", RunState.SUCCEEDED)
    own: dict[str, Any] = {
        "id": number,
        "entry": "weekly-cleanup",
        "title": "Weekly clean-up",
        "trigger": Trigger.SCHEDULE,
        "state": state,
        "due_at": NOW - 4 * HOUR,
        "queued_at": NOW - 4 * HOUR,
        "not_before": NOW - 4 * HOUR,
        "started_at": NOW - 4 * HOUR,
        "finished_at": NOW - 3 * HOUR if state.final else None,
    }
    return RunSummary.model_validate(own | fields)


def an_entry(**fields: Any) -> EntryStatus:
    own: dict[str, Any] = {
        "entry": "weekly-cleanup",
        "title": "Weekly clean-up",
        "schedule": "every Sunday at 04:00 (UTC)",
        "enabled": True,
        "jobs": ("vacuum", "backup_verify"),
        "next_due_at": datetime(2026, 11, 29, 4, tzinfo=UTC),
        "next_due_local": "Sun 2026-11-29 04:00 UTC",
        "typical_duration": timedelta(minutes=58),
    }
    broken = fields.pop("broken", "")
    of = Entry(name="weekly-cleanup", title="", rule=None, steps=(), enabled=fields.get("enabled", True))
    active = fields.get("active_run")
    known = {name: fields[name] for name in LastRuns._fields if name in fields}
    found = diagnose(of, LastRuns(active=active, **known), None, NOW, pause=fields.get("pause"), broken=broken)
    return EntryStatus.model_validate(own | dict(found) | fields)


def failing() -> EntryStatus:
    run = a_run(state=RunState.FAILED)
    return an_entry(
        last_run=run,
        last_finished=run,
        failing_since=NOW - timedelta(days=7),
        failures_in_a_row=2,
        why="dead rows: 31 %, expected at most 20 %",
        next_step="maintd show 1842",
    )


def a_report(*entries: EntryStatus, **fields: Any) -> StatusReport:
    own: dict[str, Any] = {
        "at": NOW,
        "node": "sidecar",
        "version": "0.1.0",
        "pid": 7,
        "started_at": NOW - timedelta(days=3),
        "page": "http://127.0.0.1:8420/",
        "calendar": "/etc/maintd/schedules.yaml",
        "store": "sqlite:////var/lib/maintd/maintd.db",
        "entries": entries,
    }
    return StatusReport.model_validate(own | fields)


def plain(text: str) -> str:
    return re.sub(r"\x1b\[\d*m", "", text)


def test_status_shows_on_top_what_needs_attention_since_when_why_and_what_to_type() -> None:
    fine = a_run(1840, entry="morning-health-check")
    report = a_report(an_entry(entry="morning-health-check", last_run=fine, last_finished=fine), failing())

    text = status_text(report)

    top, _, table = text.partition("  entry")
    assert "needs attention" in top
    assert "weekly-cleanup: failed 3h ago (run 1842), 2 failures in a row since Tue 2026-11-17 11:30 UTC" in " ".join(
        top.split()
    )
    assert "why:  dead rows: 31 %, expected at most 20 %" in top
    assert "next: maintd show 1842" in top
    assert "morning-health-check" not in top
    assert "✓ morning-health-check" in table


def test_an_entry_is_one_line_with_state_time_duration_and_next_due_time() -> None:
    run = a_run()

    text = status_text(a_report(an_entry(last_run=run, last_finished=run)))

    line = next(line for line in text.splitlines() if line.startswith("✓"))
    assert line.split() == [
        "✓",
        "weekly-cleanup",
        "succeeded",
        "3h",
        "ago",
        "1h",
        "(~58m)",
        "Sun",
        "04:00",
        "UTC",
        "(4d)",
    ]


def test_running_paused_disabled_and_never_run_entries_are_shown_as_words() -> None:
    entries = (
        an_entry(entry="now", active_run=a_run(9, state=RunState.RUNNING)),
        an_entry(entry="held", pause=Pause(entry="held", why="disk swap", by="ana", since=NOW - HOUR)),
        an_entry(entry="fresh"),
        an_entry(entry="off", enabled=False),
    )

    text = status_text(a_report(*entries))

    assert "▶ now    running    for 4h" in text
    assert "paused by ana: disk swap" in text
    assert "fresh  never ran" in text
    assert "off    disabled" in text
    assert "needs attention" not in text


def test_a_report_without_a_daemon_starts_with_that() -> None:
    text = status_text(a_report(an_entry(), started_at=None, node="", version="", pid=None, page=None))

    assert text.startswith("maintd: no daemon answers")
    assert "weekly-cleanup" in text


def test_locks_are_shown_with_their_holder() -> None:
    lock = LockHolder(
        lock="postgres", mode="exclusive", run_id=9, entry="weekly-cleanup", step="vacuum", node="a", since=NOW - HOUR
    )

    text = status_text(a_report(an_entry(), locks=(lock,)))

    assert 'lock "postgres" (exclusive) held by run 9 (weekly-cleanup, step vacuum)' in " ".join(text.split())


@pytest.mark.parametrize(
    ("entry", "problems", "code"),
    [
        (an_entry(), (), 0),
        (an_entry(last_finished=a_run(state=RunState.WARNED)), (), 0),
        (an_entry(last_run=a_run(state=RunState.SKIPPED, skip_reason=SkipReason.NOT_CONFIGURED)), (), 0),
        (an_entry(), ("the store is away",), 1),
        (failing(), (), 1),
        (an_entry(last_finished=a_run(state=RunState.TIMED_OUT)), (), 1),
        (an_entry(last_finished=a_run(state=RunState.LOST)), (), 1),
        (an_entry(active_run=a_run(state=RunState.WAITING)), (), 0),
        (an_entry(last_run=a_run(state=RunState.SKIPPED, skip_reason=SkipReason.MISSED)), (), 1),
        (an_entry(broken="x.py:3: invalid syntax"), (), 1),
    ],
)
def test_status_exits_with_1_exactly_when_something_needs_attention(
    entry: EntryStatus, problems: tuple[str, ...], code: int
) -> None:
    report = a_report(entry, problems=problems)

    assert report.needs_attention == bool(code)
    assert ("needs attention" in status_text(report)) == bool(code)


def test_the_reason_of_a_warning_is_below_its_line() -> None:
    entry = an_entry(last_finished=a_run(state=RunState.WARNED), why="backup age: could not be observed")

    text = status_text(a_report(entry))

    assert "! weekly-cleanup  warned" in text
    assert "\n    backup age: could not be observed\n" in text


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize(
    "timezone", ["Sun 2026-11-29 04:00 CET", "Sun 2026-11-29 14:30 +1030", "Mon 2027-11-29 04:00 UTC"]
)
def test_status_fits_the_width_even_with_long_names_and_texts(width: int, timezone: str) -> None:
    due = datetime(2027, 11, 29, 4, tzinfo=UTC) if "2027" in timezone else datetime(2026, 11, 29, 4, tzinfo=UTC)
    entries = [
        failing().model_copy(update={"why": "the quick brown fox jumps over the lazy dog " * 4}),
        an_entry(
            entry="daily-backup-verification-of-everything",
            next_due_local=timezone,
            next_due_at=due,
            last_finished=a_run(state=RunState.TIMED_OUT),
            failures_in_a_row=1,
        ),
    ]

    text = status_text(a_report(*entries, problems=("the store is away since yesterday " * 5,)), width=width)

    assert max(map(len, text.splitlines())) <= width
    assert "daily-backup-verification-of-everything" in text  # a name is to be typed, so it is never cut


def test_colour_only_adds_escape_codes() -> None:
    report = a_report(failing(), an_entry(entry="now", active_run=a_run(9, state=RunState.RUNNING)))

    assert "\x1b" not in status_text(report)
    assert "\x1b[31m" in status_text(report, colour=True)
    assert plain(status_text(report, colour=True)) == status_text(report)


def test_one_entry_shows_its_facts_and_its_last_runs() -> None:
    runs = [a_run(1842, state=RunState.FAILED, reason="vacuum: dead rows"), a_run(1841)]

    text = entry_text(failing(), runs, now=NOW)

    assert text.startswith("✗ weekly-cleanup: failed\n")
    assert "  schedule  every Sunday at 04:00 (UTC)\n" in text
    assert "  next due  Sun 2026-11-29 04:00 UTC, in 4d\n" in text
    assert "  failing   since Tue 2026-11-17 11:30 UTC, 2 failures in a row\n" in text
    assert "✗ 1842  failed" in text
    assert "    vacuum: dead rows\n" in text
    assert "✓ 1841  succeeded" in text


def full_run(**fields: Any) -> Run:
    checks = (
        Check(
            name="dead rows", observed=0.31, expected="at most 0.2", status=CheckStatus.FAIL, hint="run: VACUUM FULL"
        ),
        Check(name="backup size", observed=1_500_000_000, expected="at least 1 GiB", unit="B", status=CheckStatus.OK),
        Check(name="replica lag", observed=None, expected="at most 5", unit="s", status=CheckStatus.UNKNOWN),
    )
    attempt = Attempt(
        number=1,
        state=AttemptState.FAILED,
        started_at=NOW - 4 * HOUR,
        finished_at=NOW - 3 * HOUR,
        log_lines=12,
        checks=checks,
        changes=(Change(action="vacuum", target="orders", details={"bytes": 2048}),),
        measures=(Measure(name="dead_rows", value=31, labels={"table": "orders"}),),
        artifacts=(Artifact(name="report.md", path="1/report.md", size_bytes=5000, sha256="ab" * 32),),
    )
    step = Step(
        index=0,
        name="vacuum",
        job="vacuum",
        state=StepState.FAILED,
        started_at=NOW - 4 * HOUR,
        finished_at=NOW - 3 * HOUR,
        attempts=(attempt,),
    )
    values = a_run(state=RunState.FAILED).model_dump() | {"steps": (step,), "params": {"full": True}} | fields
    return Run.model_validate(values)


def test_a_run_shows_observed_and_expected_values_and_hints() -> None:
    text = run_text(full_run(reason="a check failed"), now=NOW)

    assert text.startswith("✗ run 1842 of weekly-cleanup: failed\n")
    assert "✗ fail: dead rows: 0.31 (expected at most 0.2)\n" in text
    assert "→ run: VACUUM FULL\n" in text
    assert "✓ backup size: 1.4 GiB (expected at least 1 GiB)\n" in text
    assert "? unknown: replica lag: not observed (expected at most 5)\n" in text
    assert "3 checks, 1 passed" in text
    assert "· vacuum orders (bytes 2.0 KiB)" in text
    assert "dead_rows{table=orders}: 31" in text
    assert "artifact report.md (4.9 KiB, sha256 abababababab…)" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_change_of_a_dry_run_is_marked_as_not_done() -> None:
    run = full_run(dry_run=True)
    attempt = run.steps[0].attempts[0]
    change = attempt.changes[0].model_copy(update={"state": ChangeState.PLANNED})
    step = run.steps[0].model_copy(update={"attempts": (attempt.model_copy(update={"changes": (change,)}),)})

    text = run_text(run.model_copy(update={"steps": (step,)}), now=NOW)

    assert "· would vacuum orders" in text
    assert "schedule, dry run" in text


def test_history_shows_why_a_run_was_skipped_and_who_triggered_it() -> None:
    skipped = a_run(3, state=RunState.SKIPPED, skip_reason=SkipReason.OVERLAP, reason="run 2 was not finished")
    asked = a_run(2, trigger=Trigger.MANUAL, due_at=None, requested_by="ana", why="disk full", dry_run=True)

    text = runs_text([skipped, asked], now=NOW)

    assert "– 3  skipped" in text
    assert "    overlap: run 2 was not finished\n" in text
    assert "manual by ana, dry run" in text
    assert "    why: disk full\n" in text
    assert runs_text([], now=NOW) == "no runs\n"


def test_a_live_run_prints_each_report_once() -> None:
    live = LiveRun()
    running = full_run(state=RunState.RUNNING, finished_at=None)
    began = running.model_copy(update={"steps": (_unfinished(running, checks=1),)})

    first = list(live.new_lines(began))
    again = list(live.new_lines(began))
    more = list(live.new_lines(running))

    assert first[0] == "run 1842 of weekly-cleanup is running"
    assert "▶ step vacuum" in first
    assert any("dead rows" in line for line in first)
    assert again == []
    assert not any("dead rows: " in line for line in more)
    assert any("backup size" in line for line in more)
    assert live.activity(began) == "reading 12/40 archives (30 %), 9s left"


def _unfinished(run: Run, checks: int) -> Step:
    attempt = (
        run.steps[0]
        .attempts[0]
        .model_copy(
            update={
                "state": AttemptState.RUNNING,
                "finished_at": None,
                "phase": "reading",
                "artifacts": (),
                "changes": (),
                "checks": run.steps[0].attempts[0].checks[:checks],
                "progress": Progress(done=12, total=40, unit="archives", left=timedelta(seconds=9)),
            }
        )
    )
    return run.steps[0].model_copy(update={"state": StepState.RUNNING, "finished_at": None, "attempts": (attempt,)})


def test_due_times_are_grouped_by_day_with_the_reason_of_a_coming_skip() -> None:
    dues = [
        DueTime(entry="a", title="A", due_at=NOW + HOUR, local="Tue 2026-11-24 13:30 CET", jobs=("vacuum",)),
        DueTime(entry="b", title="B", due_at=NOW + 25 * HOUR, local="Wed 2026-11-25 12:30 UTC", jobs=(), note="paused"),
    ]

    text = due_text(dues, now=NOW)

    assert text.splitlines()[:2] == ["Tue 2026-11-24", "  13:30 CET  a  12:30Z, in 1h  vacuum"]
    assert "Wed 2026-11-25\n  12:30 UTC  b  in 25h\n    ! paused\n" in text


def test_a_broken_job_shows_its_error() -> None:
    job = BrokenJob(name="bad", path="/jobs/bad.py", error="/jobs/bad.py:3: invalid syntax")  # type: ignore[arg-type]

    assert "broken" in jobs_text([job])
    assert "/jobs/bad.py:3: invalid syntax" in job_text(job)


def test_output_of_a_job_cannot_control_the_terminal() -> None:
    line = LogLine(seq=1, at=NOW, stream="stdout", text="\x1b[2Jgone\x07")

    shown = log_line_text(line, "vacuum")

    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "gone" in shown


def test_settings_are_listed_with_their_origin() -> None:
    assert settings_text([("slots", "4", "default"), ("listen", "", "MAINTD_LISTEN")]) == (
        "slots   4  (default)\nlisten  none  (MAINTD_LISTEN)\n"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.4, "400ms"),
        (1, "1s"),
        (9.94, "9.9s"),
        (12.4, "12s"),
        (200, "3m20s"),
        (3600, "1h"),
        (7500, "2h5m"),
        (90061, "1d1h"),
        (59.6, "1m"),
        (-5, "-5s"),
    ],
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert duration_text(timedelta(seconds=seconds)) == text


def test_times_are_shown_relative_to_now() -> None:
    assert ago(NOW - timedelta(seconds=1), NOW) == "just now"
    assert ago(NOW - timedelta(minutes=3), NOW) == "3m ago"
    assert ago(NOW - timedelta(hours=47), NOW) == "47h ago"
    assert ago(NOW - timedelta(days=9), NOW) == "9d ago"
    assert ago(NOW + timedelta(minutes=3), NOW) == "in 3m"
    assert from_now(NOW + timedelta(days=4, hours=3), NOW) == "in 4d"
    assert from_now(NOW - timedelta(minutes=3), NOW) == "3m late"


def test_a_due_time_is_shortened_as_far_as_it_is_unambiguous() -> None:
    assert short_local("Sun 2026-11-29 04:00 CET", NOW + timedelta(days=4), NOW) == "Sun 04:00 CET"
    assert short_local("Mon 2026-12-28 01:00 CET", NOW + timedelta(days=33), NOW) == "28 Dec 01:00 CET"
    assert short_local("Sat 2027-11-06 01:00 CET", NOW + timedelta(days=347), NOW) == "2027-11-06 01:00 CET"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "s", "not observed"),
        (True, "", "yes"),
        (3, "", "3"),
        (12345, "rows", "12,345 rows"),
        (0.123456, "", "0.1235"),
        (2048, "B", "2.0 KiB"),
        (98.5, "%", "98.5 %"),
        ("ok", "", "ok"),
    ],
)
def test_values_are_shown_with_their_unit(value: Any, unit: str, text: str) -> None:
    assert value_text(value, unit) == text


def test_nouns_have_their_plural() -> None:
    texts = [plural(count, noun) for count, noun in ((1, "entry"), (2, "entry"), (7, "day"), (0, "check"), (3, "box"))]

    assert texts == ["1 entry", "2 entries", "7 days", "0 checks", "3 boxes"]


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (Progress(done=25, total=30, unit="file", rate=1.988), "25/30 files (83 %), 2.0/s"),
        (Progress(done=0, total=1, unit="index"), "0/1 index (0 %)"),
        (Progress(done=1, unit="file"), "1 file"),
        (Progress(done=1200, unit="index", rate=1500), "1,200 indexes, 1,500.0/s"),
        (Progress(done=3, unit="tables"), "3 tables"),
        (Progress(done=3, total=9, left=timedelta(seconds=95)), "3/9 (33 %), 1m35s left"),
        (Progress(done=2048, total=4096, unit="B", rate=1024), "2.0 KiB/4.0 KiB (50 %), 1.0 KiB/s"),
        (Progress(done=2048, unit="B"), "2.0 KiB"),
    ],
)
def test_progress_shows_count_share_rate_and_time_left(progress: Progress, text: str) -> None:
    assert progress_text(progress) == text


@pytest.mark.parametrize(
    ("offset", "text"),
    [(timedelta(minutes=30), "starts in 30m"), (timedelta(0), "starts now"), (timedelta(seconds=-45), "45s late")],
)
def test_a_queued_run_shows_when_it_starts_or_how_late_it_is(offset: timedelta, text: str) -> None:
    run = a_run(state=RunState.QUEUED, started_at=None, not_before=NOW + offset)

    assert start_text(run, NOW) == text
    assert text.removeprefix("starts ") in runs_text([run], now=NOW)


@pytest.mark.parametrize(
    ("skip_reason", "reason", "text"),
    [
        (SkipReason.OVERLAP, "run 2 was running", "overlap: run 2 was running"),
        (
            SkipReason.NOT_CONFIGURED,
            "not configured: it needs a redis target",
            "not configured: it needs a redis target",
        ),
        (SkipReason.PAUSED, "paused by ada: noise", "paused by ada: noise"),
        (SkipReason.MISSED, "", "missed"),
        (None, "cancelled by ada", "cancelled by ada"),
        (None, "", ""),
    ],
)
def test_the_word_for_a_skip_is_not_repeated(skip_reason: SkipReason | None, reason: str, text: str) -> None:
    assert skip_text(skip_reason, reason) == text


def test_a_number_and_its_unit_stay_on_one_line() -> None:
    lines = list(wrap("the filesystem is used to 80 % and 1.2 GiB are free", 28))

    assert lines == ["the filesystem is used to", "80 % and 1.2 GiB are free"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0123, "12.3ms"), (10.4, "10.4s"), (93_600, "1d2h"), (0, "0s"), (1e30, "1e+30s")]
)
def test_seconds_are_shown_as_the_calendar_writes_durations(seconds: float, text: str) -> None:
    assert value_text(seconds, "s") == text


@pytest.mark.parametrize("state", list(RunState))
def test_the_exit_code_is_0_only_if_nothing_failed(state: RunState) -> None:
    expected = 0 if state in (RunState.SUCCEEDED, RunState.WARNED) else 124 if state is RunState.TIMED_OUT else 1

    assert exit_code_of(state) == expected


@given(seconds=st.floats(min_value=0, max_value=1e9))
def test_no_duration_is_longer_than_eight_characters(seconds: float) -> None:
    assert len(duration_text(timedelta(seconds=seconds))) <= 8


@pytest.mark.parametrize("tries", [2, 3, 5])
def test_checks_that_a_later_attempt_repeats_are_shown_once(tries: int) -> None:
    same = [Check(name=f"same {n}", observed=n, expected="1", status=CheckStatus.FAIL) for n in range(100)]
    attempts = tuple(
        Attempt(
            number=number,
            state=AttemptState.FAILED,
            started_at=NOW,
            checks=(*same, Check(name=f"only in {number}", observed=0, expected="1", status=CheckStatus.FAIL)),
        )
        for number in range(1, tries + 1)
    )
    step = Step(index=0, name="s", job="j", state=StepState.FAILED, attempts=attempts)

    lines = list(step_lines(step, NOW, 100, Style(False)))

    assert sum("same 7:" in line for line in lines) == 1
    assert sum("only in" in line for line in lines) == tries
    assert sum(f"100 as in attempt {tries}" in line for line in lines) == tries - 1


@pytest.mark.parametrize(
    "state", [AttemptState.FAILED, AttemptState.UNKNOWN, AttemptState.WARNED, AttemptState.SUCCEEDED]
)
def test_an_attempt_that_ended_by_itself_was_not_stopped_in_its_phase(state: AttemptState) -> None:
    attempt = Attempt(number=1, state=state, started_at=NOW, phase="look at main", exit_code=0)

    text = "\n".join(attempt_lines(attempt, 80, Style(False)))

    assert "stopped" not in text
    assert "exit code" not in text


def an_attempt(state: AttemptState, *checks: Check) -> Attempt:
    return Attempt(number=1, state=state, started_at=datetime(2026, 3, 1, tzinfo=UTC), checks=checks)


@pytest.mark.parametrize(("optional", "shown"), [(True, "? unknown, not required: swap"), (False, "? unknown: swap")])
def test_an_unknown_check_that_is_not_required_is_marked_as_that(optional: bool, shown: str) -> None:
    check = Check(name="swap", observed="denied", expected="0", status=CheckStatus.UNKNOWN, optional=optional)

    lines = list(attempt_lines(an_attempt(AttemptState.SUCCEEDED, check), 80, Style(False)))

    assert f"{shown}: denied (expected 0)" in "\n".join(lines)


def test_an_optional_check_that_failed_is_not_called_not_required() -> None:
    check = Check(name="swap", observed=5, expected="0", status=CheckStatus.FAIL, optional=True)

    assert "not required" not in "\n".join(attempt_lines(an_attempt(AttemptState.FAILED, check), 80, Style(False)))


@pytest.mark.parametrize(
    ("state", "shown"), [(AttemptState.SUCCEEDED, True), (AttemptState.FAILED, False), (AttemptState.RUNNING, False)]
)
def test_a_success_that_observed_nothing_shows_its_0_checks(state: AttemptState, shown: bool) -> None:
    assert ("    0 checks" in attempt_lines(an_attempt(state), 80, Style(False))) == shown
