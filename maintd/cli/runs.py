"""`history`, `show`, `logs` and `cancel`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from maintd.cli import completion
from maintd.cli.app import App, current_user, json_option
from maintd.errors import MaintdError, UnknownNameError

if TYPE_CHECKING:
    from maintd.model.run import Run

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
    page = app.read("/runs", entry=name, state=states, job=job, since=queued_since, limit=limit, before=before)
    if as_json:
        app.out_json(page)
        return
    from maintd.model.run import RunSummary
    from maintd.present import runs_text

    app.out(runs_text([RunSummary.model_validate(run) for run in page["runs"]], now=app.now(), **app.terminal))
    if page.get("next_before"):
        app.note(f"older runs: --before {page['next_before']}")


@click.command("show")
@click.argument("run", shell_complete=completion.runs)
@json_option
@click.pass_obj
def show_command(app: App, run: str, as_json: bool) -> None:
    """Show a run with its evidence.

    By step and attempt: checks with observed and expected values, changes, measures and artifacts.
    """
    found = app.read(f"/runs/{run_id_of(app, run)}")
    if as_json:
        app.out_json(found)
        return
    from maintd.model.run import Run
    from maintd.present import run_text

    shown = Run.model_validate(found)
    app.out(run_text(shown, now=app.now(), **app.terminal) + _findings_text(app, shown))


def _findings_text(app: App, run: Run) -> str:
    if not any(check.status != "ok" for step in run.steps for tried in step.attempts for check in tried.checks):
        return ""
    from maintd.model.finding import ListedFinding
    from maintd.present.findings import run_findings_text

    found = [ListedFinding.model_validate(one) for one in app.read(f"/runs/{run.id}/findings")["findings"]]
    return run_findings_text(found, now=app.now(), **app.terminal) if found else ""


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
            if not as_json and step is None:
                for line in app.daemon.follow(number, after=cursor):
                    _print(app, [line.model_dump(mode="json")])
                break
            time.sleep(POLL_INTERVAL)
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
@click.option("--why", default="", help="The reason; stored with the run.")
@json_option
@click.pass_obj
def cancel_command(app: App, run: str, why: str, as_json: bool) -> None:
    """Cancel a run.

    A queued run is never started. A running one gets SIGTERM, then SIGKILL if it does not exit in time.
    """
    number = run_id_of(app, run, daemon=True)
    found = app.daemon.post(f"/runs/{number}/cancel", {"by": current_user(), "why": why})
    if as_json:
        app.out_json(found)
    elif found["state"] == "cancelled":
        app.out(f"run {number} of {found['entry']} is cancelled")
    else:
        app.out(f"run {number} of {found['entry']} is being stopped; see: maintd show {number}")


def run_id_of(app: App, text: str, *, daemon: bool = False) -> int:
    """The run that RUN means: a number, `last`, or the last run of an entry or with a job.

    Raises a MaintdError with UnknownNameError's code if there is none.
    """
    from maintd.client import coded_error

    if text.isascii() and text.isdigit():
        return int(text)
    read = app.daemon.get if daemon else app.read
    if text == "last":
        found = read("/runs", limit=1)["runs"]
    else:
        found = read("/runs", entry=text, limit=1)["runs"] or _of_job(read, text)
    if not found:
        hint = None if text == "last" else f"run it with: maintd trigger {text}"
        missing = "there are no runs yet" if text == "last" else f'"{text}" has not run yet'
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
