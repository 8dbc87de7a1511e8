"""The table of last days of support: up to date with its data file, and unknown where nothing is published."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path
from types import ModuleType

import pytest

from maintd.checks.docker.end_of_life import Software, Support, age_criterion, software, support, support_criterion
from maintd.checks.docker.end_of_life_table import AS_OF, ENDS, SOURCES
from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus

ROOT = Path(__file__).parents[2]
TODAY = date(2026, 11, 29)
YEAR = timedelta(days=365)


def criterion(product: str, version: str, today: date = TODAY) -> Criterion | None:
    return support_criterion("app", Software(product, version), {}, today, timedelta(days=90), YEAR)


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("data_generate", ROOT / "docs/data/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the data file and the module that is made of it --------------------------------------------------------------


def test_the_table_is_up_to_date_with_its_data_and_the_age_of_each_product_is_printed() -> None:
    checked = subprocess.run(
        [sys.executable, ROOT / "docs/data/generate.py", "--check"], capture_output=True, text=True, check=False
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert [line.split(":")[0] for line in checked.stdout.splitlines()] == list(ENDS)
    assert all("days old" in line for line in checked.stdout.splitlines())


def test_data_of_ten_years_ago_are_no_error() -> None:
    generate = generator()
    text = generate.DATA.read_text(encoding="utf-8")

    lines = list(generate.ages(text, TODAY + timedelta(days=3653)))

    assert len(lines) == len(ENDS)
    assert all(int(line.split(", ")[1].split()[0]) > 3653 for line in lines)


def test_every_product_has_a_source_a_day_and_releases_in_order() -> None:
    assert set(SOURCES) == set(AS_OF) == set(ENDS)
    for product, releases in ENDS.items():
        assert SOURCES[product].startswith("https://")
        figures = [tuple(map(int, release.split("."))) for release in releases]
        assert figures == sorted(figures), product


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[a]\nsource="s"\nas_of=2026-01-01\n[a.releases]\n"1" = true\n', "a 1: must be a date"),
        ('[a]\nsource="s"\nas_of=2026-01-01\n[a.releases]\n"1" = ""\n', "a 1: must be a date"),
        ('[a]\nsource="s"\nas_of=2026-01-01\n[a.releases]\n"3.10" = "x"\n"3.9" = "x"\n', "oldest first"),
        ('[a]\nsource="s"\nas_of=2026-01-01\n[a.releases]\nlatest = "x"\n', "must be numbers"),
        ('[a]\nsource="s"\n[a.releases]\n', "must have source, as_of"),
        ('[a]\nsource="s"\nas_of="soon"\n[a.releases]\n', "must have source, as_of"),
    ],
)
def test_wrong_data_are_refused_with_the_product(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generator().module(text)


# --- releases -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("product", "version", "ends"),
    [
        # As the projects publish them; the pages are named in docs/data/end_of_life.toml
        ("nodejs", "24.11.0", date(2028, 4, 30)),
        ("nodejs", "26.1.0", date(2029, 4, 30)),
        ("postgresql", "18.1", date(2030, 11, 14)),
        ("python", "3.12.12", date(2028, 10, 31)),
        ("python", "3.14.0", date(2030, 10, 31)),
        ("python", "3.15.0", date(2031, 10, 31)),
        ("redis", "7.4.2", date(2029, 12, 1)),
        ("alpine-linux", "3.24.1", date(2028, 6, 1)),
        ("promtail", "3.5.1", date(2026, 3, 2)),
    ],
)
def test_current_releases_have_their_published_dates(product: str, version: str, ends: date) -> None:
    found = support(Software(product, version))

    assert found is not None
    assert found.ends == ends


@pytest.mark.parametrize(
    ("product", "version"),
    [
        ("nodejs", "8.17.0"),
        ("nodejs", "15.14.0"),
        ("postgresql", "9.5.25"),
        ("python", "2.7.18"),
        ("python", "3.6.15"),
        ("alpine-linux", "3.9.6"),
        ("debian", "8"),
        ("grafana", "7.5.17"),
        ("nginx", "1.18.0"),
        ("traefik", "2.4.14"),
        ("prometheus", "2.50.0"),
    ],
)
def test_releases_that_ended_years_ago_fail(product: str, version: str) -> None:
    found = criterion(product, version)

    assert found is not None
    assert found.status is CheckStatus.FAIL, found


def test_what_is_not_published_is_unknown_with_the_reason_and_no_alarm() -> None:
    for product, version, reason in (
        ("postgresql", "19.1", "no date was published"),
        ("alertmanager", "0.28.1", "publishes no end of support"),
    ):
        found = criterion(product, version)

        assert found is not None
        assert found.status is CheckStatus.UNKNOWN
        assert reason in found.unknown
        assert found.optional


@pytest.mark.parametrize(
    ("product", "version", "optional"),
    [
        ("postgresql", "20.0", True),
        ("nodejs", "27.0.1", True),
        ("python", "4.0", True),
        ("redis", "9", True),
        # older than the table, between its releases, or not known: it may well be out of support
        ("postgresql", "7.4.1", False),
        ("python", "2.6.9", False),
        ("redis", "6.1.240", False),
        ("redis", "8", False),
        ("redis", "", False),
    ],
)
def test_a_release_that_the_table_lacks_is_no_alarm_only_when_it_is_newer(
    product: str, version: str, optional: bool
) -> None:
    found = criterion(product, version)

    assert found is not None
    assert found.status is CheckStatus.UNKNOWN
    assert found.optional is optional


def test_a_release_without_a_published_end_is_unknown_when_the_table_is_old() -> None:
    assert criterion("redis", "8.8.0") is None

    later = criterion("redis", "8.8.0", AS_OF["redis"] + timedelta(days=366))

    assert later is not None
    assert later.status is CheckStatus.UNKNOWN
    assert "366 days ago" in later.unknown
    assert not later.optional


def test_an_old_table_warns_and_its_dates_are_still_used() -> None:
    old = AS_OF["nodejs"] + timedelta(days=366)

    age = age_criterion({"nodejs"}, old, YEAR)
    recent = age_criterion({"nodejs"}, old - timedelta(days=2), YEAR)
    ended = criterion("nodejs", "20.1.0", old)

    assert age is not None
    assert age.status is CheckStatus.WARN
    assert "nodejs" in age.hint
    assert recent is not None
    assert recent.status is CheckStatus.OK
    assert ended is not None
    assert ended.status is CheckStatus.FAIL


def test_the_age_is_not_reported_when_the_table_was_not_used() -> None:
    assert age_criterion(set(), TODAY, YEAR) is None


def test_debians_code_names_are_understood() -> None:
    assert software("library/debian", "bookworm-slim", {}, {}) == Software("debian", "12")
    assert software("library/debian", "13.1", {}, {}) == Software("debian", "13.1")
    assert software("library/debian", "stable", {}, {}) == Software("debian", "")
    assert support(Software("debian", "12")) == Support("12", date(2026, 7, 11))
