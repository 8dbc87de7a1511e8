"""`status` and `next`."""

from __future__ import annotations

from urllib.parse import quote

import click

from maintd.cli import completion
from maintd.cli.app import App, json_option
from maintd.errors import DaemonUnavailableError


@click.command("status")
@click.argument("name", required=False, shell_complete=completion.names)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing; the exit code is the daemon's own health.")
@json_option
@click.pass_obj
def status_command(app: App, name: str | None, quiet: bool, as_json: bool) -> int:
    """How things stand.

    What needs someone on top, then every entry. NAME: one entry with its last ten runs.

    Exit code: 0 all is well, 1 something needs someone, 6 no daemon answers (the store's content is shown all the
    same). With --quiet it is the daemon's own health, for a container's health check: 0 it plans and reaches its store,
    1 it does not, 6 it does not answer. A failed job is no ill health of the daemon.
    """
    if quiet:
        return _quiet(app)
    from maintd.model.run import RunSummary
    from maintd.model.status import EntryStatus, StatusReport
    from maintd.present import entry_text, status_text

    if name is None:
        said = app.read("/status")
        report = StatusReport.model_validate(said)
        code = 1 if report.needs_attention else 0
        text = status_text(report, **app.style)
    else:
        said = app.read(f"/entries/{quote(name, safe='')}")
        fields = {key: value for key, value in said.items() if key != "runs"}
        entry = EntryStatus.model_validate(fields)
        runs = [RunSummary.model_validate(run) for run in said["runs"]]
        code = 1 if entry.needs_attention else 0
        text = entry_text(entry, runs, now=app.now(), **app.style)
    if as_json:
        app.out_json(said)
    else:
        app.out(text)
    return code if app.daemon_answers else DaemonUnavailableError.exit_code


def _quiet(app: App) -> int:
    from maintd.cli.client import ready

    try:
        return 0 if ready(app.daemon.path) else 1
    except DaemonUnavailableError as error:
        return error.exit_code


@click.command("next")
@click.option("--days", type=click.IntRange(1, 366), default=7, show_default=True, help="How far to look ahead.")
@json_option
@click.pass_obj
def next_command(app: App, days: int, as_json: bool) -> None:
    """What falls due, and when.

    In the entries' local time and from now on.
    """
    from maintd.model.status import DueTime
    from maintd.present import due_text

    said = app.read("/due", days=days)
    if as_json:
        app.out_json(said)
    else:
        app.out(due_text([DueTime.model_validate(due) for due in said["due"]], now=app.now(), **app.style))
