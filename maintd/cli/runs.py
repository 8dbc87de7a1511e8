"""`history`, `show`, `logs` and `cancel`."""

from __future__ import annotations

import time
from operator import methodcaller
from typing import TYPE_CHECKING, Any

import click

from maintd.cli import completion
from maintd.cli.app import App, current_user, json_option
from maintd.errors import MaintdError, RefusedError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from maintd.client import Client
    from maintd.model.responses import LogEntry
    from maintd.model.run import Run, RunsPage, RunSummary

    Read = Callable[[Callable[[Client], object]], Any]

PAGE = 1000  # lines of a log in one request
POLL_INTERVAL = 0.3  # seconds between two requests for a growing log


@click.command("history")
@click.argument("name", required=False, shell_complete=completion.names)
@click.option("--state", "states", multiple=True, help="Only runs in this state; repeatable.")
@click.option("--job", help="Only runs with a step of this job.", shell_complete=completion.jobs)
@click.option("--since", metavar="WHEN", help="Only runs queued since then: 7d (ago), 2026-12-06, 2026-12-06T02:00Z.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Maximum number of runs.")
@click.option("--before", type=click.IntRange(1), metavar="RUN", help="Only runs with a lower number: the next page.")
@json_option
@click.pass_obj
def history_command(
    app: App,
    name: str | None,
    states: tuple[str, ...],
    job: str | None,
    since: str | None,
    limit: int,
    before: int | None,
    as_json: bool,
) -> None:
    """List runs, newest first.

    Example: maintd history weekly-cleanup --state failed --since 30d
    """
    queued_since = None
    if since is not None:
        from maintd.cli.arguments import past_time

        queued_since = past_time(since, app.now())

    def runs(client: Client) -> RunsPage:
        return client.runs(entry=name, states=states, job=job, since=queued_since, limit=limit, before=before)

    if as_json:
        app.out_json(app.read_json(runs))
        return
    from maintd.present import runs_text

    page = app.read(runs)
    app.out(runs_text(page.runs, now=app.now(), **app.terminal))
    if page.next_before:
        app.note(f"older runs: --before {page.next_before}")


@click.command("show")
@click.argument("run", shell_complete=completion.runs)
@json_option
@click.pass_obj
def show_command(app: App, run: str, as_json: bool) -> None:
    """Show a run with its evidence.

    By step and attempt: checks with observed and expected values, changes, measures and artifacts.
    """
    number = run_id_of(app, run)
    if as_json:
        app.out_json(app.read_json(lambda client: client.run(number)))
        return
    from maintd.present import run_text

    shown = app.read(lambda client: client.run(number))
    app.out(run_text(shown, now=app.now(), **app.terminal) + _gate_text(app, shown) + _findings_text(app, shown))


def _gate_text(app: App, run: Run) -> str:
    """The gate where the run waits; empty when it does not, or no longer."""
    if run.state != "waiting":
        return ""
    from maintd.present.gates import gate_text

    try:
        gate = app.read(lambda client: client.gate(run.id))
    except RefusedError:  # it was just decided
        return ""
    return "\n" + gate_text(gate, now=app.now(), **app.terminal)


def _findings_text(app: App, run: Run) -> str:
    if not any(check.status != "ok" for step in run.steps for tried in step.attempts for check in tried.checks):
        return ""
    from maintd.present.findings import run_findings_text

    found = app.read(lambda client: client.findings_of_run(run.id)).findings
    return run_findings_text(found, user=current_user(), now=app.now(), **app.terminal) if found else ""


@click.command("logs")
@click.argument("run", shell_complete=completion.runs)
@click.option("-f", "--follow", is_flag=True, help="Print new lines until the run ends.")
@click.option("--step", help="Only lines of this step.")
@json_option
@click.pass_obj
def logs_command(app: App, run: str, follow: bool, step: str | None, as_json: bool) -> None:
    """Print the log of a run.

    It has what the jobs logged or wrote to standard output and standard error.

    With -f and --json the object is printed when the run has ended.
    """
    number = run_id_of(app, run)
    if as_json:
        app.out_json(_log_as_json(app, number, step, follow))
        return
    cursor: str | None = None
    while True:
        page = app.read(methodcaller("log", number, after=cursor, step=step, limit=PAGE))
        cursor = page.cursor or cursor
        _print(app, page.lines)
        if page.final or (len(page.lines) < PAGE and not (follow and app.daemon_answers)):
            break
        if len(page.lines) < PAGE:
            for line in app.daemon.follow(number, step=step, after=cursor):
                _print(app, [line])
            break
    if follow:
        state = str(app.read(lambda client: client.run(number)).state).replace("_", " ")
        app.note(f"run {number}: {state}")


def _log_as_json(app: App, number: int, step: str | None, follow: bool) -> dict[str, Any]:
    cursor: str | None = None
    lines: list[Any] = []
    while True:
        page = app.read_json(methodcaller("log", number, after=cursor, step=step, limit=PAGE))
        cursor = page["cursor"] or cursor
        lines += page["lines"]
        if page["final"] or (len(page["lines"]) < PAGE and not (follow and app.daemon_answers)):
            return {"lines": lines, "cursor": cursor, "final": page["final"]}
        if len(page["lines"]) < PAGE:
            time.sleep(POLL_INTERVAL)


def _print(app: App, lines: Sequence[LogEntry]) -> None:
    from maintd.present import log_line_text

    if lines:
        app.out("\n".join(log_line_text(line, line.step, colour=app.colour) for line in lines))


@click.command("cancel")
@click.argument("run", shell_complete=completion.runs)
@click.option("--why", default="", help="The reason; stored with the run.")
@json_option
@click.pass_obj
def cancel_command(app: App, run: str, why: str, as_json: bool) -> None:
    """Cancel a run.

    With the name of an entry: its planned or running run. A queued run is never started, except for one that
    resumes or undoes another: its undo and its `always` steps still run. A running one gets SIGTERM, then SIGKILL if it
    does not exit in time.
    """
    number = _run_to_cancel(app, run)

    def cancel(client: Client) -> RunSummary:
        return client.cancel(number, why=why, by=current_user())

    if as_json:
        app.out_json(app.daemon.json_of(cancel))
        return
    found = cancel(app.daemon)
    if found.state == "cancelled":
        app.out(f"run {number} of {found.entry} is cancelled")
    else:
        app.out(f"run {number} of {found.entry} is being stopped; see: maintd show {number}")


def _run_to_cancel(app: App, text: str) -> int:
    """The run that is to be cancelled: by its number, or the only unfinished one of an entry."""
    from maintd.model.run import RunState
    from maintd.present import utc_minute

    if text != "last" and not (text.isascii() and text.isdigit()):
        unfinished = [state.value for state in RunState if not state.final]
        runs = app.daemon.runs(entry=text, states=unfinished, limit=20).runs[::-1]
        if len(runs) > 1:
            names = [
                f"run {run.id} ({run.state}{f' for {utc_minute(run.not_before)}' if run.started_at is None else ''})"
                for run in runs
            ]
            raise RefusedError(
                f"{text} has several unfinished runs: {', '.join(names)}",
                f"cancel one by its number: maintd cancel {runs[-1].id}",
            )
        if runs:
            return runs[0].id
    return run_id_of(app, text, daemon=True)


def run_id_of(app: App, text: str, *, daemon: bool = False) -> int:
    """The run that RUN means: a number, `last`, or the last run of an entry or with a job.

    Raises a MaintdError with UnknownNameError's code if there is none.
    """
    from maintd.client import coded_error

    if text.isascii() and text.isdigit():
        return int(text)
    read: Read = app.daemon.json_of if daemon else app.read_json
    if text == "last":
        found = read(lambda client: client.runs(limit=1))["runs"]
    else:
        found = read(lambda client: client.runs(entry=text, limit=1))["runs"] or _of_job(read, text)
    if not found:
        hint = None if text == "last" else f"run it with: maintd trigger {text}"
        missing = "there are no runs yet" if text == "last" else f'"{text}" has not run yet'
        raise coded_error(UnknownNameError, missing, hint)
    return int(found[0]["id"])


def _of_job(read: Read, name: str) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = read(lambda client: client.runs(job=name, limit=1))["runs"]
    except MaintdError as error:
        if error.code != UnknownNameError.code:
            raise
        return []
    return found
