"""`notices`, `notify test`, `mute` and `unmute`."""

from __future__ import annotations

import time
from shlex import quote as shell_quote
from typing import TYPE_CHECKING

import click

from maintd.cli import completion
from maintd.cli.app import App, current_user, json_option
from maintd.errors import MaintdError, UsageError

if TYPE_CHECKING:
    from maintd.client import Client
    from maintd.model.notice import Incident, Mute, Notice
    from maintd.model.responses import NoticeList

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

    def notices(client: Client) -> NoticeList:
        return client.notices(states=states, channel=channel, limit=limit)

    def opened(client: Client) -> tuple[Incident, ...]:
        return client.incidents(open_only=True, limit=500)

    def muted(client: Client) -> tuple[Mute, ...]:
        return client.mutes()

    if as_json:
        app.out_json({**app.read_json(notices), **app.read_json(opened), **app.read_json(muted)})
        return
    from maintd.present.notices import notices_text

    found = app.read(notices)
    app.out(notices_text(found.notices, app.read(opened), app.read(muted), now=app.now(), **app.terminal))


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

    Exit code 1 if it could not be delivered; `maintd status` shows that until a later test or notice arrives.
    """
    notice = app.daemon.test_channel(channel, by=current_user())
    deadline = time.monotonic() + TEST_SECONDS
    while notice.state not in ("sent", "failed"):
        if time.monotonic() > deadline:
            raise MaintdError(f'the test of "{channel}" is still {notice.state}', "see: maintd notices")
        time.sleep(POLL_SECONDS)
        notice = app.daemon.notice(notice.id)
    if as_json:
        app.out_json(notice.model_dump(mode="json"))
    else:
        app.out(_result(notice))
    return 0 if notice.state == "sent" else 1


def _result(notice: Notice) -> str:
    from maintd.units import duration_text

    if notice.sent_at is None:
        return (
            f"{notice.channel}: not delivered: {notice.error}\n"
            f"Correct the channel and test it again; maintd status shows it as a problem until a message arrives."
        )
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

    ends_at = arguments.end_of(app.now(), until, lasting)
    if ends_at is None:
        raise UsageError("a mute needs an end", "add --until WHEN or --for DURATION")

    def mute(client: Client) -> Mute:
        return client.mute(entries, why, until=ends_at, by=current_user())

    if as_json:
        app.out_json(app.daemon.json_of(mute))
        return
    from maintd.present import utc_minute

    muted = mute(app.daemon)
    app.out(f"{entries} is muted until {utc_minute(muted.until)}; end it with: maintd unmute {shell_quote(entries)}")


@click.command("unmute")
@click.argument("entries", metavar="NAME|PATTERN", shell_complete=completion.entries)
@click.option("--why", default="", help="The reason, for the audit log.")
@json_option
@click.pass_obj
def unmute_command(app: App, entries: str, why: str, as_json: bool) -> None:
    """End a mute, by the name or pattern that it was made with."""

    def unmute(client: Client) -> bool:
        return client.unmute(entries, why=why, by=current_user())

    if as_json:
        app.out_json(app.daemon.json_of(unmute))
    else:
        app.out(f"{entries} is not muted any more" if unmute(app.daemon) else f"{entries} was not muted")
