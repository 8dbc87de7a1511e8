"""Who sends a request on the TCP port: the holder of a token, a user that a trusted proxy names, or a local reader."""

from __future__ import annotations

import asyncio
import ipaddress
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

import anyio
import anyio.to_thread
import structlog
from starlette.types import Scope

from maintd.errors import StoreError, UnauthorizedError
from maintd.model.access import Caller, Role, TokenState
from maintd.operations import OperatorService
from maintd.operations.tokens import find_token
from maintd.store.tokens import USE_RESOLUTION, StoredToken
from maintd.web.errors import TooManyFailuresError, WrongTokenError
from maintd.web.throttle import Throttle

log = structlog.get_logger()

MAX_WAITING = 16
"""Answers to wrong tokens that wait at the same time; one more is refused at once."""

MAX_NAME = 200
"""Characters of a user's name, and groups, that a proxy may send."""

FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip")
"""Headers that proxies add: with one of them, a request did not come from a program on this machine."""


class Authenticator:
    """Finds the caller of each request of one TCP listener."""

    def __init__(self, service: OperatorService, *, loopback: bool) -> None:
        settings = service.settings
        self._store = service.store
        self._clock = service.clock
        self._anonymous_read = loopback and settings.anonymous_read
        self._proxies = tuple(ipaddress.ip_network(text, strict=False) for text in settings.trusted_proxies)
        self._user_header = settings.proxy_user_header.lower().encode()
        self._groups_header = settings.proxy_groups_header.lower().encode()
        self._roles = settings.proxy_roles
        self._wrong_tokens = Throttle()
        self._wrong_peers = Throttle()
        self._waiting = 0
        self._recording: asyncio.Task[None] | None = None

    async def caller(self, scope: Scope) -> Caller:
        """The caller of a request. Raises UnauthorizedError for a wrong token, after a delay if there were several, and
        StoreError when tokens cannot be looked up."""
        address = client_address(scope)
        from_proxy = self._is_proxy(address)
        user = self._proxy_user(scope, address) if from_proxy else None
        if user is not None:
            return user
        if not from_proxy:
            self._note_ignored_headers(scope, address)
        credentials = _headers(scope, b"authorization")
        if credentials:
            return await self._holder(credentials, address)
        local = self._anonymous_read and not from_proxy and not any(_headers(scope, name) for name in FORWARDED)
        return Caller("", Role.VIEWER if local else None, address)

    def _start_recording(self, found: StoredToken, address: str) -> None:
        """Record the use of a token while the request goes on: one use at a time, of each token once a minute."""
        used, now = found.token.last_used_at, self._clock.now()
        if used is not None and now - used < USE_RESOLUTION:
            return
        if self._recording is None or self._recording.done():
            self._recording = asyncio.ensure_future(self._record(found.id, address, now))

    async def _record(self, token_id: int, address: str, now: datetime) -> None:
        try:
            await anyio.to_thread.run_sync(self._store.tokens.record_use, token_id, address, now)
        except StoreError as error:
            log.debug("token_use_not_recorded", error=error.message)

    async def _holder(self, credentials: list[str], address: str) -> Caller:
        """The holder of the token in the Authorization header."""
        scheme, _, text = credentials[0].partition(" ")
        reason, name = "the Authorization header has no bearer token", ""
        if len(credentials) == 1 and scheme.lower() == "bearer":
            found = await anyio.to_thread.run_sync(find_token, self._store, text.strip())
            if found is None:
                reason = "the token is unknown"
            else:
                token, state = found.token, found.token.state_at(self._clock.now())
                if state is TokenState.VALID:
                    self._start_recording(found, address)
                    return caller_of(found, address)
                reason, name = f'token "{token.name}" is {state}', token.name
        return await self._refuse(address, reason, name)

    async def _refuse(self, address: str, reason: str, name: str) -> NoReturn:
        failure = self._wrong_tokens.failed(address, self._clock.elapsed())
        if failure.noteworthy:
            log.warning("token_refused", address=address, reason=reason, token=name or None, failures=failure.number)
        if failure.delay:
            if self._waiting >= MAX_WAITING:
                raise TooManyFailuresError(math.ceil(failure.delay))
            self._waiting += 1
            try:
                await anyio.sleep(failure.delay)
            finally:
                self._waiting -= 1
        raise WrongTokenError(reason, "an administrator creates one with: maintd token create --role ROLE NAME")

    def _is_proxy(self, address: str) -> bool:
        if not self._proxies:
            return False
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self._proxies if network.version == found.version)

    def _proxy_user(self, scope: Scope, proxy: str) -> Caller | None:
        """The user that a trusted proxy names; None when it names none. Raises UnauthorizedError for two names."""
        users = _headers(scope, self._user_header)
        if len(users) > 1 or (users and len(users[0]) > MAX_NAME):
            raise UnauthorizedError("the proxy names more than one user, or one of more than 200 characters")
        if not users or not users[0].strip():
            return None
        groups = {group.strip() for text in _headers(scope, self._groups_header) for group in text.split(",")}
        client = _headers(scope, b"x-forwarded-for")
        # The last address is the one that this proxy saw; those before it are the client's own claims.
        shown = _as_address(client[-1].rpartition(",")[2].strip()) if client else ""
        origin = f"proxy {proxy}" + (f" for {shown}" if shown else "")
        return Caller(users[0].strip(), role_of(groups, self._roles), origin, by_proxy=True)

    def _note_ignored_headers(self, scope: Scope, address: str) -> None:
        if not (_headers(scope, self._user_header) or _headers(scope, self._groups_header)):
            return
        seen = self._wrong_peers.failed(address, self._clock.elapsed())
        if seen.noteworthy:
            log.warning(
                "proxy_headers_ignored",
                address=address,
                requests=seen.number,
                hint="only addresses in MAINTD_TRUSTED_PROXIES may name users",
            )


def caller_of(found: StoredToken, address: str) -> Caller:
    """The holder of a token: the person that it was created for, or a program, which has the token's name."""
    token = found.token
    origin = f"token {token.name} from {address}" if token.person else f"token from {address}"
    return Caller(
        token.person or token.name,
        token.role,
        origin,
        token.entries,
        token=token.name,
        token_id=found.id,
        by_program=not token.person,
    )


def role_of(groups: set[str], roles: Mapping[str, Role]) -> Role | None:
    """The highest role of these groups; `*` is for every user. None when they have none."""
    found = {roles[group] for group in (groups | {"*"}) & set(roles)}
    return max(found, key=list(Role).index, default=None)


def client_address(scope: Scope) -> str:
    """The address of the peer; an IPv4 address as such, also on a socket for both families."""
    client = scope.get("client")
    return _as_address(client[0]) if client else ""


def _as_address(text: str) -> str:
    """The address in its usual form; empty for anything else."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return ""
    mapped = getattr(found, "ipv4_mapped", None)
    return str(mapped or found)


def _headers(scope: Mapping[str, Any], name: bytes) -> list[str]:
    return [_text(value) for key, value in scope["headers"] if key == name]


def _text(value: bytes) -> str:
    """The value of a header: UTF-8, as proxies write names today, else Latin-1, which HTTP once prescribed."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
