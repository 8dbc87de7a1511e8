"""`history`, `show`, `logs` and `cancel`."""

from __future__ import annotations

import time
from typing import Any

import click

from maintd.cli import completion
from maintd.cli.app import App, json_option, whoami
from maintd.errors import MaintdError, UnknownNameError

PAGE = 1000  # lines of a log in one request
EVERY = 0.3  # seconds between two looks at a log that grows


@click.command("history")
@click.argument("name", required=False, shell_complete=completion.names)
@click.option("--state", "states", multiple=True, help="Only runs in this state; several are allowed.")
@click.option("--job", help="Only runs with a step of this job.", shell_complete=completion.jobs)
@click.option("--since", metavar="WHEN", help="Only runs queued since: 7d (ago), 2026-12-06, 2026-12-06T02:00Z.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many at most.")
@click.option("--before", type=click.IntRange(1), metavar="RUN", help="Only runs before this number: the next page.")
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
    """Runs, newest first."""
    queued_since = None
    if since is not None:
        from maintd.cli.arguments import past

        queued_since = past(since, app.now())
    said = app.read("/runs", entry=name, state=states, job=job, since=queued_since, limit=limit, before=before)
    if as_json:
        app.out_json(said)
        return
    from maintd.model.run import RunSummary
    from maintd.present import runs_text

    app.out(runs_text([RunSummary.model_validate(run) for run in said["runs"]], now=app.now(), **app.style))
    if said.get("next_before"):
        app.note(f"older ones: --before {said['next_before']}")


@click.command("show")
@click.argument("run", shell_complete=completion.runs)
@json_option
@click.pass_obj
def show_command(app: App, run: str, as_json: bool) -> None:
    """One run with its evidence.

    Checks observed against expected, changes, measures, artifacts, by step and attempt.
    """
    said = app.read(f"/runs/{run_id_of(app, run)}")
    if as_json:
        app.out_json(said)
        return
    from maintd.model.run import Run
    from maintd.present import run_text

    app.out(run_text(Run.model_validate(said), now=app.now(), **app.style))


@click.command("logs")
@click.argument("run", shell_complete=completion.runs)
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended.")
@click.option("--step", help="Only this step's lines.")
@json_option
@click.pass_obj
def logs_command(app: App, run: str, follow: bool, step: str | None, as_json: bool) -> None:
    """What a run's jobs logged or printed.

    With -f and --json the object comes when the run has ended.
    """
    number = run_id_of(app, run)
    cursor: str | None = None
    lines: list[dict[str, Any]] = []
    while True:
        page = app.read(f"/runs/{number}/log", after=cursor, step=step, limit=PAGE)
        cursor = page["cursor"] or cursor
        if as_json:
            lines += page["lines"]
        else:
            _print(app, page["lines"])
        if page["final"] or (len(page["lines"]) < PAGE and not (follow and app.daemon_answers)):
            break
        if len(page["lines"]) < PAGE:
            time.sleep(EVERY)
    if as_json:
        app.out_json({"lines": lines, "cursor": cursor, "final": page["final"]})
    elif follow:
        state = str(app.read(f"/runs/{number}")["state"]).replace("_", " ")
        app.note(f"run {number}: {state}")


def _print(app: App, lines: list[dict[str, Any]]) -> None:
    from maintd.model.evidence import LogLine
    from maintd.present import log_line_text

    shown = []
    for line in lines:
        own = {key: line[key] for key in ("seq", "at", "stream", "text")}
        shown.append(log_line_text(LogLine.model_validate(own), line["step"], colour=app.colour))
    if shown:
        app.out("\n".join(shown))


@click.command("cancel")
@click.argument("run", shell_complete=completion.runs)
@click.option("--why", default="", help="The reason, kept with the run.")
@json_option
@click.pass_obj
def cancel_command(app: App, run: str, why: str, as_json: bool) -> None:
    """Cancel a run, or stop it.

    One that has not begun never will; a running one is told to stop, and killed when it does not.
    """
    number = run_id_of(app, run, daemon=True)
    said = app.daemon.post(f"/runs/{number}/cancel", {"by": whoami(), "why": why})
    if as_json:
        app.out_json(said)
    elif said["state"] == "cancelled":
        app.out(f"run {number} of {said['entry']} is cancelled")
    else:
        app.out(f"run {number} of {said['entry']} is told to stop; see: maintd show {number}")


def run_id_of(app: App, text: str, *, daemon: bool = False) -> int:
    """A run's number, `last`, or the last run of an entry or with a job. Raises UnknownNameError's code."""
    from maintd.cli.client import coded_error

    if text.isascii() and text.isdigit():
        return int(text)
    read = app.daemon.get if daemon else app.read
    if text == "last":
        found = read("/runs", limit=1)["runs"]
    else:
        found = read("/runs", entry=text, limit=1)["runs"] or _of_job(read, text)
    if not found:
        hint = None if text == "last" else f"run it with: maintd trigger {text}"
        missing = "there is no run yet" if text == "last" else f'"{text}" has not run yet'
        raise coded_error(UnknownNameError, missing, hint)
    return int(found[0]["id"])


def _of_job(read: Any, name: str) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = read("/runs", job=name, limit=1)["runs"]
    except MaintdError as error:
        if error.code != UnknownNameError.code:
            raise
        return []
    return found
