"""References to secrets that are misspelt or not closed: errors where they are written, not the secret itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.servers.maintd import JOBS

from maintd.calendar import parse_calendar
from maintd.config.sources import load_settings
from maintd.errors import CalendarError, SettingsError
from maintd.job.references import resolve_references
from maintd.job.registry import JobRegistry
from maintd.secret_params import malformed_reference

MALFORMED = {
    "${file:/run/x": 'the reference "${file:" has no closing brace; write "${file:…}"',
    "postgres://op:${file:/run/x@db/shop": 'the reference "${file:" has no closing brace; write "${file:…}"',
    "${secret:a.b.c": 'the reference "${secret:" has no closing brace; write "${secret:…}"',
    "${fiel:/run/x}": '"${fiel:" begins no reference; did you mean "${file:"?',
    "${fille:/run/x}": '"${fille:" begins no reference; did you mean "${file:"?',
    "${File:/run/x}": '"${File:" begins no reference; did you mean "${file:"?',
    "${path:/run/x}": '"${path:" begins no reference; did you mean "${file:"?',
    "${ file:/run/x}": '"${ file:" begins no reference; did you mean "${file:"?',
    "${secrets:a.b.c}": '"${secrets:" begins no reference; did you mean "${secret:"?',
    "{file:/run/x}": '"{file:" begins no reference; did you mean "${file:"?',
    "${file:}": 'the reference "${file:" names nothing; write "${file:PATH}"',
    "${PGPASSWORD": 'a reference "${NAME" has no closing brace; write "${NAME}"',
    "${A}-${B": 'a reference "${NAME" has no closing brace; write "${NAME}"',
}

LEFT_ALONE = [
    "$",
    "costs 5$",
    "$HOME/x",
    "${HOME}",
    "${file:/run/x}",
    "${file:run/x}",
    "${file: /run/x}",
    "a ${A} and ${file:/b} and ${secret:a.b.c}",
    "${HOME:-/root}",
    "${NAME:=x}",
    "${NAME:?is not set}",
    "${NAME:+x}",
    "${NAME:0:3}",
    "${FILE%.gz}",
    "${#NAME}",
    "${file%.gz}",
    "^a{2,3}$",
    'sum(rate(x{job="a"}[5m]))',
    '{"file": "/run/x"}',
    "{file: x}",
    "awk '{print $1}'",
    "grep '${'",
    "files: {a: b}",
]


@pytest.mark.parametrize("text", MALFORMED)
def test_a_reference_that_was_meant_and_is_none_is_named(text: str) -> None:
    assert malformed_reference(text) == MALFORMED[text]
    assert "run/x" not in malformed_reference(text)


@pytest.mark.parametrize("text", LEFT_ALONE)
def test_other_texts_with_dollars_and_braces_are_left_alone(text: str) -> None:
    assert malformed_reference(text) == ""


@pytest.mark.parametrize("text", [text for text in MALFORMED if text not in ("${A}-${B", "${file:}")])
def test_what_is_called_malformed_would_have_been_used_as_it_is_written(text: str) -> None:
    assert resolve_references(text, {}) == text


CALENDAR = """timezone: UTC
targets:
  postgres:
    main: {{dsn: "host=db", password: "{target}"}}
notify:
  channels:
    pager: {{webhook: "https://pager.example.com/x", secret: "{channel}"}}
entries:
  nightly:
    title: Nightly
    schedule: every day at 02:00
    ping: "{ping}"
    steps: [{{greet: {{whom: "{param}"}}}}]
"""
GOOD = {"target": "${A}", "channel": "${file:/run/x}", "ping": "https://hc.example.com/${KEY}", "param": "${HOME:-x}"}


@pytest.fixture(scope="module")
def registry() -> JobRegistry:
    return JobRegistry([JOBS])


def problems(registry: JobRegistry, **texts: str) -> list[str]:
    try:
        parse_calendar(CALENDAR.format(**{**GOOD, **texts}), "c.yaml", registry.jobs, registry.validate_all)
    except CalendarError as error:
        return list(error.problems)
    return []


def test_validate_accepts_references_and_texts_of_shells(registry: JobRegistry) -> None:
    assert problems(registry) == []


@pytest.mark.parametrize(
    ("place", "line", "where"),
    [
        ("target", 4, "targets.postgres.main.password: "),
        ("channel", 7, "notify.channels.pager.secret: "),
        ("ping", 12, 'entry "nightly": ping: '),
        ("param", 13, 'param "whom": '),
    ],
)
def test_validate_names_a_malformed_reference_wherever_one_can_be(
    registry: JobRegistry, place: str, line: int, where: str
) -> None:
    found = problems(registry, **{place: "${fiel:/run/x}"})

    assert len(found) == 1, found
    assert found[0].startswith(f"c.yaml:{line}:")
    assert found[0].endswith(f'{where}"${{fiel:" begins no reference; did you mean "${{file:"?')


def test_settings_with_a_malformed_reference_are_refused_at_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "maintd.yaml"
    config.write_text('targets:\n  postgres: {main: {dsn: "host=db", password: "${file:/run/x"}}\n')

    with pytest.raises(SettingsError) as in_file:
        load_settings({"config": str(config)})
    monkeypatch.setenv("MAINTD_TARGETS__POSTGRES__MAIN__DSN", "host=x password=${fiel:/x}")
    with pytest.raises(SettingsError) as in_variable:
        load_settings({})

    assert in_file.value.message == (
        f"{config}:2: targets.postgres.main.password: "
        'the reference "${file:" has no closing brace; write "${file:…}"'
    )
    assert in_variable.value.message == (
        "MAINTD_TARGETS__POSTGRES__MAIN__DSN: targets.postgres.main.dsn: "
        '"${fiel:" begins no reference; did you mean "${file:"?'
    )
