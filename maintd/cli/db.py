"""`db upgrade|check|prune|backup`: care of the store, with or without a daemon."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from maintd.cli.app import App, json_option
from maintd.clock import SystemClock
from maintd.store import Store, open_store, read_store
from maintd.units import format_size


@click.group("db")
def db_command() -> None:
    """Care of the store."""


@contextmanager
def _store(app: App, *, read: bool = False, migrate: bool = False) -> Iterator[Store]:
    settings = app.settings
    if read:
        store = read_store(settings.store, clock=SystemClock())
    else:
        store = open_store(settings.store, clock=SystemClock(), migrate=migrate, state_dir=settings.state_dir)
    try:
        yield store
    finally:
        store.close()


@db_command.command()
@json_option
@click.pass_obj
def upgrade(app: App, as_json: bool) -> None:
    """Bring the store to this program's revision; make it when there is none."""
    with _store(app, migrate=True) as store:
        from maintd.store.schema import revisions

        said = {"store": store.url_masked, "revision": revisions()[-1]}
    if as_json:
        app.out_json(said)
    else:
        app.out(f"{said['store']} is at revision {said['revision']}")


@db_command.command()
@json_option
@click.pass_obj
def check(app: App, as_json: bool) -> int:
    """Look for damage. Exit code 1 when there is some."""
    with _store(app, read=True) as store:
        problems, size = store.maintenance.check(), store.maintenance.size_bytes()
        name = store.url_masked
    if as_json:
        app.out_json({"store": name, "ok": not problems, "problems": problems, "size_bytes": size})
    elif problems:
        app.note("\n".join([*problems, "restore the store from a copy made by: maintd db backup"]))
    else:
        app.out(f"{name} is sound, {format_size(size)}")
    return 1 if problems else 0


@db_command.command()
@json_option
@click.pass_obj
def prune(app: App, as_json: bool) -> None:
    """Delete what is older than `retention` says. The daemon does so once a day."""
    with _store(app) as store:
        done = store.maintenance.prune(app.settings.retention, store.now(), artifacts_dir=app.settings.artifacts_dir)
    if as_json:
        app.out_json(done.model_dump(mode="json"))
    else:
        app.out(f"deleted: {done}")


@db_command.command()
@click.argument("to", type=click.Path(path_type=Path), default=Path())
@json_option
@click.pass_obj
def backup(app: App, to: Path, as_json: bool) -> None:
    """Copy the store, while it is in use, to a file or into a folder (by default the current one)."""
    with _store(app, read=True) as store:
        copy = store.maintenance.backup(to)
    size = copy.stat().st_size
    if as_json:
        app.out_json({"backup": str(copy.absolute()), "size_bytes": size})
    else:
        app.out(f"{copy} ({format_size(size)})")
