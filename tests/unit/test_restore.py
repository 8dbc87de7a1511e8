"""What a restored backup is compared with, and the goals of recovery time and recovery point."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from maintd.checks.restore.cluster import cluster_bytes, wal_limit
from maintd.checks.restore.databases import Query, extension_criterion, objects_of, query_criterion, table_criteria
from maintd.checks.restore.objectives import loss_criteria, time_criteria
from maintd.checks.restore.scratch import missing_extension
from maintd.checks.restore.sources import longest_gap
from maintd.model.evidence import CheckStatus

OK, FAIL, WARN, UNKNOWN = CheckStatus.OK, CheckStatus.FAIL, CheckStatus.WARN, CheckStatus.UNKNOWN
NOW = datetime(2026, 11, 29, 4, tzinfo=UTC)
MIB = 1 << 20


def table(rows: int | None, content: str | None = "1") -> dict[str, Any]:
    return {"rows": rows, "hash": content}


@pytest.mark.parametrize(
    ("wanted", "found", "failed"),
    [
        ({"a": table(2)}, {"a": table(2)}, set()),
        ({"a": table(2)}, {}, {"tables missing"}),
        ({}, {"a": table(2)}, {"tables that the original does not have"}),
        ({"a": table(2)}, {"a": table(1, "9")}, {"tables whose rows differ"}),
        ({"a": table(2)}, {"a": table(2, "9")}, {"tables whose content differs"}),
        ({"a": table(0)}, {"a": table(0)}, set()),
        ({"a": table(2, None)}, {"a": table(2, "9")}, {"tables without a hash in the manifest"}),
        ({"a": table(2, None)}, {"a": table(3)}, {"tables whose rows differ", "tables without a hash in the manifest"}),
        ({"a": table(None, None)}, {"a": table(3)}, {"tables without a hash in the manifest"}),
    ],
)
def test_tables_are_compared_by_name_rows_and_content(
    wanted: dict[str, Any], found: dict[str, Any], failed: set[str]
) -> None:
    assert {one.name for one in table_criteria(wanted, found) if one.status is not OK} == failed


def test_a_manifest_without_rows_is_unknown() -> None:
    assert [one.status for one in table_criteria(None, {"a": table(2)})] == [UNKNOWN]


def test_extensions_of_another_version_warn_and_more_of_them_do_not() -> None:
    assert extension_criterion({"x": "1.0"}, {"x": "1.0", "y": "2"}).status is OK
    assert extension_criterion({"x": "1.0"}, {"x": "1.1"}).status is WARN
    assert "x missing instead of 1.0" in extension_criterion({"x": "1.0"}, {}).hint


@pytest.mark.parametrize(
    ("expect", "value", "status"),
    [
        ({"equals": 3}, 3, OK),
        ({"equals": 3}, 4, FAIL),
        ({"equals": "v2"}, "v2", OK),
        ({"at_least": 3}, Decimal("3.0"), OK),
        ({"at_least": 3}, 2, FAIL),
        ({"at_least": 3}, "many", FAIL),
        ({"at_most": 3}, 4, FAIL),
        ({"at_least": 3}, None, FAIL),
        ({"max_age": "1d"}, NOW - timedelta(hours=23), OK),
        ({"max_age": "1d"}, NOW - timedelta(hours=25), FAIL),
        ({"max_age": "1d"}, datetime(2026, 11, 29), OK),  # noqa: DTZ001 - a timestamp without time zone, as UTC
        ({"max_age": "1d"}, date(2026, 11, 29), OK),
        ({"max_age": "1d"}, date(2026, 11, 27), FAIL),
        ({"max_age": "1d"}, 3, FAIL),
    ],
)
def test_the_value_of_a_query_is_compared_with_what_is_expected(
    expect: dict[str, Any], value: object, status: CheckStatus
) -> None:
    query = Query.model_validate({"sql": "SELECT 1", **expect})

    assert query_criterion("q", query, value, NOW).evaluate().status is status


def test_objects_of_a_listing_are_without_data_and_numbers() -> None:
    listing = b"""; Archive created at 2026-11-29
217; 1259 16389 TABLE public a keeper
3325; 0 16389 TABLE DATA public a keeper
3330; 0 0 SEQUENCE SET public a_id_seq keeper
3; 3079 16400 EXTENSION - pg_trgm
3326; 0 0 COMMENT - EXTENSION pg_trgm
3335; 0 0 ACL public TABLE "odd name" odd Role
"""

    assert objects_of(listing) == [
        "TABLE public a keeper",
        "EXTENSION - pg_trgm",
        "COMMENT - EXTENSION pg_trgm",
        'ACL public TABLE "odd name" odd Role',
    ]


def test_a_query_that_expects_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="expect something"):
        Query.model_validate({"sql": "SELECT 1"})


def test_the_longest_gap_counts_until_now_and_only_within_its_time() -> None:
    def ago(*hours: float) -> list[datetime]:
        return [NOW - timedelta(hours=hour) for hour in hours]

    within = timedelta(days=8)

    assert longest_gap(ago(2, 26, 50), NOW, within) == timedelta(hours=24)
    assert longest_gap(ago(40, 64), NOW, within) == timedelta(hours=40)
    assert longest_gap(ago(2, 80, 104), NOW, within) == timedelta(hours=78)
    assert longest_gap(ago(2, 400), NOW, within) == timedelta(hours=2)
    assert longest_gap(ago(400), NOW, within) is None


def test_an_older_backup_has_no_check_of_the_recovery_point() -> None:
    day = timedelta(days=1)

    assert loss_criteria(None, None, day) == []
    assert [one.status for one in loss_criteria(day * 2, day * 2, day)] == [FAIL, WARN]


def test_former_drills_count_from_the_third_on_and_a_minute_is_no_trend() -> None:
    def statuses(seconds: float, *former: float) -> list[CheckStatus]:
        taken = timedelta(seconds=seconds)
        return [one.status for one in time_criteria(taken, timedelta(hours=1), former, 2.0)]

    assert statuses(900, 100, 100) == [OK]
    assert statuses(900, 100, 100, 100) == [OK, WARN]
    assert statuses(199, 100, 100, 100) == [OK, OK]
    assert statuses(50, 2, 2, 2) == [OK, OK]  # 25 times as long, but within a minute
    assert statuses(3700, 3600, 3600, 3600) == [FAIL, OK]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        # The messages of Postgres 15 and 14, of a later version of an extension, and of a function in C.
        (
            'ERROR:  extension "x" is not available; DETAIL:  Could not open extension control file "/usr/x.control"',
            "not_configured",
        ),
        ('ERROR:  could not open extension control file "/usr/share/…/x.control": No such file', "not_configured"),
        ('ERROR:  extension "x" has no installation script nor update path for version "9"', "not_configured"),
        ('ERROR:  could not access file "$libdir/postgis-3": No such file or directory', "not_configured"),
        ('ERROR:  role "keeper" does not exist', None),
    ],
)
def test_an_extension_that_this_machine_lacks_is_not_the_fault_of_the_backup(text: str, cause: str | None) -> None:
    found = missing_extension(text)

    assert (found.cause if found is not None else None) == cause


def test_the_space_of_a_cluster_has_room_for_its_wal_twice() -> None:
    # 64 MiB of an empty cluster; of WAL a quarter of the database, at least 32 and at most 512 MiB.
    assert cluster_bytes(0) == (64 + 2 * 32) * MIB
    assert cluster_bytes(1024 * MIB) == (64 + 2 * 256 + 1024) * MIB
    assert wal_limit(1 << 40) == 512 * MIB
