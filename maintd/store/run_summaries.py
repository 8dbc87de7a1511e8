"""Runs without their steps, by id."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy.engine import Connection

from maintd.model.run import RunSummary
from maintd.store import mapping
from maintd.store.prepared import PreparedForValues
from maintd.store.tables import runs

_SUMMARIES = PreparedForValues(mapping.select_runs(*mapping.SUMMARY).order_by(runs.c.id), runs.c.id)


def summaries(conn: Connection, run_ids: Collection[int]) -> dict[int, RunSummary]:
    """Runs without their steps, by id; those that were deleted are left out."""
    return {row.id: mapping.summary(row) for row in _SUMMARIES.rows(conn, run_ids)} if run_ids else {}
