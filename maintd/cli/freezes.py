"""`freeze` and `unfreeze`."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

import click

from maintd.cli import completion
from maintd.cli.app import App, current_user, json_option
from maintd.errors import UsageError

if TYPE_CHECKING:
    from maintd.client import Client
    from maintd.model.entry import Freeze

EVERYTHING = "*"


@click.command("freeze")
@click.option(
    "--only",
    "entries",
    metavar="NAME|PATTERN",
    default=EVERYTHING,
    help="Only these entries, for example backup-*; by default all.",
    shell_complete=completion.entries,
)
@click.option("--until", metavar="WHEN", help="End of the freeze: 2h (from now), 2026-12-06T02:00Z; at most 90 days.")
@click.option("--for", "lasting", metavar="DURATION", help="Duration of the freeze: 2h, 3d.")
@click.option("--why", help="The reason; shown in the status and with each run that is skipped.")
@json_option
@click.pass_obj
def freeze_command(
    app: App, entries: str, until: str | None, lasting: str | None, why: str | None, as_json: bool
) -> None:
    """Start no run of an entry that changes something until a time; without options, list the freezes.

    Its due times are recorded as skipped, and runs that wait to start are skipped. Runs that have started go on, and
    entries that only read run as always. In an emergency: maintd trigger NAME --emergency --why "…"

    Example: maintd freeze --until 2026-12-06T02:00Z --why "the year-end closing"
    """
    if until is None and lasting is None and why is None and entries == EVERYTHING:
        _list(app, as_json)
        return
    from maintd.cli import arguments

    end, reason = arguments.end_of(app.now(), until, lasting), why
    if end is None or reason is None:
        raise UsageError("a freeze needs an end and a reason", "add --until WHEN and --why TEXT")
    ends_at = end

    def freeze(client: Client) -> Freeze:
        return client.freeze(reason, until=ends_at, entries=entries, by=current_user())

    if as_json:
        app.out_json(app.daemon.json_of(freeze))
        return
    from maintd.present.freezes import freeze_line

    only = "" if entries == EVERYTHING else f"--only {quote(entries)}"
    made = freeze(app.daemon)
    app.out(f"{freeze_line(made)}; end it with: maintd unfreeze {only}".rstrip())
    if made.replaces:
        app.note(f"it replaces the freeze {made.replaces}")


def _list(app: App, as_json: bool) -> None:
    def freezes(client: Client) -> tuple[Freeze, ...]:
        return client.freezes()

    if as_json:
        app.out_json(app.read_json(freezes))
        return
    from maintd.present.freezes import freezes_text

    app.out(freezes_text(app.read(freezes)))


@click.command("unfreeze")
@click.option(
    "--only",
    "entries",
    metavar="NAME|PATTERN",
    default=EVERYTHING,
    help="The name or pattern that the freeze was made with.",
    shell_complete=completion.entries,
)
@click.option("--why", default="", help="The reason, for the audit log.")
@json_option
@click.pass_obj
def unfreeze_command(app: App, entries: str, why: str, as_json: bool) -> None:
    """End a freeze that was made by command; those of the calendar and of the freeze file end there."""

    def unfreeze(client: Client) -> bool:
        return client.unfreeze(entries=entries, why=why, by=current_user())

    what = "the freeze" if entries == EVERYTHING else f"the freeze of {entries}"
    if as_json:
        app.out_json(app.daemon.json_of(unfreeze))
    else:
        ended = unfreeze(app.daemon)
        app.out(f"{what} is over" if ended else f"there was no freeze{what.removeprefix('the freeze')}")
