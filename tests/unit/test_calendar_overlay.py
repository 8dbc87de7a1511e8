"""An overlay changes single values of a calendar that others maintain, and cannot miss its mark silently."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest
from support.calendars import NOW, jobs, validate_all

from maintd.calendar import (
    Calendar,
    OverlayText,
    changes_between,
    fingerprint_of,
    load_calendar,
    load_configured,
    overlay_path,
    parse_calendar,
)
from maintd.config.settings import Settings
from maintd.errors import CalendarError
from maintd.model.entry import Entry

BASE = """\
timezone: UTC
defaults: {timeout: 30m, retries: 1}
targets:
  redis: {main: {url: "redis://old:6379/0"}}
entries:
  night:
    schedule: every day at 03:00
    steps:
      - vacuum: {patience: 2m, full: true}
      - look
      - vacuum
      - {job: verify, params: {root: /backups}, timeout: 10m}
  single: {job: vacuum, params: {full: true}, cron: 0 5 * * *}
"""


def merged(overlay: str, base: str = BASE) -> Calendar:
    above = OverlayText("local.yaml", dedent(overlay))
    return parse_calendar(base, "schedules.yaml", jobs(), validate_all, NOW, above)


def entry(calendar: Calendar, name: str = "night") -> Entry:
    return next(entry for entry in calendar.entries if entry.name == name)


def step_params(overlay: str, step: str, name: str = "night") -> dict[str, object]:
    return next(each.params for each in entry(merged(overlay), name).steps if each.name == step)


@pytest.mark.parametrize(
    ("overlay", "name", "step", "expected"),
    [
        ("entries: {night: {steps: {vacuum: {patience: 9m}}}}", "night", "vacuum", {"patience": "9m", "full": True}),
        ("entries: {night: {steps: {vacuum-2: {full: true}}}}", "night", "vacuum-2", {"full": True}),
        ("entries: {night: {steps: {verify: {root: /srv}}}}", "night", "verify", {"root": "/srv"}),
        ("entries: {single: {params: {patience: 1m}}}", "single", "vacuum", {"full": True, "patience": "1m"}),
        ("entries: {single: {steps: {vacuum: {full: false}}}}", "single", "vacuum", {"full": False}),
        ("entries: {night: {steps: [{vacuum: {tables: [a]}}]}}", "night", "vacuum", {"tables": ["a"]}),
    ],
)
def test_a_param_of_one_step_is_changed_and_the_others_stay(
    overlay: str, name: str, step: str, expected: dict[str, object]
) -> None:
    assert step_params(overlay, step, name) == expected


@pytest.mark.parametrize(
    ("undo", "expected"),
    [
        ("verify", {"root": "/srv"}),
        ("{job: verify, params: {root: /old}, timeout: 3m}", {"root": "/srv"}),
    ],
)
def test_a_param_of_an_undo_step_is_changed_by_its_name(undo: str, expected: dict[str, object]) -> None:
    base = BASE.replace("      - look\n", f"      - {{job: look, undo: {undo}}}\n")

    calendar = merged("entries: {night: {steps: {undo-look: {root: /srv}}}}", base)

    step = next(each for each in entry(calendar).steps if each.undoes == "look")
    assert (step.name, step.params) == ("undo-look", expected)
    assert list(step.overlaid) == ["root"]


def test_what_the_overlay_does_not_name_is_as_in_the_calendar() -> None:
    plain = parse_calendar(BASE, "schedules.yaml", jobs(), validate_all, NOW)
    changed = merged("entries: {night: {steps: {vacuum: {patience: 9m}}}}")

    assert [step.name for step in entry(changed).steps] == [step.name for step in entry(plain).steps]
    assert entry(changed, "single") == entry(plain, "single")
    assert changes_between(plain, changed) == ['"night": step vacuum: param patience: "2m" → "9m"']


def test_a_schedule_of_any_kind_replaces_that_of_the_calendar() -> None:
    changed = merged("""
        entries:
          night: {every: 6h, timeout: 2h}
          single: {enabled: false}
    """)

    assert entry(changed).rule is not None
    assert entry(changed).rule.text == "6h"  # type: ignore[union-attr] - checked above
    assert entry(changed).policy.timeout.total_seconds() == 7200
    assert not entry(changed, "single").enabled


def test_defaults_time_zone_and_targets_are_changed_by_key() -> None:
    changed = merged("""
        timezone: Europe/Berlin
        defaults: {retries: 3}
        targets:
          redis: {other: {url: "redis://new:6379/0"}}
    """)

    assert changed.timezone == "Europe/Berlin"
    assert entry(changed).policy.retries == 3
    assert entry(changed).policy.timeout.total_seconds() == 1800
    assert set(changed.targets.redis) == {"main", "other"}


@pytest.mark.parametrize(
    ("overlay", "expected"),
    [
        ("entries:\n  nigth: {enabled: false}", 'local.yaml:2:3: unknown entry "nigth"; did you mean "night"?'),
        (
            "entries: {night: {steps: {vacum: {}}}}",
            'local.yaml:1:27: entry "night": unknown step "vacum"; did you mean "vacuum"?',
        ),
        (
            "entries: {night: {steps: {vacuum: {ful: true}}}}",
            'local.yaml:1:36: entry "night": step "vacuum": unknown param "ful"; did you mean "full"?',
        ),
        (
            "entries: {night: {steps: {vacuum: {patience: long}}}}",
            'local.yaml:1:36: entry "night": step "vacuum": param "patience": "long" is not a duration;',
        ),
        ("entries: {night: {timeot: 1h}}", 'local.yaml:1:19: entry "night": unknown key "timeot"; did you mean'),
        ("entries: {night: {schedule: every sundya}}", 'local.yaml:1:29: entry "night": schedule: "sundya"'),
        (
            "entries: {night: {params: {full: true}}}",
            'local.yaml:1:19: entry "night": the entry has steps; write steps:',
        ),
        ("entries: {night: {steps: {vacuum: fast}}}", "params must be a mapping of names and values"),
        ("entries: {night: {steps: {vacuum: {full: a, full: b}}}}", 'duplicate param "full"'),
        ("entrys: {}", 'local.yaml:1:1: unknown key "entrys"; did you mean "entries"?'),
        ("- night", "local.yaml:1:1: an overlay must be a mapping"),
        ("entries: [night]", "local.yaml:1:10: entries must be a mapping"),
        ("timezone: Berlin", 'local.yaml:1:11: unknown time zone "Berlin"'),
        ("targets: {reddis: {main: {}}}", "local.yaml:1:11: targets: unknown"),
        ("a: [", "local.yaml:2:1: not YAML"),
    ],
)
def test_an_error_of_the_overlay_is_reported_at_its_place_in_the_overlay(overlay: str, expected: str) -> None:
    with pytest.raises(CalendarError) as caught:
        merged(overlay)

    assert any(expected in problem for problem in caught.value.problems), caught.value.problems
    assert all(problem.startswith("local.yaml:") for problem in caught.value.problems)


def test_a_mapping_in_a_param_is_changed_key_by_key_and_null_removes_one(tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    folder.mkdir()
    (folder / "keeps.py").write_text(
        '"""Keep."""\nfrom maintd.job import Context, JobParams, job\n\n\nclass Params(JobParams):\n'
        '    expect: dict[str, dict[str, str]] = {}\n    """What."""\n\n\n'
        "@job()\ndef run(ctx: Context, params: Params) -> None: ...\n",
        encoding="utf-8",
    )
    from maintd.job.registry import JobRegistry

    registry = JobRegistry((folder,), tmp_path / "cache.json")
    base = "timezone: UTC\nentries: {a: {steps: [keeps: {expect: {x: {age: 1d, size: 5}, y: {age: 2d}}}]}}\n"

    def expect(overlay: str) -> object:
        above = OverlayText("local.yaml", overlay)
        return parse_calendar(base, "s.yaml", registry.jobs, None, NOW, above).entries[0].steps[0].params["expect"]

    assert expect("entries: {a: {steps: {keeps: {expect: {x: {age: 9d}}}}}}") == {
        "x": {"age": "9d", "size": 5},
        "y": {"age": "2d"},
    }
    assert expect("entries: {a: {steps: {keeps: {expect: {x: null}}}}}") == {"y": {"age": "2d"}}
    with pytest.raises(CalendarError, match='unknown key to remove "z"; the keys are'):
        expect("entries: {a: {steps: {keeps: {expect: {z: null}}}}}")


def test_each_changed_value_names_its_place() -> None:
    changed = entry(
        merged("""\
            entries:
              night:
                timeout: 2h
                steps:
                  vacuum:
                    patience: 9m
        """)
    )

    assert changed.overlay == ("timeout (local.yaml:3)", "vacuum: patience=9m (local.yaml:6)")
    assert changed.steps[1].overlaid == {}


def test_a_moved_line_of_the_overlay_is_no_edit_of_the_entry() -> None:
    overlay = "entries: {night: {steps: {vacuum: {patience: 9m}}}}\n"

    assert fingerprint_of(entry(merged(overlay))) == fingerprint_of(entry(merged("# moved\n" + overlay)))
    assert fingerprint_of(entry(merged(overlay))) != fingerprint_of(entry(merged("# nothing\n")))


def test_the_digest_of_a_calendar_includes_its_overlay(tmp_path: Path) -> None:
    (tmp_path / "schedules.yaml").write_text(BASE, encoding="utf-8")
    settings = Settings(_env_file=None, state_dir=tmp_path, calendar=tmp_path / "schedules.yaml")
    without = load_configured(settings, jobs(), validate_all)

    (tmp_path / "schedules.local.yaml").write_text("entries: {night: {timeout: 2h}}", encoding="utf-8")
    beside = load_configured(settings, jobs(), validate_all)

    assert without.overlay is None
    assert beside.overlay == tmp_path / "schedules.local.yaml"
    assert beside.digest != without.digest
    assert entry(beside).policy.timeout.total_seconds() == 7200


def test_an_overlay_that_a_setting_names_and_that_is_missing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "schedules.yaml").write_text(BASE, encoding="utf-8")

    with pytest.raises(CalendarError, match=r"none.yaml: the file does not exist; .* correct MAINTD_CALENDAR_OVERLAY"):
        load_calendar(tmp_path / "schedules.yaml", jobs(), overlay=tmp_path / "none.yaml")


def test_the_shipped_calendar_has_its_overlay_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = Settings(_env_file=None, state_dir=tmp_path)

    assert overlay_path(plain) is None
    (tmp_path / "schedules.local.yaml").touch()
    assert overlay_path(plain) == tmp_path / "schedules.local.yaml"
    named = plain.model_copy(update={"calendar_overlay": Path("/etc/mine.yaml")})
    assert overlay_path(named) == Path("/etc/mine.yaml")


@pytest.mark.parametrize(
    ("steps", "left_out"),
    [
        ("[look]", ", without vacuum, vacuum-2, verify)"),
        ("[vacuum, look, vacuum, {verify: {root: /srv}}]", ", vacuum without its patience, full)"),
        ("[vacuum: {full: true}, look, vacuum]", ", without verify; vacuum without its patience)"),
        ("[{vacuum: {patience: 1m, full: false}}, look, vacuum, {job: verify, params: {root: /a}}, look]", ")"),
        ("{vacuum: {patience: 9m}}", ""),
    ],
)
def test_what_a_list_of_steps_leaves_out_is_shown_with_its_place(steps: str, left_out: str) -> None:
    shown = [text for text in entry(merged(f"entries: {{night: {{steps: {steps}}}}}")).overlay if "steps (" in text]

    assert [text.removeprefix("steps (local.yaml:1") for text in shown] == ([left_out] if left_out else [])


def test_an_entry_that_replaces_its_always_steps_names_those_that_are_left_out() -> None:
    base = f"{BASE}  ends: {{steps: [look], always: [verify: {{root: /b}}, look]}}\n"

    shown = entry(merged("entries: {ends: {always: [look]}}", base), "ends").overlay

    assert shown == ("always (local.yaml:1, without verify)",)
