"""SQL in hints: what is shown can be pasted into psql and does nothing else, whatever the names in it are."""

from __future__ import annotations

from psycopg import sql


def identifier(*parts: str) -> str:
    """A name in double quotes, such as `"public"."orders"`. Nothing in it can end the statement that has it."""
    return sql.Identifier(*parts).as_string()


def statement(text: str, about: str = "") -> str:
    """A statement, after what it is about, whose names must be identifiers.

    It has no comment: a terminal breaks a long hint into lines, and psql would execute what follows on the next one. A
    name that cannot be shown as it is would be that of another object when it is pasted.
    """
    shown = text if text.isprintable() else "(a name has characters that cannot be shown: write the statement yourself)"
    return f"{about}: {shown}" if about else shown
