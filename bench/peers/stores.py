"""What contenders' own stores hold of their runs, read by SQL beside them, so also when they are not up."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psycopg


@dataclass(frozen=True)
class Record:
    """A run: its state in the contender's own word, and both its times as they are stored; None: not stored."""

    state: str
    started: object
    ended: object


def in_sqlite(path: Path, query: str) -> list[Record]:
    """`query` asks for state, start and end of each run; there are none before the file and the table are made."""
    if not path.exists():
        return []
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        try:
            return [Record(*row) for row in connection.execute(query)]
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return []
            raise


def in_postgres(url: str, query: str) -> list[Record]:
    """The same in a database."""
    with psycopg.connect(url) as connection:
        try:
            return [Record(*row) for row in connection.execute(query)]
        except psycopg.errors.UndefinedTable:
            return []
