"""`gates`, `approve` and `reject`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from maintd.cli import completion
from maintd.cli.app import App, current_user, json_option
from maintd.errors import RefusedError, TargetError, UsageError

if TYPE_CHECKING:
    from maintd.client import Client
    from maintd.model.gate import WaitingGate
    from maintd.model.run import RunSummary

_MOST_DECISIONS = 16 << 20  # bytes, of a table with its decisions


@click.command("gates")
@json_option
@click.pass_obj
def gates_command(app: App, as_json: bool) -> None:
    """List the gates where runs wait.

    Each with for whom it waits, since when and until when, its checklist with the evidence of each item, and the
    command to type. The one whose time is over first comes first.
    """
    if as_json:
        app.out_json(app.read_json(lambda client: client.gates()))
        return
    gates = app.read(lambda client: client.gates())
    from maintd.present.gates import gates_text

    app.out(gates_text(gates, now=app.now(), **app.terminal))


@click.command("approve")
@click.argument("run", shell_complete=completion.waiting)
@click.option(
    "--item", "items", multiple=True, type=click.IntRange(1), metavar="N", help="Tick this item instead; repeatable."
)
@click.option("--note", default="", help="A remark; stored with the approval, or with the ticks.")
@click.option(
    "--decisions",
    metavar="FILE",
    help="A table of access_review with keep or revoke in each row; stored with the approval.",
)
@click.option("--gate", default="", metavar="NAME", help="The gate that you mean, for a run with several.")
@click.option("--emergency", is_flag=True, help="Approve your own run, with --why; for role admin.")
@click.option("--why", default="", help="The reason for the emergency.")
@json_option
@click.pass_obj
def approve_command(
    app: App,
    run: str,
    items: tuple[int, ...],
    note: str,
    decisions: str | None,
    gate: str,
    emergency: bool,
    why: str,
    as_json: bool,
) -> None:
    """Pass the gate where a run waits, or tick items of its checklist.

    With --item the items are ticked, and the run goes on waiting. Without it, the gate is passed if all items are
    ticked or proved; proofs are evaluated at that moment. The first decision wins.

    Example: maintd approve 842 --item 1 --item 2 --note "confirmed by phone"
    """
    if why and not emergency:
        raise UsageError("--why is the reason for --emergency", "use --note for a remark")
    if items and emergency:
        raise UsageError("--item and --emergency exclude each other", "tick the items first")
    if items and decisions is not None:
        raise UsageError("--item and --decisions exclude each other", "tick the items first")
    number = _run_at_gate(app, run)
    if decisions is not None:
        note = _note_of_decisions(app, number, decisions, note)
    if items:
        _tick(app, number, items, gate, note, as_json)
        return

    def approve(client: Client) -> RunSummary:
        return client.approve(number, gate=gate, note=note, emergency=emergency, why=why, by=current_user())

    if as_json:
        app.out_json(app.daemon.json_of(approve))
        return
    found = approve(app.daemon)
    marked = "; it keeps the mark of an emergency" if emergency and found.emergency else ""
    app.out(f"run {number} of {found.entry} goes on{marked}; follow it with: maintd logs -f {number}")


def _content_of(path: str) -> bytes:
    """The content of a file, or of standard input for `-`. Raises UsageError."""
    from maintd.clients.files import read_regular

    if path == "-":
        content = sys.stdin.buffer.read(_MOST_DECISIONS + 1)
        if len(content) > _MOST_DECISIONS:
            raise UsageError("standard input is larger than any table of a review", "give the file of this run")
        return content
    try:
        return read_regular(Path(path), _MOST_DECISIONS, "give the file of this run")
    except TargetError as error:
        raise UsageError(error.message, error.hint) from error


def _note_of_decisions(app: App, number: int, path: str, remark: str) -> str:
    """The decisions in the file as the note of an approval. Raises UsageError unless its table is that of the run."""
    from maintd.checks.access.table import MAX_NOTE, from_csv, note_of

    try:
        digest, ids, decisions = from_csv(_content_of(path).decode())
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8", "save it as CSV with UTF-8") from None
    handed = app.daemon.run(number).handed
    shown = next((each.value for each in handed if each.name == "access_table"), None)
    if not isinstance(shown, dict):
        raise UsageError(f"run {number} has shown no table of accesses", "use --note for a remark")
    if shown.get("digest") != digest:
        raise UsageError(
            f"{path} is not the table of run {number}: it is {digest}, shown was {shown.get('digest')}",
            "save access-review.csv of this run again, and change nothing but the column decision",
        )
    if not decisions:
        raise UsageError(f"{path} has no decision", "write keep or revoke into the column decision")
    note = " -- ".join(filter(None, (note_of(digest, ids, decisions), remark)))
    if len(note) > MAX_NOTE:
        raise UsageError("the decisions and the remark do not fit into one approval", "shorten the remark")
    if len(decisions) < len(ids):
        app.note(f"{len(ids) - len(decisions)} of {len(ids)} rows are undecided; the next review warns of them")
    return note


def _run_at_gate(app: App, text: str) -> int:
    """The run that RUN means: by its number, or the one of an entry that waits at a gate."""
    from maintd.cli.runs import run_id_of

    if text == "last" or (text.isascii() and text.isdigit()):
        return run_id_of(app, text, daemon=True)
    found = [gate.run_id for gate in app.daemon.gates() if gate.entry == text]
    if len(found) > 1:
        numbers = ", ".join(map(str, found))
        raise RefusedError(f"several runs of {text} wait at gates: {numbers}", "name one by its number")
    if found:
        return found[0]
    last = run_id_of(app, text, daemon=True)  # or the error for an unknown name
    raise RefusedError(f"no run of {text} waits at a gate; its last one is run {last}", "see: maintd gates")


def _tick(app: App, number: int, items: tuple[int, ...], gate: str, note: str, as_json: bool) -> None:
    def tick(client: Client) -> WaitingGate:
        return client.tick(number, items, gate=gate, note=note, by=current_user())

    if as_json:
        app.out_json(app.daemon.json_of(tick))
        return
    found = tick(app.daemon)
    from maintd.present.gates import gate_text

    app.out(gate_text(found, now=app.now(), **app.terminal))


@click.command("reject")
@click.argument("run", shell_complete=completion.waiting)
@click.option("--why", required=True, help="The reason; stored with the run.")
@click.option("--gate", default="", metavar="NAME", help="The gate that you mean, for a run with several.")
@json_option
@click.pass_obj
def reject_command(app: App, run: str, why: str, gate: str, as_json: bool) -> None:
    """Reject at the gate where a run waits.

    The run fails: steps after the gate are not run, undo steps are if the entry has them, and so are its `always`
    steps.

    Example: maintd reject 842 --why "the backup is from yesterday"
    """
    number = _run_at_gate(app, run)

    def reject(client: Client) -> RunSummary:
        return client.reject(number, why, gate=gate, by=current_user())

    if as_json:
        app.out_json(app.daemon.json_of(reject))
        return
    found = reject(app.daemon)
    app.out(f"run {number} of {found.entry} is rejected; see how it ends with: maintd show {number}")
