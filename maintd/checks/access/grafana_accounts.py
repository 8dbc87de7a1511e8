"""Users, service accounts, their tokens and API keys of Grafana, by its HTTP API."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from pydantic import AwareDatetime, Field

from maintd.checks.access.table import Access
from maintd.checks.hints import name_first, printable
from maintd.clients.http import Api
from maintd.clients.shapes import Listing, Shape, read, read_each
from maintd.errors import MaintdError, TargetError
from maintd.job.causes import hint_for
from maintd.job.context import Context
from maintd.job.criterion import Criterion
from maintd.job.references import resolved
from maintd.model.evidence import CheckStatus
from maintd.model.target import HttpTarget
from maintd.units import format_duration

T = TypeVar("T")
_TIME_OUTS = 3  # in a row: one slow answer is none that never comes
_HANGS = "find out in Grafana's own log why it hangs"
_MOST = 500  # accounts of each kind
_NEVER = 2000  # Grafana writes the year 1 for a time that is not set, and ten years ago for a user who never came


class _User(Shape):
    login: str
    role: str = ""
    last_seen_at: AwareDatetime | None = Field(None, alias="lastSeenAt")
    is_disabled: bool = Field(False, alias="isDisabled")


class _ServiceAccount(Shape):
    id: int
    name: str
    role: str = ""
    is_disabled: bool = Field(False, alias="isDisabled")


class _Accounts(Shape):
    total_count: int = Field(alias="totalCount", ge=0)
    accounts: list[object] = Field(alias="serviceAccounts")


class _Token(Shape):
    name: str
    created: AwareDatetime
    last_used: AwareDatetime | None = Field(None, alias="lastUsedAt")
    expires: AwareDatetime | None = Field(None, alias="expiration")
    has_expired: bool = Field(False, alias="hasExpired")


class _ApiKey(Shape):
    name: str
    role: str = ""
    expires: AwareDatetime | None = Field(None, alias="expiration")
    last_used: AwareDatetime | None = Field(None, alias="lastUsedAt")


@dataclass(frozen=True)
class GrafanaAccounts:
    """What could be read of each kind, or the error. api_keys: None where this version has none any more.

    tokens: by the id of the service account, as two can have one name. left_out: service accounts whose tokens were
    not asked for, and why: Grafana has timed out before.
    """

    users: Listing[_User] | TargetError
    accounts: Listing[_ServiceAccount] | TargetError
    tokens: dict[int, Listing[_Token] | TargetError]
    api_keys: Listing[_ApiKey] | TargetError | None
    left_out: tuple[_ServiceAccount, ...] = ()
    left_out_cause: str = ""


class _Client:
    """Requests within one time for all of them."""

    def __init__(self, target: HttpTarget, patience: timedelta) -> None:
        self._target = resolved(target)
        self._until = time.monotonic() + patience.total_seconds()
        self._patience = patience

    @property
    def left(self) -> timedelta:
        return timedelta(seconds=max(self._until - time.monotonic(), 0))

    def get(self, path: str, **params: str) -> Any:
        """The JSON of a GET. Raises TargetError."""
        if not self.left:
            text = f"the {format_duration(self._patience)} for all of Grafana were over"
            raise TargetError(text, _HANGS, cause="timed_out")
        return Api.of(self._target, timeout=min(self._target.timeout, self.left)).get(path, **params)


def collect(target: HttpTarget, patience: timedelta) -> GrafanaAccounts:
    """Read all kinds; each by itself, since each needs its own permission. patience: the time for all requests.

    A Grafana that times out for the tokens of several service accounts in a row is not asked for those of others.
    """
    client = _Client(target, patience)
    users = _or_error(lambda: _users(client))
    accounts = _or_error(lambda: _accounts(client))
    keys: Listing[_ApiKey] | TargetError | None
    keys = _or_error(lambda: read_each(_ApiKey, _list(client.get("/api/auth/keys"), "API keys"), "Grafana's API keys"))
    if isinstance(keys, TargetError) and keys.cause == "not_found":
        keys = None
    tokens: dict[int, Listing[_Token] | TargetError] = {}
    waiting = [] if isinstance(accounts, TargetError) else [each for each in accounts if not each.is_disabled]
    timed_out = 0
    while waiting and client.left and timed_out < _TIME_OUTS:
        account = waiting.pop(0)
        found = tokens[account.id] = _or_error(partial(_tokens, client, account.id))
        timed_out = timed_out + 1 if isinstance(found, TargetError) and found.cause == "timed_out" else 0
    why = f"it did not answer {timed_out} times in a row" if client.left else f"after {format_duration(patience)}"
    return GrafanaAccounts(users, accounts, tokens, keys, tuple(waiting), why if waiting else "")


def _users(client: _Client) -> Listing[_User]:
    where = "Grafana's users"
    found = read_each(_User, _list(client.get("/api/org/users"), "users"), where)
    if not found.items and not found.not_understood:  # who asks is in an organization with an administrator
        raise TargetError(f"{where}: none were sent", "check its organization and its url", cause="empty")
    return found


def _tokens(client: _Client, account: int) -> Listing[_Token]:
    return read_each(_Token, _list(client.get(f"/api/serviceaccounts/{account}/tokens"), "tokens"), "Grafana's tokens")


def _accounts(client: _Client) -> Listing[_ServiceAccount]:
    where = "Grafana's service accounts"
    found = read(_Accounts, client.get("/api/serviceaccounts/search", perpage=str(_MOST), page="1"), where)
    if found.total_count > len(found.accounts):
        raise TargetError(f"{where}: {len(found.accounts)} of {found.total_count} were sent", cause="partial")
    return read_each(_ServiceAccount, found.accounts, where)


def _list(answer: Any, what: str) -> list[Any]:
    """The answer, which must be a list: null is not one without items."""
    if not isinstance(answer, list):
        kind = "null" if answer is None else f"a {type(answer).__name__}"
        raise TargetError(f"Grafana's {what}: {kind} instead of a list", cause="malformed")
    if len(answer) > _MOST * 4:
        raise TargetError(f"Grafana sent {len(answer)} {what}", cause="partial")
    return answer


def _or_error(collect_one: Callable[[], T]) -> T | TargetError:
    try:
        return collect_one()
    except TargetError as error:
        return error


def report(ctx: Context, name: str, found: GrafanaAccounts, unused_days: float) -> list[Access]:
    """Check what could be read, its age and its use; return what is to be signed off."""
    place, now = f"grafana {name}", ctx.now()
    result: list[Access] = []
    unused, endless = list[str](), list[str]()

    def late(last: datetime | None) -> bool:
        return last is None or last.year < _NEVER or (now - last).days >= unused_days

    if (users := _readable(ctx, f"{place}: users", found.users, "users:read of the organization")) is not None:
        for user in users:
            text = _day(user.last_seen_at, now)
            if not user.is_disabled:
                result.append(Access("user", place, user.login, user.role, text))
                unused += [f"user {user.login}"] if late(user.last_seen_at) else []
    accounts = _readable(ctx, f"{place}: service accounts", found.accounts, "serviceaccounts:read")
    labels = _labels(accounts or ())
    for account in accounts or ():
        if account.is_disabled:
            continue
        label = labels[account.id]
        result.append(Access("service account", place, label, account.role, "by its tokens"))
        if account.id not in found.tokens:
            continue  # left out
        need = f"{place}: tokens of service account {printable(label)}"
        for token in _readable(ctx, need, found.tokens[account.id], "serviceaccounts:read") or ():
            if token.has_expired:
                continue
            whole = f"{label} / {token.name}"
            ends = f"expires {token.expires:%Y-%m-%d}" if token.expires else "never expires"
            rights = f"{account.role}, created {token.created:%Y-%m-%d}, {ends}"
            result.append(Access("token", place, whole, rights, _day(token.last_used, now)))
            endless += [] if token.expires else [f"token {whole}"]
            unused += [f"token {whole}"] if late(token.last_used) and (now - token.created).days >= unused_days else []
    if found.left_out:
        names = name_first([printable(labels[account.id]) for account in found.left_out])
        count, why = len(found.left_out), found.left_out_cause
        seen = f"timed_out: Grafana was not asked for those of {count}, as {why}: {names}"
        ctx.unknown(f"{place}: tokens of all service accounts", seen, expected="readable", hint=_HANGS)
    if found.api_keys is not None:
        for key in _readable(ctx, f"{place}: API keys", found.api_keys, "apikeys:read") or ():
            ends = f"expires {key.expires:%Y-%m-%d}" if key.expires else "never expires"
            result.append(Access("API key", place, key.name, f"{key.role}, {ends}", _day(key.last_used, now)))
            endless += [] if key.expires else [f"API key {key.name}"]
            unused += [f"API key {key.name}"] if late(key.last_used) else []
    parts = (found.users, found.accounts, *found.tokens.values(), found.api_keys)
    is_cut = any(isinstance(each, TargetError) or (each is not None and each.not_understood) for each in parts)
    unseen = "partial: not all accounts and tokens could be read" if is_cut or found.left_out else ""
    name = f"{place}: not used for {unused_days:.0f} days"
    names_check(ctx, name, unused, "disable them in Grafana", _DORMANT, unseen)
    name = f"{place}: tokens that never expire"
    rule = "OWASP Secrets Management Cheat Sheet, 2.6 Secret lifecycle: expiration"
    names_check(ctx, name, endless, "replace them by tokens with an end", rule, unseen)
    return result


_DORMANT = "PCI DSS 4.0.1, 8.2.6: inactive accounts are disabled within 90 days"


def _labels(accounts: Iterable[_ServiceAccount]) -> dict[int, str]:
    """The name of each service account by its id; with the id where it could be taken for another one's."""
    accounts = list(accounts)
    count = Counter(account.name for account in accounts)
    return {
        account.id: f"{account.name} (id {account.id})"
        if count[account.name] > 1 or " (id " in account.name or " / " in account.name
        else account.name
        for account in accounts
    }


def names_check(ctx: Context, name: str, found: list[str], hint: str, rule: str, unseen: str = "") -> None:
    """A check that warns unless no name is found. unseen: why it is not known that there is none."""
    shown = name_first([printable(each) for each in found]) or "none"
    cause, hint = ("", hint) if found else (unseen, "")
    warn = CheckStatus.WARN
    ctx.report([Criterion(name, shown, equals="none", unknown=cause, severity=warn, hint=hint, rule=rule)])


def _readable(ctx: Context, name: str, found: Listing[T] | TargetError, permission: str) -> Listing[T] | None:
    if isinstance(found, MaintdError):
        hint = found.hint or hint_for(found.cause)
        if found.cause == "denied":
            hint = f"give the service account of maintd the permission {permission}: {found.message}"
        ctx.unknown(name, f"{found.cause}: {found.message}", expected="readable", hint=hint)
        return None
    if found.not_understood:
        ctx.unknown(name, f"unfamiliar: {found.not_understood[0]}", expected="readable")
    else:
        ctx.passed(name, f"{len(found.items)} read", expected="readable")
    return found


def _day(at: datetime | None, now: datetime) -> str:
    return "never seen" if at is None or at.year < _NEVER else f"{at:%Y-%m-%d}"
