"""`token create`, `list` and `revoke`: the tokens of the API, with or without a daemon."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from maintd.cli import completion
from maintd.cli.app import App, current_user, json_option
from maintd.errors import DaemonUnavailableError

if TYPE_CHECKING:
    from maintd.model.access import CreatedToken, ListedToken
    from maintd.store import Store

ROLES = ("viewer", "operator", "approver", "admin")
"""The values of `model.access.Role`, which takes longer to import than a command that only prints its help."""


@click.group("token")
def token_command() -> None:
    """Create, list and revoke tokens for the API on the TCP port.

    The roles are in docs/operations.md. The control socket needs no token.
    """


@token_command.command("create")
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), required=True, help="What the token may do.")
@click.option(
    "--expires",
    metavar="WHEN",
    default="90d",
    show_default=True,
    help="End of the token: 90d, 2026-12-06; at most 366d.",
)
@click.option(
    "--entries", multiple=True, metavar="GLOB", help="Only for entries whose name matches, as backup-*; repeatable."
)
@click.option(
    "--person",
    default="",
    metavar="USER",
    help="Who holds it, by their user name on the hosts or at the proxy. Without it, a program does: such a token "
    "passes no gate.",
)
@click.option("--why", default="", help="The reason, for the audit log.")
@json_option
@click.pass_obj
def create(
    app: App, name: str, role: str, expires: str, entries: tuple[str, ...], person: str, why: str, as_json: bool
) -> None:
    """Create a token and print it, this once.

    Example: maintd token create --role operator --expires 30d --entries "backup-*" ci
    """
    from maintd.cli import arguments

    expires_at = arguments.future_time(f"{expires}T00:00Z" if _is_day(expires) else expires, app.now())
    try:
        created = app.daemon.create_token(
            name, role, expires_at=expires_at, person=person, entries=entries, why=why, by=current_user()
        )
    except DaemonUnavailableError:
        if app.remote is not None:
            raise
        with _store(app, create=True) as store:
            created = _create(store, name, role, expires_at, person, entries, why)
    for pattern in created.unmatched:
        app.note(f'warning: no entry of the calendar matches "{pattern}"; see: maintd status')
    if as_json:
        app.out_json(created.model_dump(mode="json"))
        return
    from maintd.present import utc_minute

    app.out(created.token)
    limits = f", held by {created.person}" if created.person else ""
    limits += f", for {', '.join(created.entries)}" if created.entries else ""
    ends = f"expires {utc_minute(created.expires_at)}"
    app.note(f'token "{name}": {role}{limits}, {ends}; it is not stored and cannot be shown again')


@token_command.command("list")
@json_option
@click.pass_obj
def list_command(app: App, as_json: bool) -> None:
    """List the tokens with role, expiry and last use, also those that are expired or revoked."""
    try:
        found: Sequence[ListedToken] = app.daemon.tokens()
    except DaemonUnavailableError:
        if app.remote is not None:
            raise
        from maintd.operations.tokens import list_tokens

        with _store(app, read_only=True) as store:
            found = list_tokens(store)
    if as_json:
        app.out_json({"tokens": [token.model_dump(mode="json") for token in found]})
        return
    from maintd.present import tokens_text

    app.out(tokens_text(found, now=app.now(), **app.terminal))


@token_command.command("revoke")
@click.argument("name", shell_complete=completion.tokens)
@click.option("--why", default="", help="The reason, for the audit log.")
@json_option
@click.pass_obj
def revoke(app: App, name: str, why: str, as_json: bool) -> None:
    """Revoke a token: no request with it is accepted from now on."""
    try:
        revoked = app.daemon.revoke_token(name, why=why, by=current_user())
    except DaemonUnavailableError:
        if app.remote is not None:
            raise
        from maintd.operations.tokens import revoke_token

        with _store(app) as store:
            revoked = revoke_token(store, name, by=current_user(), origin=ORIGIN, why=why)
    if as_json:
        app.out_json(revoked.model_dump(mode="json"))
    else:
        app.out(f'token "{name}" is revoked')


ORIGIN = "command without a daemon"


def _create(
    store: Store, name: str, role: str, expires_at: datetime, person: str, entries: tuple[str, ...], why: str
) -> CreatedToken:
    from maintd.model.access import Role
    from maintd.operations.tokens import create_token

    return create_token(
        store,
        name,
        Role(role),
        expires_at=expires_at,
        person=person,
        entries=entries,
        by=current_user(),
        origin=ORIGIN,
        why=why,
    )


def _is_day(text: str) -> bool:
    return len(text) == len("2026-12-06") and text.count("-") == 2


@contextmanager
def _store(app: App, *, read_only: bool = False, create: bool = False) -> Iterator[Store]:
    """The store, without a daemon.

    With `create`, a missing SQLite file is created: a daemon that listens beyond loopback needs a token at its start.
    """
    from maintd.clock import SystemClock
    from maintd.store import open_store, read_store
    from maintd.store.database import parse_url

    settings = app.settings
    if read_only:
        store = read_store(settings.store, clock=SystemClock())
    else:
        url = parse_url(settings.store)
        missing = (
            create
            and url.get_backend_name() == "sqlite"
            and url.database is not None
            and not Path(url.database).exists()
        )
        store = open_store(settings.store, clock=SystemClock(), migrate=missing, state_dir=settings.state_dir)
    try:
        yield store
    finally:
        store.close()
