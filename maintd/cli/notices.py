"""`notices`, `notify test`, `mute` and `unmute`."""

from __future__ import annotations

import time
from shlex import quote as shell_quote
from typing import TYPE_CHECKING, Any

import click

from maintd.cli import completion
from maintd.cli.app import App, current_user, json_option
from maintd.errors import MaintdError, UsageError

if TYPE_CHECKING:
    from maintd.model.notice import Notice

STATES = ("waiting", "sending", "sent", "failed")
"""The values of `model.notice.NoticeState`, which takes longer to import than a command that only prints its help."""

TEST_SECONDS = 90.0
"""How long a test may take: twice the limit of a delivery."""

POLL_SECONDS = 0.2


@click.command("notices")
@click.option("--state", "states", type=click.Choice(STATES), multiple=True, help="Only with this state; repeatable.")
@click.option("--channel", metavar="NAME", help="Only of this channel.")
@click.option("--limit", "-n", type=click.IntRange(1, 500), default=20, show_default=True, help="How many.")
@json_option
@click.pass_obj
def notices_command(app: App, states: tuple[str, ...], channel: str | None, limit: int, as_json: bool) -> None:
    """List notices, newest first, and the incidents that are not over."""
    found = app.read("/notices", state=states or None, channel=channel, limit=limit)
    opened = app.read("/incidents", open_only=True, limit=500)["incidents"]
    muted = app.read("/mutes")["mutes"]
    if as_json:
        app.out_json({**found, "incidents": opened, "mutes": muted})
        return
    from maintd.model.notice import Incident, Mute, Notice
    from maintd.present.notices import notices_text

    text = notices_text(
        [Notice.model_validate(item) for item in found["notices"]],
        [Incident.model_validate(item) for item in opened],
        [Mute.model_validate(item) for item in muted],
        now=app.now(),
        **app.terminal,
    )
    app.out(text)


@click.group("notify")
def notify_command() -> None:
    """Try the channels of notices; the calendar defines them."""


@notify_command.command("test")
@click.argument("channel")
@json_option
@click.pass_obj
def test_command(app: App, channel: str, as_json: bool) -> int:
    """Send a test to a channel, and wait for the result.

    The monitor of an entry is the channel ping:ENTRY, that of maintd itself maintd:ping.

    Exit code 1 if it could not be delivered.
    """
    from maintd.model.notice import Notice

    answer = app.daemon.post("/notices/test", {"channel": channel, "by": current_user()})
    deadline = time.monotonic() + TEST_SECONDS
    while answer["state"] not in ("sent", "failed"):
        if time.monotonic() > deadline:
            raise MaintdError(f'the test of "{channel}" is still {answer["state"]}', "see: maintd notices")
        time.sleep(POLL_SECONDS)
        answer = app.daemon.get(f"/notices/{answer['id']}")
    if as_json:
        app.out_json(answer)
    else:
        app.out(_result(Notice.model_validate(answer)))
    return 0 if answer["state"] == "sent" else 1


def _result(notice: Notice) -> str:
    from maintd.units import duration_text

    if notice.sent_at is None:
        return f"{notice.channel}: not delivered: {notice.error}"
    return f"{notice.channel}: delivered after {duration_text(notice.sent_at - notice.created_at)}"


@click.command("mute")
@click.argument("entries", metavar="NAME|PATTERN", shell_complete=completion.entries)
@click.option("--why", required=True, help="The reason; shown in the status.")
@click.option("--until", metavar="WHEN", help="End of the mute, for example 2026-12-06T02:00Z; at most 90 days.")
@click.option("--for", "lasting", metavar="DURATION", help="Duration of the mute: 2h, 3d.")
@json_option
@click.pass_obj
def mute_command(app: App, entries: str, why: str, until: str | None, lasting: str | None, as_json: bool) -> None:
    """Send no notices of entries until a time; their runs are recorded as always.

    Example: maintd mute "backup-*" --why "disk is being replaced" --for 2d
    """
    from maintd.cli import arguments
    from maintd.units import utc_text

    if (until is None) == (lasting is None):
        raise UsageError("a mute needs an end", "add --until WHEN or --for DURATION, not both")
    body: dict[str, Any] = {"entries": entries, "why": why, "by": current_user()}
    if until is not None:
        body["until"] = arguments.future_time(until, app.now())
    elif lasting is not None:
        body["until"] = utc_text(app.now() + arguments.duration(lasting))
    answer = app.daemon.post("/mutes", body)
    if as_json:
        app.out_json(answer)
        return
    from maintd.model.notice import Mute
    from maintd.present import utc_minute

    muted = Mute.model_validate(answer)
    app.out(f"{entries} is muted until {utc_minute(muted.until)}; end it with: maintd unmute {shell_quote(entries)}")


@click.command("unmute")
@click.argument("entries", metavar="NAME|PATTERN", shell_complete=completion.entries)
@json_option
@click.pass_obj
def unmute_command(app: App, entries: str, as_json: bool) -> None:
    """End a mute, by the name or pattern that it was made with."""
    answer = app.daemon.post("/mutes/end", {"entries": entries, "by": current_user()})
    if as_json:
        app.out_json(answer)
    else:
        app.out(f"{entries} is not muted any more" if answer["unmuted"] else f"{entries} was not muted")
