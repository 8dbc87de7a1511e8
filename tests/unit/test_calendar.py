"""Valid calendars: their entries, warnings, fingerprints and differences."""

from __future__ import annotations

import subprocess
from datetime import date, timedelta
from pathlib import Path

import pytest
from support.calendars import NOW, jobs, loaded, read, validate_all

from maintd.calendar import (
    Calendar,
    calendar_path,
    changes_between,
    entry_for_job,
    fingerprint_of,
    load_calendar,
    parse_calendar,
)
from maintd.config.settings import Settings
from maintd.errors import CalendarError
from maintd.job.registry import JobRegistry, shipped
from maintd.model.entry import After, Blackout, CatchUp, Entry, OnFailure, Overlap, Rule, ScheduleKind
from maintd.model.job import JobDescription
from maintd.schedule import compile_rule
from tests.support.effort import calls_of

FULL = """
timezone: Europe/Berlin
defaults: {timeout: 30m, catch_up: all, retries: 1, jitter: 5m, blackout: [{holidays: DE}]}
targets:
  postgres: {main: {dsn: "host=db password=${file:/run/secrets/pg}", timeout: 9s}}
entries:
  daily-backup:
    cron: 0 1 * * *
    job: verify
    params: {root: /backups}
  weekly-cleanup:
    title: Weekly clean-up
    runbook: Weekly Maintenance
    schedule: every sunday at 04:00
    timezone: America/New_York
    timeout: 2h
    retries: 3
    retry_backoff: 10s
    on_failure: continue
    after: {entry: daily-backup, within: 26h}
    overlap: queue
    catch_up: none
    catch_up_window: 2d
    misfire: 1h
    lock_wait: 0
    jitter: 0
    enabled: no
    formerly: sunday
    locks: {docker: shared}
    blackout:
      - 2026-12-24
      - {name: freeze, first: 2026-12-20, last: 2027-01-03}
      - {holidays: NO}
      - {cron: "0 22 * * 1-5", lasting: 8h}
    steps:
      - vacuum
      - vacuum: {full: true, tables: [a, "007", 0755]}
      - {job: vacuum, params: {patience: 30s}, timeout: 10m, retries: 0, on_failure: stop, locks: [stack]}
      - {job: look, always: true}
    always:
      - look
"""


def entry(calendar: Calendar, name: str) -> Entry:
    return next(entry for entry in calendar.entries if entry.name == name)


def test_every_key_of_an_entry_is_read() -> None:
    calendar = read(FULL)

    cleanup = entry(calendar, "weekly-cleanup")

    assert (cleanup.title, cleanup.runbook, cleanup.enabled) == ("Weekly clean-up", "Weekly Maintenance", False)
    assert cleanup.rule == Rule(
        kind=ScheduleKind.PHRASE, text="every sunday at 04:00", timezone="America/New_York", jitter=timedelta(0)
    )
    assert cleanup.formerly == "sunday"
    policy = cleanup.policy
    assert (policy.timeout, policy.retries, policy.retry_backoff) == (timedelta(hours=2), 3, timedelta(seconds=10))
    assert (policy.on_failure, policy.overlap, policy.catch_up) == (OnFailure.CONTINUE, Overlap.QUEUE, CatchUp.NONE)
    assert (policy.catch_up_window, policy.misfire) == (timedelta(days=2), timedelta(hours=1))
    assert policy.lock_wait == timedelta(0)
    assert policy.after == After(entry="daily-backup", within=timedelta(hours=26))
    assert policy.blackout == (
        Blackout(date=date(2026, 12, 24)),
        Blackout(name="freeze", first=date(2026, 12, 20), last=date(2027, 1, 3)),
        Blackout(name="holidays NO", holidays="NO"),  # Norway, which YAML 1.1 reads as false
        Blackout(cron="0 22 * * 1-5", lasting=timedelta(hours=8)),
    )


def test_steps_have_names_params_and_options_of_their_own() -> None:
    first, second, third, fourth, fifth = entry(read(FULL), "weekly-cleanup").steps

    assert [step.name for step in (first, second, third, fourth, fifth)] == [
        "vacuum",
        "vacuum-2",
        "vacuum-3",
        "look",
        "look-2",
    ]
    assert second.params == {"full": True, "tables": ["a", "007", "0755"]}
    assert (third.params, third.timeout, third.retries) == ({"patience": "30s"}, timedelta(minutes=10), 0)
    assert third.on_failure is OnFailure.STOP
    assert first.locks == {"postgres": "exclusive", "docker": "shared"}
    assert third.locks == {"postgres": "exclusive", "docker": "shared", "stack": "exclusive"}
    assert (first.mutates, first.repeatable, fourth.mutates) == (True, True, False)
    assert [step.always for step in (first, fourth, fifth)] == [False, True, True]


def test_an_entry_takes_missing_values_from_the_defaults() -> None:
    backup = entry(read(FULL), "daily-backup")

    assert backup.title == "Daily backup"
    assert backup.rule == Rule(
        kind=ScheduleKind.CRON, text="0 1 * * *", timezone="Europe/Berlin", jitter=timedelta(minutes=5)
    )
    assert (backup.policy.timeout, backup.policy.catch_up) == (timedelta(minutes=30), CatchUp.ALL)
    assert backup.policy.blackout == (Blackout(name="holidays DE", holidays="DE"),)
    assert backup.steps[0].params == {"root": "/backups"}
    assert backup.line == 6


def test_references_in_targets_are_not_resolved() -> None:
    target = read(FULL).targets.postgres["main"]

    assert target.dsn == "host=db password=${file:/run/secrets/pg}"
    assert target.timeout == timedelta(seconds=9)


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("schedule: every hour at :20", ScheduleKind.PHRASE),
        ('cron: "*/15 * * * *"', ScheduleKind.CRON),
        ("oncalendar: Sat *-1,4,7,10-1..7 01:00", ScheduleKind.ONCALENDAR),
        ("every: 15m", ScheduleKind.EVERY),
        ("at: 2026-12-05T01:00", ScheduleKind.AT),
    ],
)
def test_a_schedule_is_written_in_one_of_five_ways(key: str, kind: ScheduleKind) -> None:
    calendar = read(f"""
        entries:
          a:
            {key}
            job: look
    """)

    rule = calendar.entries[0].rule

    assert rule is not None
    assert rule.kind is kind
    assert compile_rule(rule).next_after(NOW) is not None
    assert calendar.warnings == ()


def test_an_entry_without_a_schedule_has_no_rule() -> None:
    assert read("entries: {a: {steps: [look]}}").entries[0].rule is None


def test_anchors_and_merge_keys_are_supported() -> None:
    calendar = read("""
        x-night: &night {timezone: Europe/Berlin, timeout: 3h}
        entries:
          a: {<<: *night, schedule: every day at 02:00, job: look}
          b: {<<: *night, timeout: 1h, job: look}
    """)

    a, b = calendar.entries

    assert a.rule is not None
    assert (a.rule.timezone, a.policy.timeout, b.policy.timeout) == (
        "Europe/Berlin",
        timedelta(hours=3),
        timedelta(hours=1),
    )


def test_a_broken_job_is_the_reason_why_its_own_entries_cannot_run() -> None:
    calendar = read("""
        entries:
          a: {schedule: every day at 02:00, steps: [look, torn]}
          b: {schedule: every day at 02:00, job: look}
    """)

    assert list(calendar.broken) == ["a"]
    assert 'job "torn" is broken: torn.py:1: ' in calendar.broken["a"]
    assert [(each.name, each.enabled) for each in calendar.entries] == [("a", True), ("b", True)]


def test_a_job_run_by_its_own_name_is_an_entry_of_one_step() -> None:
    description = jobs()["vacuum"]
    assert isinstance(description, JobDescription)

    made = entry_for_job(description, {"full": True})

    assert (made.name, made.rule, made.steps[0].params) == ("vacuum", None, {"full": True})
    assert made.steps[0].locks == {"postgres": "exclusive"}
    assert made.policy.timeout >= description.timeout


# --- warnings ---


def test_only_entries_that_need_one_lock_exclusively_at_the_same_time_are_warned_about() -> None:
    calendar = read("""
        entries:
          daily: {schedule: every day at 02:00, job: vacuum}
          quarter: {schedule: "first saturday of jan, apr, jul, oct at 02:00", job: verify, params: {root: /b}}
          other-zone: {schedule: every day at 03:00, timezone: Europe/Berlin, locks: [docker], job: look}
          docker: {cron: "0 2 * * 1", locks: [docker], job: look}
          shared: {schedule: every day at 02:00, job: look, locks: {x: shared}}
          also-shared: {schedule: every day at 02:00, job: look, locks: {x: shared}}
          off: {schedule: every day at 02:00, job: vacuum, enabled: false}
    """)

    ending = "one waits for the other, at most its lock_wait of 10m; change one of the schedules"
    first, second = calendar.warnings
    assert first == (
        'schedules.yaml:4:23: entry "quarter": is due at the same time as "daily", first Sat 2026-04-04 02:00 UTC, '
        f'and both need the lock "postgres": {ending}'
    )
    # 03:00 in Berlin is 02:00 UTC while it is winter there.
    assert second == (
        'schedules.yaml:6:18: entry "docker": is due at the same time as "other-zone", first Mon 2026-03-09 02:00 '
        f'UTC, and both need the lock "docker": {ending}'
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("entries: {a: {at: 2020-01-01T01:00, job: look}}", "is in the past; remove the entry"),
        ("entries: {a: {oncalendar: 2020-01-01, job: look}}", "is in the past; remove the entry"),
        ("entries: {a: {job: look, retries: 2}}", "none of its jobs is repeatable"),
        ("entries: {a: {steps: [{job: look, retries: 2}]}}", 'job "look" is not repeatable'),
        (
            "entries: {a: {job: look, after: {entry: b, within: 1h}}, b: {job: look, enabled: false}}",
            'entry "b" is disabled',
        ),
        ("targets: {}", "the calendar has no entries"),
    ],
)
def test_a_valid_but_doubtful_calendar_has_a_warning(text: str, expected: str) -> None:
    (warning,) = read(text).warnings

    assert expected in warning
    assert warning.startswith("schedules.yaml:")


# --- fingerprints and changes ---


def test_a_fingerprint_depends_only_on_rule_policy_and_steps() -> None:
    one = read("entries: {a: {schedule: every day at 02:00, job: vacuum}}").entries[0]
    moved = read("# a line\nentries: {b: {title: T, runbook: R, schedule: every day at 02:00, job: vacuum}}").entries[0]

    assert fingerprint_of(one) == fingerprint_of(moved)
    for edit in (
        "schedule: every day at 02:01, job: vacuum",
        "schedule: every day at 02:00, job: vacuum, timeout: 9m",
        "schedule: every day at 02:00, job: vacuum, params: {full: true}",
        "schedule: every day at 02:00, job: vacuum, jitter: 1m",
    ):
        edited = read(f"entries: {{a: {{{edit}}}}}").entries[0]
        assert fingerprint_of(edited) != fingerprint_of(one)


def test_a_fingerprint_stays_the_same_between_versions() -> None:
    # A store holds them: another value here makes every entry look edited after an upgrade.
    one = read("entries: {a: {schedule: every day at 02:00, job: look}}").entries[0]

    assert fingerprint_of(one) == "518e15b1a221e6b4bd0efad6bf870c60c49a092d22e804c0fd15c3119f2e7605"


def test_a_changed_secret_is_named_without_its_value() -> None:
    # The params of a broken job are all secrets.
    text = """
        entries:
          a: {job: torn, params: {env: {AA: one-secret, BB: two-secret}, keys: [k1]}}
          b: {job: torn, params: {env: {AA: one-secret}}}
    """
    old = read(text)
    new = read(text.replace("{AA: one-secret, BB", "{AA: other-secret, BB").replace("k1", "k2"))

    assert changes_between(old, new) == ['"a": step torn: param env.AA changed', '"a": step torn: param keys.0 changed']
    assert changes_between(new, new) == []


def test_changes_are_described_in_english() -> None:
    old = read("""
        targets: {redis: {main: {url: "redis://a"}}, folders: {logs: {path: /l}}}
        entries:
          gone: {job: look}
          sunday: {schedule: every sunday at 02:00, job: vacuum}
          daily: {schedule: every day at 08:00, timeout: 30m, steps: [look, {vacuum: {full: true}}]}
          stays: {schedule: every day at 08:00, job: look}
          breaks: {job: look}
    """)
    new = read("""
        targets: {redis: {main: {url: "redis://b"}}, http: {web: {url: "http://w"}}}
        entries:
          weekly: {schedule: every sunday at 02:00, job: vacuum, formerly: sunday, enabled: false}
          daily:
            schedule: every day at 09:00
            timeout: 1h
            after: {entry: stays, within: 26h}
            blackout: [2026-12-24]
            steps: [{vacuum: {full: false, patience: 1m}}, verify: {root: /b}]
          stays: {schedule: every day at 08:00, job: look}
          breaks: {job: torn}
          fresh: {schedule: last saturday of the month at 01:00, job: look}
    """)

    assert changes_between(old, new) == [
        'renamed "sunday" to "weekly"',
        '"weekly": disabled',
        '"weekly": title: Sunday → Weekly',
        '"daily": schedule: every day at 08:00 (UTC) → every day at 09:00 (UTC)',
        '"daily": timeout: 30m → 1h',
        '"daily": after: none → stays within 1d2h',
        '"daily": blackout: none → 2026-12-24',
        '"daily": steps: look, vacuum → vacuum, verify',
        '"daily": step vacuum: param full: true → false',
        '"daily": step vacuum: param patience: default → "1m"',
        '"breaks": steps: look → torn',
        f'"breaks": cannot run: {new.broken["breaks"]}',
        'added "fresh": the last Saturday of the month at 01:00 (UTC)',
        'removed "gone"',
        'targets: redis "main" changed',
        'targets: added http "web"',
        'targets: removed folders "logs"',
    ]
    assert changes_between(new, new) == []


# --- files ---


def test_a_file_is_read_with_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("timezone: UTC\nentries: {a: {job: look}}\n", encoding="utf-8")

    calendar = load_calendar(path, jobs(), validate_all)

    assert (calendar.path, calendar.timezone, len(calendar.entries)) == (path, "UTC", 1)
    sha256sum = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout.split()[0]
    assert calendar.digest == sha256sum


def test_the_calendar_is_the_configured_one_or_that_of_the_working_directory_or_the_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = Settings(_env_file=None, state_dir=tmp_path)

    assert calendar_path(plain) == shipped("schedules.yaml")
    (tmp_path / "schedules.yaml").touch()
    assert calendar_path(plain) == tmp_path / "schedules.yaml"
    assert calendar_path(plain.model_copy(update={"calendar": Path("/etc/m.yaml")})) == Path("/etc/m.yaml")


def test_the_registry_validates_the_params_of_all_steps_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    folder.mkdir()
    (folder / "sweep.py").write_text(
        '"""Sweep."""\nfrom maintd.job import JobParams, job\n\nclass Params(JobParams):\n    rooms: int = 1\n\n'
        "@job()\ndef run(ctx, params): ...\n",
        encoding="utf-8",
    )
    (folder / "split.py").write_text("import (", encoding="utf-8")
    registry = JobRegistry((folder,))
    text = "timezone: UTC\nentries:\n  a: {steps: [sweep: {rooms: 3}, sweep: {rooms: many}]}\n  b: {job: split}\n"

    with pytest.raises(CalendarError) as caught:
        parse_calendar(text, "s.yaml", registry.jobs, registry.validate_all)
    good = parse_calendar(text.replace("many", "4"), "s.yaml", registry.jobs, registry.validate_all)

    (problem,) = caught.value.problems
    assert problem.startswith('s.yaml:3:42: entry "a": step "sweep": param "rooms": ')
    assert "split.py:1" in good.broken["b"]


def test_the_cost_of_an_entry_does_not_grow_with_their_number() -> None:
    def read(count: int) -> Calendar:
        lines = [f"  e{n}: {{schedule: every day at {n % 24:02}:{n % 60:02}, job: vacuum}}\n" for n in range(count)]
        return parse_calendar("timezone: UTC\nentries:\n" + "".join(lines), "s.yaml", jobs(), now=NOW)

    calendar = read(10_000)

    assert len(calendar.entries) == 10_000
    assert 0 < len(calendar.warnings) <= 20
    assert calls_of(lambda: read(2_000)) < 4 * 1.5 * calls_of(lambda: read(500))
    assert loaded()
