"""`trigger`: ask the daemon for a run, and wait for it when told to."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from maintd.cli import completion
from maintd.cli.app import App, json_option, whoami
from maintd.errors import DaemonUnavailableError, MaintdError, UnknownNameError

if TYPE_CHECKING:
    from maintd.model.run import Run
    from maintd.present import LiveRun

EVERY = 0.2  # seconds between two looks at a run that is waited for
AWAY = 60.0  # seconds that a daemon may be away (it is being restarted) while a run is waited for
INTERRUPTED = 130


@click.command("trigger")
@click.argument("name", shell_complete=completion.names)
@click.option("-p", "pairs", multiple=True, metavar="PARAM=VALUE", help="A param; STEP.PARAM where there are steps.")
@click.option("--at", metavar="WHEN", help="Start then: 30m (from now), 2026-12-06T02:00Z.")
@click.option("--why", default="", help="The reason, kept with the run.")
@click.option("--wait", is_flag=True, help="Show what it does until it has ended; exit as it went.")
@click.option("--dry-run", is_flag=True, help="Change nothing; show what would be changed.")
@click.option("--idempotency-key", metavar="KEY", help="A run that has this key already is meant, not a new one.")
@json_option
@click.pass_obj
def trigger_command(
    app: App,
    name: str,
    pairs: tuple[str, ...],
    at: str | None,
    why: str,
    wait: bool,
    dry_run: bool,
    idempotency_key: str | None,
    as_json: bool,
) -> int:
    """Run an entry or a job, in the daemon.

    Now, or at a time, with this run's own params. With --wait the exit code is the run's: 0 nothing failed, 1 it
    failed, was cancelled, skipped or lost, 124 it timed out. Ctrl-C stops the waiting, not the run.
    """
    from maintd.cli.arguments import instant, params

    body: dict[str, Any] = {"name": name, "params": params(pairs), "why": why, "by": whoami(), "dry_run": dry_run}
    if at is not None:
        body["at"] = instant(at, app.now())
    if idempotency_key is not None:
        body["idempotency_key"] = idempotency_key
    said = _ask(app, name, body)
    number = int(said["id"])
    if not wait:
        _tell(app, said, as_json)
        return 0
    try:
        return _wait(app, number, as_json)
    except KeyboardInterrupt:
        app.note(
            f"\nstopped waiting; run {number} goes on. see it with: maintd logs -f {number}, "
            f"stop it with: maintd cancel {number}"
        )
        return INTERRUPTED


def _ask(app: App, name: str, body: dict[str, Any]) -> Any:
    try:
        return app.daemon.post("/runs", body)
    except DaemonUnavailableError as error:
        _refuse_unknown(app, name)
        hint = f"start it with: maintd serve, or run it without: maintd run {name} --here"
        raise DaemonUnavailableError(error.message, hint) from error


def _refuse_unknown(app: App, name: str) -> None:
    """A slip of the pen is said at once, not when the daemon is back. What cannot be known now is not judged."""
    from maintd.calendar import calendar_path, load_calendar
    from maintd.job.registry import JobRegistry

    try:
        jobs = JobRegistry(app.settings.job_dirs, app.settings.job_cache_file).jobs
        entries = [entry.name for entry in load_calendar(calendar_path(app.settings), jobs).entries]
    except MaintdError:
        return
    if name not in jobs and name not in entries:
        raise UnknownNameError("entry or job", name, [*entries, *jobs])


def _tell(app: App, said: dict[str, Any], as_json: bool) -> None:
    if as_json:
        app.out_json(said)
        return
    number, reason = said["id"], f" ({said['reason']})" if said.get("reason") else ""
    app.out(f"run {number} of {said['entry']} is {said['state']}{reason}; see it with: maintd logs -f {number}")


def _wait(app: App, number: int, as_json: bool) -> int:
    from maintd.model.run import Run
    from maintd.present import LiveRun, exit_code_of, run_text

    live = LiveRun(**app.style)
    while True:
        said = _look(app, number)
        run = Run.model_validate(said)
        if not as_json:
            _show(app, live, run)
        if run.state.final:
            break
        time.sleep(EVERY)
    if as_json:
        app.out_json(said)
    else:
        app.out("\n" + run_text(run, now=app.now(), **app.style))
    return exit_code_of(run.state)


def _look(app: App, number: int) -> Any:
    """The run as it is; a daemon that is being restarted is waited for."""
    until = time.monotonic() + AWAY
    while True:
        try:
            return app.daemon.get(f"/runs/{number}")
        except DaemonUnavailableError as error:
            if time.monotonic() > until:
                raise DaemonUnavailableError(
                    f"{error.message} any more; whether run {number} goes on is not known",
                    f"once it answers: maintd show {number}",
                ) from error
            time.sleep(EVERY)


def _show(app: App, live: LiveRun, run: Run) -> None:
    """What is new, and on a terminal the line that says what it is doing now, written over the last one."""
    lines = list(live.news(run))
    if not sys.stdout.isatty():
        if lines:
            app.out("\n".join(lines))
        return
    clear = "\r\x1b[K"
    sys.stdout.write(clear + "".join(f"{line}\n" for line in lines))
    doing = live.doing(run)
    if doing and not run.state.final:
        sys.stdout.write(f"  {doing}")
    sys.stdout.flush()
