"""`trigger`: queue a run at the daemon and, with --wait, follow it."""

from __future__ import annotations

import os
import re
import sys
import time
from contextlib import suppress
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from maintd.cli import completion
from maintd.cli.app import App, current_user, json_option, write_output
from maintd.errors import DaemonUnavailableError, MaintdError, OutputError, UnknownNameError
from maintd.terminal import for_terminal, was_interrupted

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from maintd.client import Client
    from maintd.model.run import Run, RunSummary
    from maintd.present import LiveRun

POLL_INTERVAL = 0.2  # seconds between two requests for a run in progress
RESTART_TIMEOUT = 60.0  # seconds; `--wait` survives a restart of the daemon that takes no longer
INTERRUPTED = 130
_WEEKDAY_TIME = re.compile(r"[A-Za-z]{3,9} \d{1,2}:\d\d")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # any name of an entry or a job has this form


@click.command("trigger")
@click.argument("name", shell_complete=completion.names)
@click.option(
    "-p",
    "pairs",
    multiple=True,
    metavar="PARAM=VALUE",
    help="Set a param; repeatable. For an entry with several steps: STEP.PARAM=VALUE.",
)
@click.option("--at", metavar="WHEN", help="Start time: 30m (from now), 2026-12-06T02:00Z, 'sat 01:00'.")
@click.option("--why", default="", help="The reason; stored with the run.")
@click.option("--wait", is_flag=True, help="Follow the run until it ends; exit with its result.")
@click.option("--dry-run", is_flag=True, help="Make no changes; list those that it would make.")
@click.option("--emergency", is_flag=True, help="Also during a freeze; needs --why, and is shown with the run.")
@click.option("--idempotency-key", metavar="KEY", help="Queue no new run if one already has this key.")
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
    emergency: bool,
    idempotency_key: str | None,
    as_json: bool,
) -> int:
    """Queue a run of an entry or a job.

    With --wait the exit code is that of the run: 0 succeeded or warned, 124 timed out, 1 any other end. Ctrl-C ends
    the waiting, not the run.

    Example: maintd trigger vacuum -p max_tables=5 --why "disk is full" --wait
    """
    from maintd.cli.arguments import params

    given, start_at = params(pairs), None
    if at is not None:
        start_at = _weekday_time(app, name, at) if _WEEKDAY_TIME.fullmatch(at) else _instant(app, at)

    def trigger(client: Client) -> RunSummary:
        return client.trigger(
            name,
            given,
            at=start_at,
            why=why,
            dry_run=dry_run,
            emergency=emergency,
            idempotency_key=idempotency_key,
            by=current_user(),
        )

    queued = _queue(app, name, trigger)
    number = int(queued["id"])
    if not wait:
        _print_queued(app, queued, as_json)
        return 0
    try:
        return _wait(app, number, as_json)
    except BaseException as error:
        if not was_interrupted(error):
            raise
        app.note(
            f"\nrun {number} continues; follow it with: maintd logs -f {number}, cancel it with: maintd cancel {number}"
        )
        return INTERRUPTED


def _weekday_time(app: App, name: str, at: str) -> datetime:
    """The next such weekday and time in the entry's time zone, which is printed before anything is planned."""
    from maintd.present import utc_minute

    found = app.daemon.start_time(name, at)
    window = "" if found.window_ends_at is None else f"; its window ends {utc_minute(found.window_ends_at)}"
    utc = utc_minute(found.at)
    app.note(f"{at} is {found.local}{'' if found.local == utc else f' ({utc})'}{window}")
    return found.at


def _instant(app: App, at: str) -> datetime:
    """The time that is meant, which is printed before anything is planned."""
    from maintd.cli.arguments import future_time
    from maintd.present.text import utc_second

    found = future_time(at, app.now())
    app.note(f"{at} is {utc_second(found)}")
    return found


def _queue(app: App, name: str, trigger: Callable[[Client], RunSummary]) -> Any:
    """The queued run, as JSON: a command that does not wait needs no types, which take longer than all the rest."""
    try:
        return app.daemon.json_of(trigger)
    except DaemonUnavailableError as error:
        if app.remote is not None:
            raise
        unknown = _unknown_here(app, name)
        if unknown is not None and not _NAME.fullmatch(name):  # no calendar can have it
            raise unknown from None
        hint = (
            f"{error.hint or 'start it with: maintd serve'}, or run without a daemon: maintd run {quote(name)} --here"
        )
        if unknown is not None:
            hint = f"start it with: maintd serve; the calendar and jobs of this command have {unknown}"
        raise DaemonUnavailableError(error.message, hint) from error
    except MaintdError as error:
        own_folders = "config" in app.flags or "MAINTD_JOBS_PATH" in os.environ or "MAINTD_CONFIG" in os.environ
        if error.code != UnknownNameError.code or not own_folders:  # finding own jobs takes longer than all the rest
            raise
        from maintd.cli.jobs import with_own_jobs

        raise with_own_jobs(app, error, name, app.daemon.jobs) from None


def _unknown_here(app: App, name: str) -> UnknownNameError | None:
    """The error for a name that this command's own calendar and jobs do not have; those of the daemon may differ.

    None when they have it, and when the calendar is broken.
    """
    from maintd.calendar import load_configured

    try:
        jobs = app.registry().jobs
        entries = [entry.name for entry in load_configured(app.settings, jobs).entries]
    except MaintdError:
        return None
    if name in jobs or name in entries:
        return None
    return UnknownNameError("entry or job", name, [*entries, *jobs])


def _print_queued(app: App, run: dict[str, Any], as_json: bool) -> None:
    if as_json:
        app.out_json(run)
        return
    number, reason = run["id"], f" ({run['reason']})" if run.get("reason") else ""
    app.out(f"run {number} of {run['entry']} is {run['state']}{reason}; follow it with: maintd logs -f {number}")


def _wait(app: App, number: int, as_json: bool) -> int:
    from maintd.present import LiveRun, exit_code_of, run_text

    live = LiveRun(**app.terminal)
    announced: set[datetime | None] = set()  # the ends of the waits that were announced
    while True:
        run = _get_run(app, number)
        if not as_json:
            _print_progress(app, live, run)
        if run.state == "waiting" and run.waiting_until not in announced:
            announced.add(run.waiting_until)
            _announce_gate(app, number)
        if run.state.final:
            break
        time.sleep(POLL_INTERVAL)
    if as_json:
        app.report_json(run.model_dump(mode="json"))
    else:
        app.report("\n" + run_text(run, now=app.now(), **app.terminal))
    return exit_code_of(run.state)


def _announce_gate(app: App, number: int) -> None:
    """Print, once for each gate, for whom the run waits and how it goes on; this command goes on waiting."""
    from maintd.present.gates import gate_text

    with suppress(MaintdError):  # just decided, or the daemon is being restarted
        app.note("\n" + gate_text(app.daemon.gate(number), now=app.now(), width=app.width))


def _get_run(app: App, number: int) -> Run:
    """The run as it is now. Waits for a daemon that is being restarted."""
    until = time.monotonic() + RESTART_TIMEOUT
    while True:
        try:
            return app.daemon.run(number)
        except DaemonUnavailableError as error:
            if time.monotonic() > until:
                raise DaemonUnavailableError(
                    f"lost contact with the daemon: {error.message}; the state of run {number} is unknown",
                    f"when it answers again: maintd show {number}",
                ) from error
            time.sleep(POLL_INTERVAL)


def _print_progress(app: App, live: LiveRun, run: Run) -> None:
    """Print what is new and, on a terminal, the current activity over the line of the previous one."""
    lines = list(live.new_lines(run))
    if not sys.stdout.isatty():
        if lines:
            app.report("\n".join(lines))
        return
    activity = live.activity(run)
    shown = "".join(f"{line}\n" for line in lines) + (f"  {activity}" if activity and not run.state.final else "")
    with suppress(OutputError):  # the terminal is gone, but the run goes on
        write_output("\r\x1b[K" + for_terminal(shown, colour=app.colour))
