"""`db upgrade`, `check`, `prune` and `backup`: maintenance of the store, with or without a daemon."""

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
    """Maintain the store: upgrade, check, prune, back up."""


@contextmanager
def _store(app: App, *, read_only: bool = False, migrate: bool = False) -> Iterator[Store]:
    settings = app.settings
    if read_only:
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
    """Upgrade the store to this program's revision; create it if it does not exist."""
    with _store(app, migrate=True) as store:
        from maintd.store.schema import revisions

        result = {"store": store.url_masked, "revision": revisions()[-1]}
    if as_json:
        app.out_json(result)
    else:
        app.out(f"{result['store']} is at revision {result['revision']}")


@db_command.command()
@json_option
@click.pass_obj
def check(app: App, as_json: bool) -> int:
    """Check the store for damage; exit code 1 if there is any."""
    with _store(app, read_only=True) as store:
        problems, size = store.maintenance.check(), store.maintenance.size_bytes()
        name = store.url_masked
    if as_json:
        app.out_json({"store": name, "ok": not problems, "problems": problems, "size_bytes": size})
    elif problems:
        app.note("\n".join([*problems, "restore the store from a copy that `maintd db backup` made"]))
    else:
        app.out(f"{name}: no damage found, {format_size(size)}")
    return 1 if problems else 0


@db_command.command()
@json_option
@click.pass_obj
def prune(app: App, as_json: bool) -> None:
    """Delete history older than the setting `retention`; the daemon does it once a day."""
    with _store(app) as store:
        done = store.maintenance.prune(app.settings.retention, store.now(), artifacts_dir=app.settings.artifacts_dir)
    if as_json:
        app.out_json(done.model_dump(mode="json"))
    else:
        app.out(f"deleted: {done}")


@db_command.command()
@click.argument("to", type=click.Path(path_type=Path), default=Path())
@click.option("--force", is_flag=True, help="Replace an existing file.")
@json_option
@click.pass_obj
def backup(app: App, to: Path, force: bool, as_json: bool) -> None:
    """Copy the store to a file or into a folder, by default the current one; it may be in use."""
    with _store(app, read_only=True) as store:
        copy = store.maintenance.backup(to, replace=force)
    size = copy.stat().st_size
    if as_json:
        app.out_json({"backup": str(copy.absolute()), "size_bytes": size})
    else:
        app.out(f"{copy} ({format_size(size)})")
