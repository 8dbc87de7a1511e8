"""The remarks of the status about the rehearsals of windows, and when a rollback does not fit into one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from maintd.model.entry import Window
from maintd.operations.rehearsals import ProvenTime, remarks_about, too_short

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


def window(rollback_by: timedelta) -> Window:
    return Window(lasts=120 * MINUTE, rollback_by=rollback_by, rehearsal="rollback-rehearsal")


def proven(minutes: float, age: timedelta = DAY) -> ProvenTime:
    return ProvenTime(7, NOW - age, minutes * MINUTE)


@pytest.mark.parametrize(
    ("rollback_by", "minutes", "fits"),
    [(30, 20, True), (30, 20.1, False), (0, 1, False), (30, 0, True)],
)
def test_a_rollback_fits_when_one_and_a_half_times_its_time_does(rollback_by: int, minutes: float, fits: bool) -> None:
    assert (too_short(window(rollback_by * MINUTE), proven(minutes)) == "") is fits


def test_nothing_proven_is_no_reason_to_refuse() -> None:
    assert too_short(window(MINUTE), None) == ""


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (None, "it is not proven how long its rollback takes; run: maintd rehearse rollback"),
        (
            proven(5, 36 * DAY),
            "the last proof of how long its rollback takes is 36d old; run: maintd rehearse rollback",
        ),
        (proven(25), "rollback_by 30m is shorter than 37m30s, 1.5 times the time of the rehearsal"),
        (proven(5, 35 * DAY), None),
    ],
)
def test_the_status_has_a_remark_without_a_recent_proof(found: ProvenTime | None, text: str | None) -> None:
    remarks = list(remarks_about({"upgrade": window(30 * MINUTE)}, {"rollback-rehearsal": found}, NOW))

    assert len(remarks) == (text is not None)
    assert all(text is not None and text in remark for remark in remarks), remarks
