"""A database trigger that records how far each entry was planned, and by which schedule.

For an entry whose schedule is changed by reloads this determines the due times exactly: those of the old schedule up to
each change, and those of the new one after it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import psycopg

from maintd.model.entry import Rule

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_SQLITE = """
CREATE TABLE endurance_plans (id INTEGER PRIMARY KEY, entry TEXT, rule TEXT, seen INTEGER, through INTEGER);
CREATE TRIGGER endurance_plan AFTER UPDATE OF planned_through ON entries
WHEN OLD.name LIKE 'moving-%' AND OLD.planned_through <> NEW.planned_through
BEGIN
  INSERT INTO endurance_plans (entry, rule, seen, through)
  VALUES (OLD.name, OLD.rule, OLD.planned_through, NEW.planned_through);
END;
"""

_POSTGRES = """
CREATE TABLE endurance_plans (id bigserial PRIMARY KEY, entry text, rule text, seen timestamptz, through timestamptz);
CREATE FUNCTION endurance_plan() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO endurance_plans (entry, rule, seen, through)
  VALUES (OLD.name, OLD.rule, OLD.planned_through, NEW.planned_through);
  RETURN NULL;
END $$;
CREATE TRIGGER endurance_plan AFTER UPDATE OF planned_through ON entries FOR EACH ROW
WHEN (OLD.name LIKE 'moving-%' AND OLD.planned_through <> NEW.planned_through) EXECUTE FUNCTION endurance_plan();
"""

_READ = "SELECT entry, rule, seen, through FROM endurance_plans ORDER BY id"


class Planned(NamedTuple):
    """An entry was planned from `seen` through `through` (earlier, if a clock was set back) by its active schedule."""

    entry: str
    period: int  # seconds between the rule's instants
    seen: datetime
    through: datetime


def install(url: str) -> None:
    """Install the trigger. The tables of maintd must exist."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=30)) as conn:
            conn.executescript(_SQLITE)
    else:
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute(_POSTGRES.encode())


def read(url: str) -> list[Planned]:
    """Return all records in order."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=30)) as conn:
            rows = conn.execute(_READ).fetchall()
        return [Planned(entry, _period(rule), _moment(seen), _moment(through)) for entry, rule, seen, through in rows]
    with psycopg.connect(url, autocommit=True) as conn:
        found = conn.execute(_READ).fetchall()
    return [Planned(entry, _period(rule), seen, through) for entry, rule, seen, through in found]


def instants(period: int, after: datetime, until: datetime) -> Iterator[datetime]:
    """Yield the due times of `every: …s` in (after, until]; they count from 1970."""
    number = (after - EPOCH) // timedelta(seconds=period) + 1
    while (at := EPOCH + number * timedelta(seconds=period)) <= until:
        yield at
        number += 1


def _period(rule: str) -> int:
    return int(Rule.model_validate_json(rule).text.removesuffix("s"))


def _moment(microseconds: int) -> datetime:
    return EPOCH + timedelta(microseconds=microseconds)
