"""`resume`, `undo` and `release`: what becomes of a run that did not come to its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from maintd.cli import completion
from maintd.cli.app import App, current_user, json_option
from maintd.cli.runs import run_id_of

if TYPE_CHECKING:
    from maintd.client import Client
    from maintd.model.run import RunSummary


@click.command("resume")
@click.argument("run", shell_complete=completion.runs)
@click.option("--from", "from_step", metavar="STEP", help="Go on from this step, which is not after the first failure.")
@click.option(
    "--redo",
    multiple=True,
    metavar="STEP",
    help="Run this step again although that may repeat its effect; repeatable, needs --why.",
)
@click.option("--why", default="", help="The reason; stored with the new run.")
@json_option
@click.pass_obj
def resume_command(app: App, run: str, from_step: str | None, redo: tuple[str, ...], why: str, as_json: bool) -> None:
    """Go on with a run that failed, was stopped or was lost.

    A new run takes over the steps that succeeded, with the values that they handed over, and runs the rest. It asks
    again at each gate from there on.

    A step that changes something and is not repeatable does not run a second time, unless --redo names it.

    Example: maintd resume 12 --redo command --why "it had not started, by its log"
    """
    number = run_id_of(app, run, daemon=True)
    _follow(
        app,
        lambda client: client.resume(number, from_step=from_step or "", redo=redo, why=why, by=current_user()),
        as_json,
    )


@click.command("undo")
@click.argument("run", shell_complete=completion.runs)
@click.option(
    "--redo", multiple=True, metavar="STEP", help="Run this undo step again although it was lost; repeatable."
)
@click.option("--why", required=True, help="The reason; stored with the new run.")
@json_option
@click.pass_obj
def undo_command(app: App, run: str, redo: tuple[str, ...], why: str, as_json: bool) -> None:
    """Undo a run that failed, was stopped or was lost.

    A new run runs the undo steps of all steps that had started, in reverse order, then the `always` steps.
    """
    number = run_id_of(app, run, daemon=True)
    _follow(app, lambda client: client.undo(number, why, redo=redo, by=current_user()), as_json)


@click.command("release")
@click.argument("run", shell_complete=completion.runs)
@click.option("--why", required=True, help="The reason; stored in the audit log.")
@json_option
@click.pass_obj
def release_command(app: App, run: str, why: str, as_json: bool) -> None:
    """Release a lost run that is held.

    Its locks are free and its entry can run again. Nothing is undone: use it when the system was cleaned up by hand.
    """
    number = run_id_of(app, run, daemon=True)

    def release(client: Client) -> RunSummary:
        return client.release(number, why, by=current_user())

    if as_json:
        app.out_json(app.daemon.json_of(release))
    else:
        app.out(f"run {number} of {release(app.daemon).entry} is released; its locks are free")


def _follow(app: App, request: Callable[[Client], RunSummary], as_json: bool) -> None:
    if as_json:
        app.out_json(app.daemon.json_of(request))
    else:
        found = request(app.daemon)
        app.out(f"run {found.id} {found.reason}; follow it with: maintd logs -f {found.id}")
