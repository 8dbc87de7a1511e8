"""Whether maintd's own store depends on a server that maintd maintains."""

from __future__ import annotations

import socket
from pathlib import Path

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import BaseModel, ConfigDict

from maintd.checks.requirements.local import has_space
from maintd.errors import MaintdError, TargetError
from maintd.job.context import Context
from maintd.job.references import resolved
from maintd.model.evidence import CheckStatus
from maintd.model.target import PostgresTarget

_DEFAULT_PORT = 5432
_FREE = 256 << 20  # bytes: evidence of some busy runs, which may log 20 MB each


class StorePlace(BaseModel):
    """Where the store is: a file, or a Postgres server by host and port. Never with credentials."""

    model_config = ConfigDict(frozen=True)

    file: Path | None = None
    host: str = ""
    port: int = _DEFAULT_PORT


def report_store(ctx: Context, store: StorePlace) -> None:
    """A store in a server that maintd maintains warns; the disk of a file needs free space."""
    name = "store: outside of the servers that maintd maintains"
    if store.file is not None:
        ctx.passed(name, f"its own file {store.file}", expected="no target has the store")
        try:
            ctx.passed("store: free space", has_space(_FREE)(store.file.parent), expected="room for evidence")
        except TargetError as error:
            ctx.report_error("store: free space", error, expected="room for evidence")
        return
    own, same, unclear = addresses_of(store.host), [], []
    for target_name, target in ctx.targets.postgres.items():
        place = _place(target)
        if place is None:
            unclear.append(target_name)
        elif place[1] == store.port and (place[0] == store.host or addresses_of(place[0]) & own):
            same.append(target_name)
    hint = "use another server or the default file: a job that stops this one would stop maintd's history with it"
    if unclear and not same:
        cause = f"unfamiliar: the address of {', '.join(unclear)} cannot be read from its dsn"
        ctx.unknown(name, cause, expected="no target has the store", hint="write host and port in the dsn")
        return
    observed = f"in {', '.join(f'postgres {item}' for item in same)}" if same else "in no target"
    ctx.check(name, observed, equals="in no target", severity=CheckStatus.WARN, hint=hint)


def _place(target: PostgresTarget) -> tuple[str, int] | None:
    try:
        found = conninfo_to_dict(resolved(target).dsn)
        return str(found.get("host") or found.get("hostaddr") or ""), int(found.get("port") or _DEFAULT_PORT)
    except (ProgrammingError, MaintdError, ValueError):
        return None


def addresses_of(host: str) -> set[str]:
    """The addresses of a host; of a folder with the server's socket, those of this machine."""
    if not host or host.startswith("/"):
        host = "localhost"
    try:
        return {str(item[4][0]) for item in socket.getaddrinfo(host, None)}
    except OSError:
        return set()
