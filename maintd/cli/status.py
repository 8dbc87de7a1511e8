"""`status` and `next`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from maintd.cli import completion
from maintd.cli.app import App, json_option
from maintd.errors import DaemonUnavailableError, MaintdError, UsageError

if TYPE_CHECKING:
    from maintd.model.status import DueList, EntryDetail, StatusReport

PROBE_TIMEOUT = 4.0  # seconds; the container's health check has a timeout of five
MAX_DAYS = 3_660  # of operations.due, which is imported only when it is needed


@click.command("status")
@click.argument("name", required=False, shell_complete=completion.names)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing; check the daemon's own health.")
@json_option
@click.pass_obj
def status_command(app: App, name: str | None, quiet: bool, as_json: bool) -> int:
    """Show what needs attention, and all entries.

    First what needs attention, with the command to type, then all entries. With NAME: one entry and its last ten runs.
    Without a daemon the status is read from the store.

    Exit code: 0 nothing needs attention, 1 something does, 6 no daemon answers. With --quiet, for a container's health
    check: 0 the daemon plans and reaches its store, 1 it does not, 6 it does not answer; failed runs do not count.
    """
    if quiet:
        if name is not None or as_json:
            raise UsageError("--quiet checks the daemon itself, without NAME and --json", "omit --quiet")
        return _check_health(app)
    from maintd.present import entry_text, status_text

    found: StatusReport | EntryDetail
    if name is None:
        found = report = app.read(lambda client: client.status())
        text = "" if as_json else status_text(report, **app.terminal)
    else:
        found = entry = app.read(lambda client: client.entry(name))
        text = "" if as_json else entry_text(entry, entry.runs, now=app.now(), **app.terminal)
    if as_json:
        app.out_json(found.model_dump(mode="json"))
    else:
        app.out(text)
    if not app.daemon_answers:
        return DaemonUnavailableError.exit_code
    return 1 if found.needs_attention else 0


def _check_health(app: App) -> int:
    try:
        return 0 if app.client(PROBE_TIMEOUT).is_ready() else 1
    except DaemonUnavailableError as error:
        return error.exit_code


@click.command("next")
@click.option("--days", type=click.IntRange(1, MAX_DAYS), default=7, show_default=True, help="Number of days to list.")
@json_option
@click.pass_obj
def next_command(app: App, days: int, as_json: bool) -> None:
    """List the next due times.

    Times are in the time zone of each entry. With --calendar, or without a daemon and a store, those of the calendar
    file, whose pauses are not known.
    """
    from maintd.present import due_text

    found = _due_times_of_file(app, days) if "calendar" in app.flags else _due_times(app, days)
    if as_json:
        app.out_json(found.model_dump(mode="json"))
    else:
        app.out(due_text(found.due, limited=found.limited, now=app.now(), **app.terminal))


def _due_times(app: App, days: int) -> DueList:
    try:
        return app.read(lambda client: client.due(days=days))
    except DaemonUnavailableError as unavailable:
        if app.remote is not None:
            raise
        try:
            found = _due_times_of_file(app, days)
        except MaintdError:
            raise unavailable from None
        app.note(f"{unavailable.message}\nread from the calendar:")
        return found


def _due_times_of_file(app: App, days: int) -> DueList:
    from maintd.calendar import load_configured
    from maintd.model.status import DueList
    from maintd.operations.due import due_times

    calendar = load_configured(app.settings, app.registry().jobs)
    due, limited = due_times(calendar.entries, app.now(), days, {})
    return DueList(due=tuple(due), limited=tuple(limited))
