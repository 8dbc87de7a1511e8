"""The schema revision of a database: check it, and upgrade it."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Column, MetaData, Table, Text, insert, inspect, select
from sqlalchemy.engine import Connection

from maintd.errors import StoreUnusableError
from maintd.store.database import Database
from maintd.store.tables import create_all, metadata

MIGRATIONS = Path(__file__).parent / "migrations"

_version = Table("alembic_version", MetaData(), Column("version_num", Text))


def revisions() -> list[str]:
    """The known revisions, oldest first: the numbers at the start of the migrations' file names."""
    return sorted(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def current_revision(conn: Connection) -> str | None:
    """The database's revision; None without maintd's tables."""
    if not inspect(conn).has_table(_version.name):
        return None
    return conn.execute(select(_version.c.version_num)).scalar_one_or_none()


def require_current(database: Database) -> None:
    """Raises StoreUnusableError when the database has another revision than the code."""
    revision = database.read(current_revision)
    newest = revisions()[-1]
    if revision == newest:
        return
    _refuse_newer(revision)
    found = "has no maintd tables" if revision is None else f"is at revision {revision}"
    raise StoreUnusableError(f"database {found}, this maintd needs {newest}", "run: maintd db upgrade")


def upgrade(database: Database) -> None:
    """Upgrade the database to the newest revision. Other processes that try the same wait for it."""
    newest = revisions()[-1]
    if database.read(current_revision) != newest:
        database.migrate(lambda conn: _migrate(conn, newest))


def _migrate(conn: Connection, newest: str) -> None:
    revision = current_revision(conn)
    if revision == newest:
        return
    _refuse_newer(revision)
    if revision is None and not _has_tables(conn):
        # The schema that all migrations result in (a test compares them), without the cost of importing alembic.
        create_all(conn)
        _version.create(conn)
        conn.execute(insert(_version).values(version_num=newest))
        return
    run_migrations(conn)


def run_migrations(conn: Connection) -> None:
    """Apply the missing migrations with alembic, within the connection's transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = conn
    command.upgrade(config, "head")


def _has_tables(conn: Connection) -> bool:
    return bool(set(inspect(conn).get_table_names()) & set(metadata.tables))


def _refuse_newer(revision: str | None) -> None:
    known = revisions()
    if revision is not None and revision not in known:
        raise StoreUnusableError(
            f"database is at revision {revision}, this maintd knows only up to {known[-1]}",
            "install the maintd that upgraded it, or a newer one",
        )
