"""Rollbacks on real servers: each level, a kill after each change, and all that keeps data from being replaced."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.compose_project import GOOD, NEWER, Project
from support.job_runs import JobResult, run_job
from support.rollbacks import BACKED_UP, NAME, ORIGINAL, Origin, Site, damage, origin_of_backup, rollback_site
from support.servers.postgres import BIN
from support.servers.redis import RedisServer, redis

from maintd.checks.backup_sets.layout import MANIFEST, SUMS
from maintd.checks.rollback import loss
from maintd.model.evidence import Change, ChangeState, CheckStatus, Report

pytestmark = pytest.mark.server

OK, FAIL, WARN, UNKNOWN = CheckStatus.OK, CheckStatus.FAIL, CheckStatus.WARN, CheckStatus.UNKNOWN
SUBJECT = f"postgres main: {NAME}"


@pytest.fixture(scope="module")
def cache() -> Iterator[RedisServer]:
    with redis() as started:
        yield started


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with origin_of_backup() as made:
        yield made


@pytest.fixture
def site(origin: Origin, cache: RedisServer) -> Iterator[Site]:
    with rollback_site(origin, cache) as made:
        yield made


# --- the loss ------------------------------------------------------------------------------------------------------


def test_that_nothing_was_written_since_the_backup_is_proven(site: Site) -> None:
    result = site.loss()

    assert result.outcome == "succeeded", result.text()
    stated = str(result.check(loss.STATED).observed)
    assert "nothing was written: 2 tables have the rows and the content of the backup" in stated
    assert result.measure("rollback_loss_rows") == 0
    about = result.handed[loss.HANDED]["main"]
    assert about["database"] == NAME
    assert about["set"].startswith("set-")


def test_what_was_written_since_the_backup_is_counted(site: Site) -> None:
    site.do(
        "INSERT INTO audit_events (type) SELECT 'new' FROM generate_series(1, 7)", "UPDATE pnl_days SET realized = 0"
    )

    result = site.loss(loss={"orders": "SELECT count(*) FROM audit_events WHERE ts > %(since)s"})

    assert result.outcome == "warned", result.text()
    stated = str(result.check(loss.STATED).observed)
    assert "public.audit_events: 7 rows more" in stated
    assert "public.pnl_days: the same number of rows with another content" in stated
    assert "orders: 7" in stated
    assert result.check(loss.STATED).status is OK, "a gate can show it as a proof, whatever the loss is"
    assert result.measure("rollback_loss_rows") == 7


def test_a_loss_that_cannot_be_compared_is_unknown_and_stated_so(site: Site) -> None:
    with site.as_login("CONNECT ON DATABASE trading"):
        result = site.loss()

    assert result.outcome == "unknown", result.text()
    assert "unknown: the tables cannot be read" in str(result.check(loss.STATED).observed)


# --- schema --------------------------------------------------------------------------------------------------------

VERSION = "SELECT name FROM migrations ORDER BY id"


@dataclass
class Schema:
    """A schema of two migrations in a rollback manifest, and two more since then."""

    site: Site
    manifests: Path
    ways: Path

    def run(self, **params: Any) -> JobResult:
        usual = {"schema_version": VERSION, "down": f"{self.ways}/{{version}}.down.sql", "manifest": "rollback"}
        usual["forget"] = "DELETE FROM migrations WHERE name = %(version)s"
        places = {**self.site.targets, "folders": {"rollback": {"path": str(self.manifests)}}}
        more = {key: params.pop(key) for key in ("at_report", "dry_run") if key in params}
        return run_job("rollback", {"level": "schema", **usual, **params}, places, folder=self.site.work, **more)

    def way(self, version: str, text: str) -> None:
        (self.ways / f"{version}.down.sql").write_text(text)

    @property
    def versions(self) -> list[str]:
        found: list[str] = self.site.ask("SELECT array_agg(name ORDER BY id) FROM migrations")
        return found

    @property
    def columns(self) -> list[str]:
        query = (
            "SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped"
        )
        found: list[str] = self.site.ask(f"{query} AND attrelid = 'audit_events'::regclass")
        return found


@pytest.fixture
def schema(site: Site, tmp_path: Path) -> Schema:
    site.do(
        "CREATE TABLE migrations (id serial, name text)",
        "INSERT INTO migrations (name) VALUES ('001_init'), ('002_pnl')",
    )
    manifests, ways = tmp_path / "manifests", tmp_path / "ways"
    manifests.mkdir()
    ways.mkdir()
    places = {**site.targets, "folders": {"rollback": {"path": str(manifests)}}}
    params = {"schema_versions": {"main": VERSION}, "redis": [], "docker": []}
    made = run_job("rollback_manifest", params, places, folder=site.work)
    assert made.outcome == "succeeded", made.text()
    site.do(
        "ALTER TABLE audit_events ADD COLUMN severity text",
        "ALTER TABLE audit_events ADD COLUMN origin text",
        "INSERT INTO migrations (name) VALUES ('003_severity'), ('004_origin')",
    )
    found = Schema(site, manifests, ways)
    found.way("003_severity", "ALTER TABLE audit_events DROP COLUMN severity")
    found.way("004_origin", "ALTER TABLE audit_events DROP COLUMN origin; SELECT 1")
    return found


def test_migrations_are_taken_back_to_the_version_in_the_manifest(schema: Schema) -> None:
    result = schema.run()

    assert result.outcome == "succeeded", result.text()
    assert schema.versions == ["001_init", "002_pnl"]
    assert schema.columns == ["id", "ts", "type"]
    assert [change.target.rpartition(" ")[2] for change in result.changes] == ["004_origin", "003_severity"]


def test_a_migration_without_a_way_back_is_named_before_anything_is_changed(schema: Schema) -> None:
    (schema.ways / "003_severity.down.sql").unlink()

    result = schema.run()

    assert result.outcome == "failed"
    assert "003_severity.down.sql: No such file" in result.check("postgres main: migrations without a way back").hint
    assert result.changes == []
    assert schema.versions[-1] == "004_origin"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ALTER TABLE audit_events DROP COLUMN origin; SELECT no_such_function()", "no_such_function"),
        ("DELETE FROM migrations; ALTER TABLE audit_events DROP COLUMN origin", "is not the one before it"),
    ],
)
def test_a_way_back_that_fails_changes_nothing(schema: Schema, text: str, why: str) -> None:
    schema.way("004_origin", text)

    result = schema.run()

    assert result.outcome == "failed"
    assert why in result.text()
    assert schema.versions[-2:] == ["003_severity", "004_origin"]
    assert "origin" in schema.columns


def test_a_file_that_ends_its_transaction_is_found_out(schema: Schema) -> None:
    schema.way("004_origin", "BEGIN; ALTER TABLE audit_events DROP COLUMN origin; COMMIT")

    result = schema.run()

    assert result.outcome == "failed"
    assert "the file of 004_origin ended its transaction" in result.text()
    assert schema.versions[-1] == "004_origin", "the next one is not begun"


def test_a_program_takes_a_migration_back(schema: Schema) -> None:
    undo = "ALTER TABLE audit_events DROP COLUMN IF EXISTS severity, DROP COLUMN IF EXISTS origin"
    forget = "DELETE FROM migrations WHERE name = '{version}'"
    program = [str(BIN / "psql"), schema.site.server.url(NAME), "-c", undo, "-c", forget]

    result = schema.run(down=None, down_program=program)

    assert result.outcome == "succeeded", result.text()
    assert schema.versions == ["001_init", "002_pnl"]


def test_a_kill_between_two_migrations_is_continued(schema: Schema) -> None:
    child = os.fork()
    if child == 0:

        def die(item: Report) -> None:
            if isinstance(item, Change) and item.state is ChangeState.DONE:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            schema.run(at_report=die)
        finally:
            os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert schema.versions == ["001_init", "002_pnl", "003_severity"]

    result = schema.run()

    assert result.outcome == "succeeded", result.text()
    assert schema.columns == ["id", "ts", "type"]


def test_an_older_schema_is_not_taken_for_one_to_take_back(schema: Schema) -> None:
    schema.site.do("DELETE FROM migrations WHERE name = '002_pnl'")

    result = schema.run()

    assert result.outcome == "failed"
    assert "lacks 1 versions that the manifest has: 002_pnl" in result.text()
    assert result.changes == []


# --- data ----------------------------------------------------------------------------------------------------------


def test_a_damaged_database_is_replaced_and_kept(site: Site) -> None:
    damage(site)
    stated = site.loss()
    session = psycopg.connect(site.server.url(NAME))  # of an application, which is ended

    result = site.run(handed=stated.handed)

    session.close()
    assert result.outcome == "succeeded", result.text()
    assert site.rows() == BACKED_UP
    kept = next(name for name in site.databases() if name != NAME)
    assert kept.startswith(f"{NAME}_damaged_2")
    assert result.check(f"{SUBJECT}: damaged database is kept").observed == kept
    assert not site.ask(f"SELECT datallowconn FROM pg_database WHERE datname = '{kept}'", "postgres")
    site.do(f"ALTER DATABASE {kept} ALLOW_CONNECTIONS true", database="postgres")
    assert site.rows(kept) == BACKED_UP // 2 + 2, "what was written is still there"
    # What a dump does not have is as before.
    about = (
        "SELECT ARRAY[pg_get_userbyid(datdba), shobj_description(oid, 'pg_database'), datacl::text] FROM pg_database"
    )
    owner, comment, grants = site.ask(f"{about} WHERE datname = '{NAME}'", "postgres")
    assert (owner, comment) == ("trader", "the book")
    assert "app=c/trader" in grants
    assert site.ask("SHOW search_path") == '"$user", public, audit'
    with psycopg.connect(site.server.url(NAME).replace("postgres@", "app@")) as session:
        row = session.execute("SELECT max(id) FROM audit_events").fetchone()
        assert row == (BACKED_UP,)
    assert site.ask("SELECT reltuples FROM pg_class WHERE relname = 'audit_events'") == BACKED_UP, "it is analyzed"


def test_it_works_with_the_least_rights(site: Site) -> None:
    damage(site)
    with site.as_login("trader", "pg_signal_backend", "CONNECT ON DATABASE trading", options="CREATEDB"):
        session = psycopg.connect(site.server.url(NAME).replace("postgres@", "app@"))

        result = site.run()

        session.close()
        assert result.outcome == "succeeded", result.text()
        assert site.rows() == BACKED_UP


def test_each_right_that_is_missing_is_named_before_anything_is_changed(site: Site) -> None:
    damage(site)
    with site.as_login("CONNECT ON DATABASE trading"):
        result = site.run()

    assert result.outcome == "failed"
    hint = result.check(f"{SUBJECT}: rights that are missing").hint
    for part in ("may not create databases", "ALTER ROLE op CREATEDB", "GRANT trader TO op", "GRANT pg_signal_backend"):
        assert part in hint, hint
    assert result.changes == []
    assert site.databases() == [NAME]


@pytest.mark.parametrize(("approvals", "typed"), [({}, ""), ({"other": "approved by ada"}, "yes"), ({}, "wanted")])
def test_without_the_approval_of_a_person_nothing_is_changed(site: Site, approvals: Any, typed: str) -> None:
    damage(site)
    text = f"lose what was written to {NAME} since {next(site.sets.glob('set-*')).name}"

    result = site.run(approvals=approvals, accept_loss=text if typed == "wanted" else typed)

    assert result.outcome == "failed", result.text()
    check = result.check("approved by a person")
    assert check.status is FAIL
    assert text in check.hint
    assert result.changes == []
    assert site.databases() == [NAME]


def test_at_a_terminal_the_typed_loss_is_the_approval(site: Site) -> None:
    damage(site)
    text = f"lose what was written to {NAME} since {next(site.sets.glob('set-*')).name}"

    refused = site.run(approvals={}, in_foreground=True, accept_loss=text + " or so")
    result = site.run(approvals={}, in_foreground=True, accept_loss=text)

    assert refused.outcome == "failed"
    assert refused.check("approved by a person").observed == "another text was typed"
    assert result.outcome == "succeeded", result.text()
    assert site.rows() == BACKED_UP


def test_what_is_not_halted_is_not_touched(site: Site) -> None:
    damage(site)
    site.service.set(halted=False)

    result = site.run()

    assert result.outcome == "failed", result.text()
    assert result.check(f"{site.service.name}: halted").observed == "running"
    assert result.changes == []
    assert site.databases() == [NAME]


def test_a_halt_that_ends_during_the_restore_keeps_the_damaged_database_in_place(site: Site) -> None:
    damage(site)
    before = site.rows()

    def end_of_day(item: Report) -> None:
        if isinstance(item, Change) and item.action == "restore database":
            site.service.set(halted=False)

    result = site.run(at_report=end_of_day)

    assert result.outcome == "failed", result.text()
    assert site.rows() == before
    assert site.databases() == [NAME]


def test_more_writes_than_were_approved_stop_it(site: Site) -> None:
    stated = site.loss()
    site.do("INSERT INTO audit_events (type) VALUES ('after the approval')")

    result = site.run(handed=stated.handed)

    assert result.outcome == "failed", result.text()
    assert result.check(f"{SUBJECT}: loss").status is FAIL
    assert site.databases() == [NAME]
    assert [change.action for change in result.changes] == []


def test_a_changed_backup_is_refused_before_anything_is_changed(site: Site, tmp_path: Path) -> None:
    damage(site)
    dump = next(site.sets.glob("set-*/*.dump"))
    content = dump.read_bytes()
    try:
        dump.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])

        result = site.run()
    finally:
        dump.write_bytes(content)

    assert result.outcome == "failed", result.text()
    assert dump.name in result.named("files that have changed")[0].hint
    assert result.changes == []
    assert site.databases() == [NAME]


def test_a_dry_run_changes_nothing_and_shows_the_changes(site: Site) -> None:
    damage(site)

    result = site.run(dry_run=True, approvals={})

    assert result.error is None, result.text()
    assert [(change.action, change.state) for change in result.changes] == [("create database", ChangeState.PLANNED)]
    assert site.databases() == [NAME]


def test_a_database_that_maintd_has_not_made_is_not_dropped(site: Site) -> None:
    site.server.create(f"{NAME}_maintd_new", ORIGINAL)

    result = site.run()

    assert result.outcome == "failed", result.text()
    assert "that maintd has not made" in result.text()
    assert site.rows(f"{NAME}_maintd_new") == BACKED_UP


def test_a_provider_of_collations_is_that_of_the_old_database(site: Site) -> None:
    site.server.drop(NAME)
    create = f"CREATE DATABASE {NAME} OWNER trader TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'sv-SE'"
    site.do(create, database="postgres")

    result = site.run()

    assert result.outcome == "succeeded", result.text()
    provider = f"SELECT concat(datlocprovider, daticulocale) FROM pg_database WHERE datname = '{NAME}'"
    assert site.ask(provider, "postgres") == "isv-SE"
    assert site.rows() == BACKED_UP


def test_a_proof_without_a_result_keeps_the_damaged_database_in_place(site: Site) -> None:
    damage(site)
    damaged = site.rows()
    dump = next(site.sets.glob("set-*"))
    with edited(dump, made_by_another_version):
        refused = site.run()
        kept_out = (site.databases(), site.rows())
        forced = site.run(unproven=True)

    assert refused.outcome == "failed", refused.text()
    assert "schema" in refused.check(f"{NAME}_maintd_new: checks without a result").hint
    assert kept_out == ([NAME], damaged)
    assert forced.outcome == "unknown", forced.text()
    assert site.rows() == BACKED_UP


def made_by_another_version(manifest: dict[str, Any]) -> None:
    """The schema in the manifest is that of another pg_dump, which prints it in another form."""
    manifest["postgres"][0]["pg_dump_version"] = "9.6"


@contextmanager
def edited(folder: Path, edit: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """A set whose manifest was made otherwise, with its sums."""
    before = {path: path.read_bytes() for path in (folder / MANIFEST, folder / SUMS)}
    manifest = json.loads(before[folder / MANIFEST])
    edit(manifest)
    text = json.dumps(manifest).encode()
    old = hashlib.sha256(before[folder / MANIFEST]).hexdigest().encode()
    try:
        (folder / MANIFEST).write_bytes(text)
        (folder / SUMS).write_bytes(before[folder / SUMS].replace(old, hashlib.sha256(text).hexdigest().encode()))
        yield
    finally:
        for path, data in before.items():
            path.write_bytes(data)


def killed_run(site: Site, after: int) -> bool:
    """Run it in a process that is killed at this report of a change; whether it came that far."""
    child = os.fork()
    if child == 0:
        seen = 0

        def die(item: Report) -> None:
            nonlocal seen
            if isinstance(item, Change):
                seen += 1
                if seen == after:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            site.run(at_report=die)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


# Each change is reported as intended, then as done: creation, restore, closing, swap, end.
@pytest.mark.parametrize("after", [2, 4, 6, 8, 10])
def test_a_kill_at_any_change_leaves_one_of_the_two_and_the_next_run_finishes(site: Site, after: int) -> None:
    damage(site)
    damaged = site.rows()

    killed = killed_run(site, after)

    assert killed
    names = site.databases()
    assert NAME in names
    closed = not site.ask(f"SELECT datallowconn FROM pg_database WHERE datname = '{NAME}'", "postgres")
    if not closed:
        assert site.rows() == (BACKED_UP if after >= 8 else damaged)

    result = site.run()

    assert result.outcome in ("succeeded", "warned"), result.text()
    assert site.rows() == BACKED_UP
    kept = [name for name in site.databases() if name != NAME]
    assert kept, "the damaged one is there"
    site.do(f"ALTER DATABASE {kept[0]} ALLOW_CONNECTIONS true", database="postgres")
    assert site.rows(kept[0]) == damaged
    assert len(kept) == (2 if after == 10 else 1), "nothing is replaced twice, but after its end"
    assert (
        site.ask(f"SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = '{NAME}'")
        == "the book"
    )


@pytest.mark.parametrize("after", [2, 6])
def test_what_a_killed_run_left_is_given_up_as_an_undo(site: Site, after: int) -> None:
    damage(site)
    damaged = site.rows()
    killed_run(site, after)

    result = site.run(back=True, approvals={})

    assert result.outcome == "warned", result.text()
    assert site.databases() == [NAME]
    assert site.rows() == damaged


def test_a_database_that_cannot_be_opened_again_is_named_with_the_way_out(site: Site) -> None:
    def take_away(change: Change) -> None:
        if change.action == "swap databases":
            site.do(f"ALTER DATABASE {NAME} OWNER TO postgres", database="postgres")

    with site.as_login("trader", "pg_signal_backend", "CONNECT ON DATABASE trading", options="CREATEDB"):
        result = site.run(at_intent=take_away)

    assert result.outcome == "failed"
    assert "back: true" in result.check(f"{SUBJECT}: accepts connections again").hint

    again = site.run(back=True)

    assert again.outcome == "warned", again.text()
    assert site.rows() == BACKED_UP


def test_a_database_that_was_swapped_is_not_swapped_back_by_an_undo_and_named(site: Site) -> None:
    damage(site)
    done = site.run()

    result = site.run(back=True, approvals={}, handed=done.handed)

    assert result.outcome == "failed", result.text()
    check = result.check(f"{SUBJECT}: given up")
    assert f"the damaged one is kept as {NAME}_damaged_" in str(check.observed)
    assert site.rows() == BACKED_UP
    assert result.changes == []


def test_a_restored_database_that_is_not_as_the_manifest_has_it_is_kept_out(site: Site) -> None:
    damage(site)
    damaged = site.rows()

    def other_content(manifest: dict[str, Any]) -> None:
        manifest["postgres"][0]["tables"]["public.pnl_days"]["hash"] = "1"

    with edited(next(site.sets.glob("set-*")), other_content):
        result = site.run()

    assert result.outcome == "failed", result.text()
    assert "tables whose content differs" in result.check(f"{NAME}_maintd_new: checks that failed").hint
    assert (site.databases(), site.rows()) == ([NAME], damaged)


def test_a_database_that_is_closed_by_others_or_gone_is_not_touched(site: Site) -> None:
    site.do(f"ALTER DATABASE {NAME} ALLOW_CONNECTIONS false", database="postgres")

    closed = site.run()
    site.server.drop(NAME)
    gone = site.run()

    assert closed.outcome == gone.outcome == "failed"
    assert "does not accept connections, and not by maintd" in closed.text()
    assert "there is no database trading" in gone.text()
    assert closed.changes == gone.changes == []


# --- images, and services that write ------------------------------------------------------------------------------


@pytest.mark.engine
def test_images_and_files_of_the_manifest_are_restored(project: Project, tmp_path: Path) -> None:
    project.start("web")
    reader = project.start("worker")
    config = tmp_path / "app.conf"
    config.write_text("level: good\n")
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    places: dict[str, Any] = {"folders": {"rollback": {"path": str(manifests)}}}
    made = run_job("rollback_manifest", {"files": [str(config)]}, project.targets(**places))
    assert made.outcome == "succeeded", made.text()
    project.run("services_recreate", {"images": {"web": NEWER}})
    config.write_text("level: bad\n")
    inode = config.stat().st_ino

    result = project.run("rollback", {"level": "images", "readers": ["worker"]}, places=places, handed=made.handed)

    assert result.outcome == "succeeded", result.text()
    assert project.states() == {"web-1": ("running", GOOD), "worker-1": ("running", GOOD)}
    assert project.get("worker").id != reader.id, "it has read the file again"
    assert (config.read_text(), config.stat().st_ino) == ("level: good\n", inode), "who has mounted it sees it"
    kept = tmp_path / f"app.conf.before-{next(manifests.glob('manifest-*')).name}"
    assert kept.read_text() == "level: bad\n"


@pytest.mark.engine
def test_images_are_not_touched_while_a_service_is_not_halted(project: Project, site: Site, tmp_path: Path) -> None:
    project.start("web")
    site.service.set(halted=False)
    places = {"folders": {"rollback": {"path": str(tmp_path)}}, **site.service.targets()}

    result = project.run("rollback", {"level": "images"}, places=places)

    assert result.outcome == "failed"
    assert result.check(f"{site.service.name}: halted").observed == "running"
    assert result.changes == []


@pytest.mark.engine
def test_writers_are_stopped_for_the_swap_and_run_again_afterwards(project: Project, site: Site) -> None:
    damage(site)
    project.start("writer")
    other = project.start("reader")
    site.more = project.targets()
    states = []

    def look(change: Change) -> None:
        states.append(project.states()["writer-1"][0])

    gate = {"every": "50ms", "settle": "0s", "within": "1m"}
    result = site.run(writers=["writer"], only_running=["writer"], gate=gate, at_intent=look)

    assert result.outcome == "succeeded", result.text()
    assert result.changes[0].action == "stop"
    assert states == ["running", *["exited"] * (len(states) - 2), "running"], "started before the end is noted"
    other.reload()
    assert other.attrs["RestartCount"] == 0 and other.status == "running"
    assert site.rows() == BACKED_UP


@pytest.mark.engine
def test_writers_run_again_when_the_restore_fails(project: Project, site: Site) -> None:
    damage(site)
    project.start("writer")
    site.more = project.targets()

    def get_in_the_way(change: Change) -> None:
        if change.action == "restore database":
            site.do("CREATE TABLE audit_events (id int)", database=f"{NAME}_maintd_new")

    gate = {"every": "50ms", "settle": "0s", "within": "1m"}
    result = site.run(writers=["writer"], only_running=["writer"], gate=gate, at_intent=get_in_the_way)

    assert result.outcome == "failed", result.text()
    assert project.states() == {"writer-1": ("running", GOOD)}
    assert site.databases() == [NAME]
