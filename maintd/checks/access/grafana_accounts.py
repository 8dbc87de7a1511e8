"""Users, service accounts, their tokens and API keys of Grafana, by its HTTP API."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from pydantic import AwareDatetime, Field

from maintd.checks.access.table import Access
from maintd.checks.hints import name_first, printable
from maintd.clients.http import Api
from maintd.clients.shapes import Listing, Shape, read, read_each
from maintd.errors import MaintdError, TargetError
from maintd.job.context import Context
from maintd.job.references import resolved
from maintd.model.evidence import CheckStatus
from maintd.model.target import HttpTarget

T = TypeVar("T")
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
    """What could be read of each kind, or the error. api_keys: None where this version has none any more."""

    users: Listing[_User] | TargetError
    accounts: Listing[_ServiceAccount] | TargetError
    tokens: dict[str, Listing[_Token] | TargetError]
    api_keys: Listing[_ApiKey] | TargetError | None


def collect(target: HttpTarget) -> GrafanaAccounts:
    """Read all kinds; each by itself, since each needs its own permission."""
    api = Api.of(resolved(target))
    users = _or_error(lambda: read_each(_User, _list(api.get("/api/org/users")), "Grafana's users"))
    accounts = _or_error(lambda: _accounts(api))
    tokens: dict[str, Listing[_Token] | TargetError] = {}
    if not isinstance(accounts, TargetError):
        for account in accounts:
            tokens[account.name] = _or_error(partial(_tokens, api, account.id))
    keys: Listing[_ApiKey] | TargetError | None
    keys = _or_error(lambda: read_each(_ApiKey, _list(api.get("/api/auth/keys")), "Grafana's API keys"))
    if isinstance(keys, TargetError) and keys.cause == "not_found":
        keys = None
    return GrafanaAccounts(users, accounts, tokens, keys)


def _tokens(api: Api, account: int) -> Listing[_Token]:
    return read_each(_Token, _list(api.get(f"/api/serviceaccounts/{account}/tokens")), "Grafana's tokens")


def _accounts(api: Api) -> Listing[_ServiceAccount]:
    where = "Grafana's service accounts"
    found = read(_Accounts, api.get("/api/serviceaccounts/search", perpage=str(_MOST), page="1"), where)
    if found.total_count > len(found.accounts):
        raise TargetError(f"{where}: {len(found.accounts)} of {found.total_count} were sent", cause="partial")
    return read_each(_ServiceAccount, found.accounts, where)


def _list(answer: Any) -> Any:
    if isinstance(answer, list) and len(answer) > _MOST * 4:
        raise TargetError(f"Grafana sent {len(answer)} accounts", cause="partial")
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
    for account in accounts or ():
        if account.is_disabled:
            continue
        result.append(Access("service account", place, account.name, account.role, "by its tokens"))
        need = f"{place}: tokens of service account {account.name}"
        for token in _readable(ctx, need, found.tokens[account.name], "serviceaccounts:read") or ():
            if token.has_expired:
                continue
            whole = f"{account.name} / {token.name}"
            ends = f"expires {token.expires:%Y-%m-%d}" if token.expires else "never expires"
            rights = f"{account.role}, created {token.created:%Y-%m-%d}, {ends}"
            result.append(Access("token", place, whole, rights, _day(token.last_used, now)))
            endless += [] if token.expires else [f"token {whole}"]
            unused += [f"token {whole}"] if late(token.last_used) and (now - token.created).days >= unused_days else []
    if found.api_keys is not None:
        for key in _readable(ctx, f"{place}: API keys", found.api_keys, "apikeys:read") or ():
            ends = f"expires {key.expires:%Y-%m-%d}" if key.expires else "never expires"
            result.append(Access("API key", place, key.name, f"{key.role}, {ends}", _day(key.last_used, now)))
            endless += [] if key.expires else [f"API key {key.name}"]
            unused += [f"API key {key.name}"] if late(key.last_used) else []
    if not all(isinstance(each, TargetError) for each in (found.users, found.accounts)):
        names_check(ctx, f"{place}: not used for {unused_days:.0f} days", unused, "disable them in Grafana", _DORMANT)
        rule = "OWASP Secrets Management Cheat Sheet, 2.6 Secret lifecycle: expiration"
        names_check(ctx, f"{place}: tokens that never expire", endless, "replace them by tokens with an end", rule)
    return result


_DORMANT = "PCI DSS 4.0.1, 8.2.6: inactive accounts are disabled within 90 days"


def names_check(ctx: Context, name: str, found: list[str], hint: str, rule: str) -> None:
    """A check that warns unless no name is found."""
    shown = name_first([printable(each) for each in found])
    ctx.check(name, shown or "none", equals="none", severity=CheckStatus.WARN, hint=hint if found else "", rule=rule)


def _readable(ctx: Context, name: str, found: Listing[T] | TargetError, permission: str) -> Listing[T] | None:
    if isinstance(found, MaintdError):
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
