"""`serve`, `reload`, `settings` and `version`: the daemon itself."""

from __future__ import annotations

import gc
import platform
from typing import Any

import click

from maintd import __version__
from maintd.cli import completion
from maintd.cli.app import App, json_option
from maintd.errors import CalendarError, MaintdError


@click.command("serve")
@click.option(
    "--trigger",
    "run_first",
    multiple=True,
    metavar="NAME",
    help="Run this entry or job once after the start; repeatable.",
    shell_complete=completion.names,
)
@click.pass_obj
def serve_command(app: App, run_first: tuple[str, ...]) -> int:
    """Run the daemon in the foreground.

    SIGTERM or Ctrl-C stops it, SIGHUP reloads the calendar. It logs to standard error.
    """
    gc.disable()  # imported modules stay, and collecting among them takes a tenth of the start; the daemon enables it
    try:
        from maintd.config import sources
        from maintd.scheduler.daemon import serve

        settings = app.settings
        for line in sources.warnings(app.flags):
            app.note(line)
        return serve(settings, run_first)
    finally:
        gc.enable()


@click.command("reload")
@click.option("--why", default="", help="The reason, for the audit log.")
@json_option
@click.pass_obj
def reload_command(app: App, why: str, as_json: bool) -> int:
    """Reload the calendar and the jobs.

    Prints what changed of both, and which job modules are broken. A calendar with errors is rejected as a whole with
    exit code 2; the loaded one stays active.
    """
    result = app.daemon.reload(why=why)
    if as_json:
        app.out_json(result.model_dump(mode="json"))
    elif result.ok:
        app.out("\n".join(result.changes) or "no changes")
        for problem in result.problems:
            app.note(problem)
    else:
        app.note("\n".join([*result.problems, "not reloaded; the previous calendar stays active"]))
    return 0 if result.ok else CalendarError.exit_code


@click.command("settings")
@json_option
@click.pass_obj
def settings_command(app: App, as_json: bool) -> None:
    """List the settings with value and origin.

    Secrets are masked. Unknown MAINTD_ variables are reported.
    """
    from maintd.config import sources
    from maintd.present import settings_text

    rows = list(sources.shown(app.settings, app.flags))
    unknown = sources.warnings(app.flags)
    if as_json:
        app.out_json({"settings": [row._asdict() for row in rows], "warnings": unknown})
        return
    app.out(settings_text(rows, **app.terminal))
    for line in unknown:
        app.note(line)


@click.command("version")
@json_option
@click.pass_obj
def version_command(app: App, as_json: bool) -> None:
    """Show the version of this program and of the running daemon."""
    daemon: dict[str, Any] | None
    try:
        daemon = app.daemon.json_of(lambda client: client.version())
    except MaintdError:
        if app.remote is not None:
            raise
        daemon = None
    if as_json:
        app.out_json({"version": __version__, "python": platform.python_version(), "daemon": daemon})
        return
    lines = [f"maintd {__version__} (Python {platform.python_version()})"]
    if daemon is not None:
        lines.append(f"daemon {daemon['version']} on {daemon['node']} (pid {daemon['pid']})")
    app.out("\n".join(lines))
