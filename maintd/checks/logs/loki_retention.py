"""Whether Loki deletes old logs: its compactor's or table manager's retention, by its effective configuration.

Source: Loki's documentation of log retention and of its HTTP API (2.3 to 3.7): `/config` has the configuration in
force as YAML, `/loki/api/v1/delete` the requests to delete logs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from pydantic import Field

from maintd.checks.limits import Limits
from maintd.clients.bounded import parse_yaml
from maintd.clients.http import Api
from maintd.clients.shapes import Shape, read, read_each
from maintd.errors import TargetError
from maintd.job.causes import Role
from maintd.job.context import Context
from maintd.job.references import resolved
from maintd.model.evidence import CheckStatus
from maintd.model.target import HttpTarget
from maintd.units import Duration

_UNITS = {"y": 365 * 86400, "w": 7 * 86400, "d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 0.001}
_PART = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|[ywdhms])")
_DURATION = re.compile(rf"(?:{_PART.pattern})+|0")
_LONGEST = timedelta(days=100_000)
_WAITING = timedelta(days=3)  # a request is carried out after a day, the cancel period, and the next compaction


class LokiLimits(Limits):
    """How long Loki keeps logs."""

    at_most: Duration | None = None
    """A longer retention warns. null: any retention is right that ends."""
    at_least: Duration = timedelta(days=7)
    """A shorter retention warns."""


class _Stream(Shape):
    period: str = ""
    selector: str = ""


class _LimitsConfig(Shape):
    retention_period: str | int = "0"
    retention_stream: tuple[_Stream, ...] = ()


class _Compactor(Shape):
    retention_enabled: bool = False


class _TableManager(Shape):
    retention_deletes_enabled: bool = False
    retention_period: str | int = "0"


class _RuntimeConfig(Shape):
    file: str = ""


class _Config(Shape):
    compactor: _Compactor
    limits_config: _LimitsConfig
    table_manager: _TableManager = _TableManager()
    runtime_config: _RuntimeConfig = _RuntimeConfig()


class _DeleteRequest(Shape):
    request_id: str = ""
    status: str = ""
    created_at: float = Field(0, ge=0, le=253_402_300_799)


def report_retention(ctx: Context, name: str, target: HttpTarget, limits: LokiLimits) -> None:
    """Check that Loki deletes logs, after which time, and that requests to delete are carried out."""
    check = f"loki {name}: retention"
    try:
        api = _api(target)
        config = _config(api, name)
        period = _period(config)
    except TargetError as error:
        ctx.report_error(check, error, expected="a time after which logs are deleted", role=Role.SOURCE)
        return
    if period is None:
        hint = "set compactor.retention_enabled and limits_config.retention_period, or the disk fills up"
        ctx.check(check, "never deletes", equals="deletes", severity=CheckStatus.WARN, hint=hint)
    else:
        hint = "set limits_config.retention_period, or the param loki_limits"
        ctx.check(check, period, warn_above=limits.at_most or _LONGEST, hint=hint)
        ctx.check(f"{check}, at least", period, warn_below=limits.at_least, hint=hint)
        ctx.measure("loki_retention_days", period / timedelta(days=1), "day", loki=name)
    if config.runtime_config.file:
        hint = "see the overrides in its runtime_config, which the HTTP API does not show as a whole"
        ctx.unknown(f"loki {name}: retention of each tenant", "not read", hint=hint, optional=True)
    _report_requests(ctx, api, name)


def read_period(target: HttpTarget, name: str) -> timedelta | None:
    """The longest time after which Loki deletes logs; None when some are never deleted. Raises TargetError."""
    return _period(_config(_api(target), name))


def _api(target: HttpTarget) -> Api:
    target = resolved(target)
    url = str(httpx.URL(target.url).copy_with(path="/", query=None)).rstrip("/")
    return Api(url, target.headers, target.timeout, ca_file=target.ca_file, verify=target.verify)


def _config(api: Api, name: str) -> _Config:
    body = api.call("GET", "/config").body
    found = parse_yaml(body, f"loki {name}: /config", "check its url")
    if not isinstance(found, Mapping) or "limits_config" not in found or "compactor" not in found:
        hint = "check its url; of several processes ask one with the compactor"
        raise TargetError(f"loki {name}: /config is not that of Loki", hint, cause="unfamiliar")
    return read(_Config, dict(found), f"loki {name}: /config")


def _period(config: _Config) -> timedelta | None:
    if config.compactor.retention_enabled:
        texts: list[Any] = [config.limits_config.retention_period]
        texts += [stream.period for stream in config.limits_config.retention_stream]
    elif config.table_manager.retention_deletes_enabled:
        texts = [config.table_manager.retention_period]
    else:
        return None
    periods = [parse_period(text) for text in texts]
    return max(periods) if all(periods) else None


def parse_period(text: str | int) -> timedelta:
    """`744h`, `31d`, `2h0m0s`, `1w3d` and 0, as Loki and Go write them. Raises TargetError."""
    value = str(text).strip()
    if not _DURATION.fullmatch(value):
        raise TargetError(f'"{value[:60]}" is not a retention period', cause="unfamiliar")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value))
    return min(timedelta(seconds=min(seconds, _LONGEST.total_seconds())), _LONGEST)


def _report_requests(ctx: Context, api: Api, name: str) -> None:
    """Check that no request to delete logs waits; Loki has this API only with the compactor's retention."""
    try:
        found = read_each(_DeleteRequest, api.get("/loki/api/v1/delete"), f"loki {name}: delete requests")
    except TargetError as error:
        ctx.log(f"loki {name}: requests to delete logs are not shown: {error}")
        return
    late = [
        one.request_id
        for one in found
        if one.status == "received" and ctx.now() - datetime.fromtimestamp(one.created_at, UTC) > _WAITING
    ]
    hint = f"see the log of its compactor: {', '.join(late[:3])}" if late else ""
    ctx.check(f"loki {name}: delete requests not carried out", len(late), warn_above=0, hint=hint)
