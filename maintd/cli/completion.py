"""Names that the shell completes: entries, jobs, runs. Asked of the daemon; without one, names of job files."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import click
from click.shell_completion import CompletionItem

from maintd.cli.app import App

PATIENCE = 2.0  # seconds; a shell that hangs is worse than one that knows no names


def names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Entries and jobs."""
    said = _ask(ctx, "/status")
    found = [(entry["entry"], entry["title"]) for entry in said.get("entries", ())]
    return _items([*found, *_jobs(ctx)], incomplete)


def entries(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Entries only."""
    said = _ask(ctx, "/status")
    return _items([(entry["entry"], entry["title"]) for entry in said.get("entries", ())], incomplete)


def jobs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Jobs only."""
    return _items(_jobs(ctx), incomplete)


def runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The last runs by number, `last`, and names of entries."""
    said = _ask(ctx, "/runs", limit=30)
    found = [(str(run["id"]), f"{run['entry']}, {run['state']}") for run in said.get("runs", ())]
    if incomplete and not incomplete[0].isdigit():
        found = [("last", "the last run of all"), *((run["entry"], "its last run") for run in said.get("runs", ()))]
    return _items(found, incomplete)


def _jobs(ctx: click.Context) -> list[tuple[str, str]]:
    said = _ask(ctx, "/jobs")
    if said:
        return [(job["name"], job.get("summary", "cannot be used")) for job in said["jobs"]]
    from maintd.job.registry import shipped

    folders = (shipped("jobs"), *_app(ctx).settings.job_dirs)
    return [(path.stem, "") for folder in folders for path in sorted(folder.glob("[a-z]*.py"))]


def _ask(ctx: click.Context, path: str, **query: Any) -> dict[str, Any]:
    from maintd.cli.client import Daemon
    from maintd.errors import MaintdError

    try:
        said: dict[str, Any] = Daemon(_app(ctx).daemon.path, PATIENCE).get(path, **query)
    except MaintdError:
        return {}
    return said


def _app(ctx: click.Context) -> App:
    """While it completes, click does not call the group that would have made it."""
    root = ctx.find_root()
    flags = {name: value for name, value in root.params.items() if value is not None}
    return App({name: value for name, value in flags.items() if name != "version"}, root.with_resource(ExitStack()))


def _items(found: Iterable[tuple[str, str]], incomplete: str) -> list[CompletionItem]:
    told = {name: text for name, text in reversed([*found]) if name.startswith(incomplete)}
    return [CompletionItem(name, help=text or None) for name, text in sorted(told.items())]
