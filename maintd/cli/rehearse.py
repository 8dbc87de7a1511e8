"""`rehearse`: run the rehearsal of a procedure, and follow it."""

from __future__ import annotations

import click

from maintd.cli import completion
from maintd.cli.app import json_option
from maintd.cli.trigger import trigger_command


@click.command("rehearse")
@click.argument("name", shell_complete=completion.names)
@click.option("--why", default="", help="The reason; stored with the run.")
@json_option
@click.pass_context
def rehearse_command(context: click.Context, name: str, why: str, as_json: bool) -> int:
    """Rehearse a procedure on scratch copies.

    Runs the entry NAME-rehearsal of the calendar, and follows it to its end. How long it took is kept as the proven
    time, with which the window's `rollback_by` is compared. The exit code is that of the run: 0 succeeded or warned,
    124 timed out, 1 any other end.

    Example: maintd rehearse emergency-rollback --why "the monthly proof"
    """
    entry = name if name.endswith(_SUFFIX) else f"{name}{_SUFFIX}"
    code: int = context.invoke(
        trigger_command,
        name=entry,
        pairs=(),
        at=None,
        why=why,
        wait=True,
        dry_run=False,
        emergency=False,
        idempotency_key=None,
        as_json=as_json,
    )
    return code


_SUFFIX = "-rehearsal"  # as in maintd.operations.rehearsals, whose import would slow down the command
