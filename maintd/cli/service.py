"""`serve`, `settings`, `version` and `completion`."""

from __future__ import annotations

import gc
import platform
from typing import Any

import click

from maintd import __version__
from maintd.cli import completion
from maintd.cli.app import App, json_option
from maintd.errors import MaintdError


@click.command("serve")
@click.option(
    "--trigger",
    "run_first",
    multiple=True,
    metavar="NAME",
    help="Run this once as soon as it is ready.",
    shell_complete=completion.names,
)
@click.pass_obj
def serve_command(app: App, run_first: tuple[str, ...]) -> int:
    """Run the daemon in the foreground.

    It ends with SIGTERM or Ctrl-C, reads the calendar again with SIGHUP, and logs to standard error.
    """
    gc.disable()  # what is imported stays; looking for garbage in it takes a tenth of the start. The daemon enables it
    try:
        from maintd.config import sources
        from maintd.scheduler.daemon import serve

        settings = app.settings
        for line in sources.warnings():
            app.note(line)
        return serve(settings, run_first)
    finally:
        gc.enable()


@click.command("settings")
@json_option
@click.pass_obj
def settings_command(app: App, as_json: bool) -> None:
    """Every setting, its value and its origin.

    Secrets are masked. Names of ours that mean nothing are warned about.
    """
    from maintd.config import sources
    from maintd.present import settings_text

    rows = list(sources.shown(app.settings, app.flags))
    unknown = sources.warnings()
    if as_json:
        app.out_json({"settings": [row._asdict() for row in rows], "warnings": unknown})
        return
    app.out(settings_text(rows, **app.style))
    for line in unknown:
        app.note(line)


@click.command("version")
@json_option
@click.pass_obj
def version_command(app: App, as_json: bool) -> None:
    """This program's version, and the daemon's when one answers."""
    daemon: dict[str, Any] | None
    try:
        daemon = app.daemon.get("/version")
    except MaintdError:
        daemon = None
    if as_json:
        app.out_json({"version": __version__, "python": platform.python_version(), "daemon": daemon})
        return
    lines = [f"maintd {__version__} (Python {platform.python_version()})"]
    if daemon is not None:
        lines.append(f"daemon {daemon['version']} on {daemon['node']} (pid {daemon['pid']})")
    app.out("\n".join(lines))


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """The shell's completion, with names of entries, jobs and runs.

    \b
    bash: maintd completion bash > /etc/bash_completion.d/maintd
    zsh:  maintd completion zsh > ~/.zfunc/_maintd
    fish: maintd completion fish > ~/.config/fish/completions/maintd.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    App.out(kind(ctx.find_root().command, {}, "maintd", "_MAINTD_COMPLETE").source())
