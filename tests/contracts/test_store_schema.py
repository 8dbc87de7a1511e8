"""Opening a database: it is created, migrated or refused."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine
from sqlalchemy.engine import Connection
from support.clock import ManualClock
from support.servers.postgres import PostgresServer
from support.stores import NOON, queue, run_concurrently
from support.users import folder_for_all, output_without_write_access

from maintd.errors import SettingsError, StoreUnavailableError, StoreUnusableError
from maintd.store import Store, open_store, read_store, sqlite
from maintd.store.database import parse_url
from maintd.store.schema import revisions, run_migrations
from maintd.store.tables import metadata

CLOCK = ManualClock(NOON)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "maintd.db"


def open_file(path: Path, *, migrate: bool = True) -> Store:
    return open_store(f"sqlite:///{path}", clock=CLOCK, migrate=migrate)


def set_revision(path: Path, revision: str) -> None:
    conn = sqlite3.connect(path)
    conn.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    conn.commit()
    conn.close()


def schema_of(path: Path) -> set[tuple[object, ...]]:
    """Columns of all tables with type, nullability, default and place in the key; indexes by their definition."""
    conn = sqlite3.connect(path)
    tables = [row[0] for row in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    columns = {
        (table, *column[1:])
        for table in tables
        if table != "alembic_version"
        for column in conn.execute(f"PRAGMA table_info({table})")
    }
    definitions = conn.execute("SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
    indexes = {(" ".join(row[0].split()),) for row in definitions}
    conn.close()
    return columns | indexes


def migrated(conn: Connection) -> None:
    run_migrations(conn)
    conn.commit()


def test_migrations_create_the_tables_that_the_code_defines(store_url: str, request: pytest.FixtureRequest) -> None:
    if store_url.startswith("sqlite"):
        url = f"{store_url}.migrated"
    else:
        server = request.getfixturevalue("postgres_server")
        url = server.create(f"m{os.urandom(6).hex()}")
    engine = create_engine(parse_url(url))
    with engine.connect() as conn:
        migrated(conn)

        differences = compare_metadata(MigrationContext.configure(conn), metadata)

    engine.dispose()
    assert differences == []


def test_a_new_file_is_the_same_as_a_migrated_one(file: Path, tmp_path: Path) -> None:
    open_file(file).close()
    engine = create_engine(f"sqlite:///{tmp_path}/migrated.db")
    with engine.connect() as conn:
        migrated(conn)
    engine.dispose()

    assert schema_of(file) == schema_of(tmp_path / "migrated.db")


def test_a_new_database_has_the_same_indexes_as_a_migrated_one(postgres_server: PostgresServer) -> None:
    new, migrated_one = (postgres_server.create(f"m{os.urandom(6).hex()}") for _ in range(2))
    open_store(new, clock=CLOCK, migrate=True).close()
    engine = create_engine(parse_url(migrated_one))
    with engine.connect() as conn:
        migrated(conn)
    engine.dispose()

    assert indexes_of(new) == indexes_of(migrated_one)
    assert "ARRAY['running'::text, 'waiting'::text]" in indexes_of(new)["uq_runs_in_progress"]


def indexes_of(url: str) -> dict[str, str]:
    with psycopg.connect(url) as conn:
        query = (
            "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
        )
        return dict(conn.execute(query).fetchall())


def test_a_current_store_opens_without_alembic_or_orm(file: Path) -> None:
    program = (
        "import sys; from maintd.store import open_store; from maintd.clock import SystemClock\n"
        f"open_store('sqlite:///{file}', clock=SystemClock(), migrate=True).close()\n"
        "unwanted = {'alembic', 'sqlalchemy.orm', 'sqlalchemy.dialects.postgresql', 'psycopg'}\n"
        "print(sorted(unwanted & sys.modules.keys()))"
    )

    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert output.stdout.strip() == "[]"


def test_processes_can_create_the_same_store_at_once(file: Path) -> None:
    stores = run_concurrently([lambda: open_file(file)] * 6)

    assert [store.maintenance.check() for store in stores] == [[]] * 6
    for store in stores:
        store.close()


def test_opening_waits_while_another_process_migrates(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.2)
    open_file(file).close()
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    waking = threading.Timer(1.0, other.execute, ["ROLLBACK"])
    waking.start()

    store = open_file(file)

    waking.join()
    assert store.maintenance.check() == []
    store.close()
    other.close()


def test_opening_a_new_file_waits_while_another_process_creates_the_store(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.2)
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE made_before (a)")  # not in WAL mode yet
    other.execute("BEGIN EXCLUSIVE")
    waking = threading.Timer(1.0, other.execute, ["ROLLBACK"])
    waking.start()

    store = open_file(file)

    waking.join()
    assert store.maintenance.check() == []
    store.close()
    other.close()


def test_an_older_revision_is_refused_without_migrate(file: Path) -> None:
    open_file(file).close()
    conn = sqlite3.connect(file)
    conn.execute("DELETE FROM alembic_version")
    conn.commit()
    conn.close()

    with pytest.raises(StoreUnusableError, match=f"this maintd needs {revisions()[-1]}; run: maintd db upgrade"):
        open_file(file, migrate=False)


@pytest.mark.parametrize("migrate", [True, False])
def test_a_store_of_a_newer_maintd_is_refused(file: Path, migrate: bool) -> None:
    open_file(file).close()
    set_revision(file, "9999")

    with pytest.raises(StoreUnusableError, match="at revision 9999, this maintd knows only up to"):
        open_file(file, migrate=migrate)


@pytest.mark.parametrize("migrate", [True, False])
def test_a_file_that_is_not_a_database_is_refused(file: Path, migrate: bool) -> None:
    file.write_text("not a database at all\n" * 500)

    with pytest.raises(StoreUnusableError, match=r"file is not a database; restore .* maintd db backup"):
        open_file(file, migrate=migrate)


def test_a_damaged_database_is_refused_with_a_hint(file: Path) -> None:
    store = open_file(file)
    for n in range(200):
        queue(store, f"entry number {n}")
    store.close()
    content = bytearray(file.read_bytes())
    content[8192 : len(content) - 4096] = os.urandom(len(content) - 12288)
    file.write_bytes(content)

    with pytest.raises(StoreUnusableError, match="restore the file"):
        store = open_file(file)
        try:
            store.history.runs(limit=1000)
        finally:
            store.close()


def test_reading_does_not_create_a_missing_store(file: Path) -> None:
    for look in (lambda: open_file(file, migrate=False), lambda: read_store(f"sqlite:///{file}", clock=CLOCK)):
        with pytest.raises(StoreUnusableError, match=r"there is no store at .*maintd\.db; start the daemon"):
            look()

    assert not file.exists()


def test_a_missing_folder_is_refused_unless_it_is_the_state_directory(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/state/maintd.db"

    with pytest.raises(StoreUnusableError, match=r"unable to open database file \(as uid \d+\)"):
        open_store(url, clock=CLOCK, migrate=True)
    open_store(url, clock=CLOCK, migrate=True, state_dir=tmp_path / "state").close()


@pytest.fixture
def public_folder() -> Iterator[Path]:
    with folder_for_all() as folder:
        yield folder
        folder.chmod(0o755)


def test_a_file_without_write_permission_is_refused_with_path_and_uid(public_folder: Path) -> None:
    file = public_folder / "maintd.db"
    open_file(file).close()
    file.chmod(0o444)
    public_folder.chmod(0o555)

    output = output_without_write_access(
        "from maintd.store import *; from maintd.clock import SystemClock\n"
        f"open_store('sqlite:///{file}', clock=SystemClock(), migrate=True)"
    )

    assert f"StoreUnusableError: {file}: " in output
    assert "(as uid " in output and "make the file and its directory writable" in output


def test_a_store_can_be_read_without_write_permission(public_folder: Path) -> None:
    file = public_folder / "maintd.db"
    store = open_file(file)
    run_id = queue(store, "vacuum")
    store.close()
    file.chmod(0o444)
    public_folder.chmod(0o555)

    output = output_without_write_access(
        "from maintd.store import *; from maintd.clock import SystemClock\n"
        f"print(read_store('sqlite:///{file}', clock=SystemClock()).history.run({run_id}).entry)"
    )

    assert output == "vacuum\n"


def test_a_reader_that_began_without_a_daemon_reads_what_one_writes_afterwards(public_folder: Path) -> None:
    file, turn = public_folder / "maintd.db", public_folder / "turn"
    open_file(file).close()
    os.mkfifo(turn)
    turn.chmod(0o666)
    file.chmod(0o644)
    public_folder.chmod(0o755)

    def write_when_it_has_read() -> None:
        turn.read_text()
        store = open_file(file)
        queue(store, "vacuum")
        with turn.open("w"):
            pass
        turn.read_text()
        store.close()

    writer = threading.Thread(target=write_when_it_has_read, daemon=True)
    writer.start()
    output = output_without_write_access(
        "from maintd.store import *; from maintd.clock import SystemClock\n"
        f"store = read_store('sqlite:///{file}', clock=SystemClock())\n"
        "print(len(store.history.runs(limit=9)))\n"
        f"open('{turn}', 'w').close(); open('{turn}').read()\n"
        "print(len(store.history.runs(limit=9)))\n"
        f"open('{turn}', 'w').close()"
    )
    writer.join(30)

    assert output == "0\n1\n"


def test_a_reader_reads_what_the_daemon_writes_and_cannot_write(file: Path) -> None:
    store = open_file(file)
    reader = read_store(f"sqlite:///{file}", clock=CLOCK)

    run_id = queue(store, "vacuum")

    assert reader.history.run(run_id).entry == "vacuum"
    with pytest.raises(StoreUnusableError, match="opened read-only"):
        queue(reader, "vacuum")
    reader.close()
    store.close()


def test_a_file_locked_by_another_process_is_unavailable(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maintd.store.sqlite.BUSY_SECONDS", 0.2)
    store = open_file(file)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(StoreUnavailableError, match="locked by another process"):
        queue(store, "vacuum")
    other.execute("ROLLBACK")
    other.close()

    assert queue(store, "vacuum") == 1
    store.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "is not valid"),
        ("sqlite://", "has no file"),
        ("sqlite:///:memory:", "has no file"),
        ("mysql://root:secret@db/x", 'begins with "mysql:"'),
        ("postgresql://u:secret@db:port/x", "is not valid"),
    ],
)
def test_an_invalid_url_is_a_settings_error_without_the_password(url: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        open_store(url, clock=CLOCK, migrate=True)

    assert "secret" not in str(caught.value)


def test_no_message_contains_the_password(free_port: int) -> None:
    url = f"postgresql://ada:s3cret@127.0.0.1:{free_port}/maintd?sslpassword=t0p"

    with pytest.raises(StoreUnavailableError) as caught:
        open_store(url, clock=CLOCK, migrate=True)

    assert f"postgresql://ada:***@127.0.0.1:{free_port}/maintd" in str(caught.value)
    assert "s3cret" not in str(caught.value) and "t0p" not in str(caught.value)


@pytest.mark.server
def test_a_database_that_does_not_exist_is_unusable(postgres_server: object, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("postgres_server").url("no_such_database")

    with pytest.raises(StoreUnusableError, match="does not exist"):
        open_store(url, clock=CLOCK, migrate=True)


@pytest.mark.server
def test_nodes_can_migrate_the_same_postgres_at_once(request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("postgres_server").create(f"m{os.urandom(6).hex()}")

    stores = run_concurrently([lambda: open_store(url, clock=CLOCK, migrate=True)] * 4)

    assert [store.maintenance.check() for store in stores] == [[]] * 4
    for store in stores:
        store.close()


def test_the_store_uses_its_own_clock(store: Store, store_url: str) -> None:
    now = store.now()

    assert (now == NOON) == store_url.startswith("sqlite")
    assert now.tzinfo is not None


def test_a_closed_store_raises(open_another: Callable[[], Store], store_url: str) -> None:
    store = open_another()
    store.ping()
    store.close()

    if store_url.startswith("sqlite"):
        with pytest.raises(StoreUnavailableError, match="the store is closed"):
            queue(store, "vacuum")
