"""`changelog`, `changelog verify`, `note` and `checklist`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from maintd.cli import completion
from maintd.cli.app import App, current_user, json_option
from maintd.errors import UsageError

if TYPE_CHECKING:
    from maintd.client import Client
    from maintd.model.changelog import ChangeLog, Checklist
    from maintd.model.records import VerifiedPart
    from maintd.model.run import Note

PAGE = 50
PART = 500  # records that are verified in one request
MOST_HEADS = 100

_HEAD = re.compile(r"(\d{1,18}) ([0-9a-f]{64})(?: .*)?", re.ASCII)


@click.group("changelog", invoke_without_command=True)
@click.option("--since", metavar="WHEN", help="Only runs queued since then: 7d (ago), 2026-12-06. Default: 30d.")
@click.option("--entry", metavar="NAME", help="Only runs of this entry.", shell_complete=completion.names)
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, help="Most runs that are read.")
@click.option("--format", "form", type=click.Choice(["md", "json"]), default="md", help="Markdown, or as --json.")
@json_option
@click.pass_context
def changelog_command(
    ctx: click.Context, since: str | None, entry: str | None, limit: int, form: str, as_json: bool
) -> None:
    """Print the change log of maintenance, newest first.

    It has a record for each run that changed or tried to change something: by whom, when, the changes, what went
    wrong, the validation and what is left to do. All of it comes from what runs recorded.

    Example: maintd changelog --since 7d --entry weekly-cleanup
    """
    if ctx.invoked_subcommand is not None:
        return
    app: App = ctx.obj
    from maintd.cli.arguments import past_time

    start = past_time(since or "30d", app.now())

    def page(client: Client) -> ChangeLog:
        return client.changelog(entry=entry, since=start, before=before, limit=min(left, PAGE))

    records: list[dict[str, Any]] = []
    before, left = None, limit
    while left > 0:
        found = app.read_json(page)
        records += found["records"]
        before, left = found["next_before"], left - PAGE
        if before is None:
            break
    if as_json or form == "json":
        app.out_json({"records": records, "next_before": before})
        return
    from maintd.model.changelog import ChangeLogRecord
    from maintd.present.changelog import TITLE, changelog_markdown
    from maintd.present.text import utc_minute

    shown = [ChangeLogRecord.model_validate(record) for record in records]
    nothing = f"no run has changed or tried to change anything since {utc_minute(start)}"
    app.out(f"{TITLE}\n\n{changelog_markdown(shown)}" if shown else nothing)
    if before is not None:
        app.note("there are more; narrow it with --since or --entry, or give a higher --limit")


@changelog_command.command("verify")
@click.option(
    "--head",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file with heads of the chain, as CHANGELOG-maintenance.head.",
)
@json_option
@click.pass_obj
def verify(app: App, file: Path | None, as_json: bool) -> int:
    """Verify that no recorded run, check, change, decision or note was changed since.

    Each ended run and each note has a record in a chain of SHA-256 digests. The first record that does not fit is
    named, and the exit code is 1. Without --head, a chain that was written again as a whole is not found: keep the
    file elsewhere.

    Example: maintd changelog verify --head /backup/CHANGELOG-maintenance.head
    """
    heads = {} if file is None else _heads(file)
    after, parts = 0, []

    def part(client: Client) -> VerifiedPart:
        return client.verify_changelog(after=after, limit=PART, heads=heads)

    while True:
        found = app.read_json(part)
        parts.append(found)
        if found["final"] or found["problem"] is not None:
            break
        after = found["last"]
    counts = {name: sum(each[name] for each in parts) for name in ("records", "pruned", "artifacts_pruned")}
    if as_json:
        app.out_json(found | counts | {"heads": len(heads)})
    else:
        from maintd.model.records import VerifiedPart
        from maintd.present.records import verification_text

        app.out(verification_text(VerifiedPart.model_validate(found | counts), heads=len(heads)))
    return 0 if found["problem"] is None else 1


@click.command("note")
@click.argument("run", shell_complete=completion.runs)
@click.argument("text")
@click.option("--by", metavar="NAME", help="Your name, when you are logged in as root.")
@json_option
@click.pass_obj
def note_command(app: App, run: str, text: str, by: str | None, as_json: bool) -> None:
    """Add a note about a run to the change log.

    A note is a further record of the log. It cannot be edited or removed; write another one.

    Example: maintd note 842 "the disk was replaced at 02:40"
    """
    from maintd.cli.runs import run_id_of

    number = run_id_of(app, run, daemon=True)

    def add(client: Client) -> Note:
        return client.add_note(number, text, by=by or current_user())

    if as_json:
        app.out_json(app.daemon.json_of(add))
    else:
        app.out(f"note {add(app.daemon).id} about run {number} is recorded")


@click.command("checklist")
@click.argument("run", shell_complete=completion.runs)
@json_option
@click.pass_obj
def checklist_command(app: App, run: str, as_json: bool) -> None:
    """Print the checklist of a run: before, during and after the maintenance, and its gates.

    Each box has what maintd observed, or the person who ticked it; of an open one, what is missing.
    """
    from maintd.cli.runs import run_id_of

    number = run_id_of(app, run)

    def checklist(client: Client) -> Checklist:
        return client.checklist(number)

    if as_json:
        app.out_json(app.read_json(checklist))
        return
    from maintd.present.changelog import checklist_text

    app.out(checklist_text(app.read(checklist)))


def _heads(file: Path) -> dict[int, str]:
    """The last heads in a file, by record. Raises UsageError."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from None
    matches = [_HEAD.fullmatch(line) for line in lines if line and not line.startswith("#")]
    heads = {int(match[1]): match[2] for match in matches if match is not None}
    if not heads or None in matches:
        raise UsageError(
            f"{file} has a line that is no head of the chain" if matches else f"{file} has no head of the chain",
            "a line is the number of a record and its head, as in CHANGELOG-maintenance.head",
        )
    return dict(list(heads.items())[-MOST_HEADS:])
