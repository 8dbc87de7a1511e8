"""Which sets of backups are kept, and their names."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maintd.checks.backup_sets.layout import (
    FORMAT,
    MANIFEST,
    FoundSet,
    find_sets,
    is_set,
    is_temporary,
    safe_name,
    set_name,
    temporary_name,
)
from maintd.checks.backup_sets.retention import Keep, deletions, kept
from maintd.checks.backups.names import instants, series_of
from maintd.checks.backups.set_files import compare_manifest, is_sealed

NOW = datetime(2026, 3, 1, 2, tzinfo=UTC)
USUAL = Keep(last=3, daily=7, weekly=4, monthly=6)


def found(*ages: float, bad: tuple[float, ...] = ()) -> list[FoundSet]:
    """Sets of these ages in days, newest first."""
    made = []
    for age in sorted(ages):
        at = NOW - timedelta(days=age)
        made.append(FoundSet(Path("/sets") / set_name(at), at, 1, "damaged" if age in bad else "", {}))
    return made


def ages(sets: list[FoundSet]) -> list[float]:
    return [round((NOW - one.made_at).total_seconds() / 86400, 3) for one in sets]


def test_a_year_of_nights_keeps_seven_days_four_weeks_and_six_months() -> None:
    left = ages(kept(found(*range(365)), USUAL))

    # 1 March 2026 is a Sunday: the last nights of its week and of the three before are those of 1 March, 22, 15 and
    # 8 February. Of the months: 1 March, then the last nights of February, January, December, November and October.
    days, weeks, months = {0, 1, 2, 3, 4, 5, 6}, {0, 7, 14, 21}, {0, 1, 29, 60, 91, 121}
    assert set(left) == days | weeks | months


def test_sets_that_ended_long_ago_are_kept_as_if_they_were_of_today() -> None:
    assert ages(kept(found(*range(900, 930)), USUAL))[:7] == [900, 901, 902, 903, 904, 905, 906]


def test_a_bad_set_goes_only_when_as_many_good_ones_as_days_are_newer() -> None:
    keep = Keep(last=1, daily=3, weekly=0, monthly=0)

    few = deletions(found(0, 1, 2, bad=(2,)), keep, lambda one: True)
    enough = deletions(found(0, 1, 2, 3, bad=(3,)), keep, lambda one: True)

    assert few == []
    assert ages([one.found for one in enough]) == [3]


def test_nothing_goes_while_the_newest_is_bad_or_has_decayed() -> None:
    keep = Keep(last=1, daily=1, weekly=0, monthly=0)

    assert deletions(found(0, 1, 2, bad=(0,)), keep, lambda one: True) == []
    assert deletions(found(0, 1, 2), keep, lambda one: False) == []


SETS = st.lists(
    st.tuples(st.integers(0, 40_000), st.booleans(), st.booleans()),
    min_size=1,
    max_size=30,
    unique_by=lambda one: one[0],
)
KEEPS = st.builds(Keep, st.integers(1, 4), st.integers(0, 8), st.integers(0, 5), st.integers(0, 7))


@given(SETS, KEEPS)
def test_what_replaces_a_deleted_set_is_good_sound_newer_and_stays(
    drawn: list[tuple[int, bool, bool]], keep: Keep
) -> None:
    made, sound = [], {}
    for minutes, good, whole in sorted(drawn):
        at = NOW - timedelta(minutes=minutes)
        made.append(FoundSet(Path("/sets") / set_name(at), at, 1, "" if good else "damaged", {}))
        sound[made[-1].path.name] = whole

    going = deletions(made, keep, lambda one: sound[one.path.name])

    names = {one.found.path.name for one in going}
    for one in going:
        assert one.successor.good
        assert sound[one.successor.path.name]
        assert one.successor.path.name > one.found.path.name
        assert one.successor.path.name not in names
    if going:
        assert made[0].path.name not in names
    good = [one for one in made if one.good and sound[one.path.name]]
    assert not good or any(one.path.name not in names for one in good)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=63))
def test_no_name_of_a_database_changes_the_series_or_the_date_of_its_dump(name: str) -> None:
    path = f"set-20260301T020000Z/postgres-main.{safe_name(name)}.dump"

    assert series_of(path) == f"set-#/postgres-main.{safe_name(name)}.dump"
    assert next(instants(path)) == NOW
    assert "/" not in safe_name(name)


def test_names_that_are_dates_stay_apart() -> None:
    names = ["shop_20240101", "shop_20240102", "march", "may", "sun", "1790000000", "2026-W09", "a/b", "..", "Odd.Name"]

    assert len({series_of(f"set-20260301T020000Z/{safe_name(name)}.dump") for name in names}) == len(names)


def test_a_set_that_is_written_or_deleted_is_none() -> None:
    name = set_name(NOW)

    assert is_set(name)
    assert [is_temporary(temporary_name(name, why)) for why in ("partial", "deleted")] == [True, True]
    assert not is_set(temporary_name(name, "partial"))
    assert not is_temporary(".set-keep")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sets") / set_name(NOW)
    made.mkdir()
    (made / "a.tar.gz").write_bytes(b"x")
    (made / "SHA256SUMS").write_text("")
    return made


@given(st.binary(max_size=80) | JSON.map(lambda value: json.dumps(value).encode()))
def test_whatever_is_in_place_of_a_manifest_makes_no_good_set(folder: Path, data: bytes) -> None:
    (folder / MANIFEST).write_bytes(data)

    assert [one.good for one in find_sets(folder.parent)] == [False]
    assert compare_manifest(folder)[0] != []
    assert not is_sealed(folder / "a.tar.gz")


@given(JSON, JSON, JSON, JSON)
def test_fields_of_a_manifest_may_be_anything(
    folder: Path, size: object, sha: object, missing: object, ok: object
) -> None:
    file = {"size_bytes": size, "sha256": sha, "kind": ok, "verified": ok}
    text = json.dumps({"format": FORMAT, "files": {"a.tar.gz": file}, "missing": missing, "verified": ok})
    (folder / MANIFEST).write_text(text)

    assert [one.good for one in find_sets(folder.parent)] == [False]
    assert compare_manifest(folder)[0] != []
    assert not is_sealed(folder / "a.tar.gz")


def test_a_manifest_that_is_nested_without_end_is_none(folder: Path) -> None:
    (folder / MANIFEST).write_text("[" * 200_000)

    assert "nested too deeply" in find_sets(folder.parent)[0].problem
