"""Whether notices and pings could be delivered: secrets resolve, URLs can be parsed, hosts accept connections.

Nothing is sent.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import time
import warnings
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from maintd.checks.probes import Probe, collect_all
from maintd.errors import JobError, MaintdError, TargetError
from maintd.job.context import Context
from maintd.job.references import resolve_references

_CONNECT_SECONDS = 5.0
_SMTPS = 465
_WITH_HOST = ("mailto", "mailtos", "json", "jsons", "xml", "xmls", "form", "forms")
"""Schemes of apprise whose URL has a host; in others it can be a token."""


class ChannelToExamine(BaseModel):
    """A channel of the calendar. `address` is a URL with references; `apprise`: apprise reads it."""

    model_config = ConfigDict(frozen=True)

    name: str
    address: str
    secret: str = ""
    apprise: bool = False


class Address(NamedTuple):
    """Where messages go. `tls`: the connection begins with a TLS handshake."""

    host: str
    port: int
    tls: bool


def report_channels(ctx: Context, channels: Sequence[ChannelToExamine], time_limit: timedelta) -> None:
    """Examine all channels at once, each within the time limit."""
    if any(channel.apprise for channel in channels):
        _apprise()  # takes seconds on a busy host, which are not the channel's
    probes = [Probe("channel", channel.name, partial(_examine, channel), time_limit) for channel in channels]
    for probe, result in collect_all(probes):
        name, expected = f"{probe.subject}: deliverable", "an address that accepts connections"
        if isinstance(result, MaintdError):
            ctx.report_error(name, result, expected=expected)
        else:
            ctx.passed(name, result, expected=expected)


def _examine(channel: ChannelToExamine) -> str:
    try:
        url, _ = (resolve_references(_unescaped(text), os.environ) for text in (channel.address, channel.secret))
    except JobError as error:
        raise TargetError(error.message, error.hint, cause="not_configured") from error
    address = _address_of_apprise(url) if channel.apprise else _address_of_url(url)
    if address is None:
        return "the URL can be parsed; only apprise knows the address of its service"
    return _connect(address)


def _unescaped(text: str) -> str:
    """A text with its references, which were escaped so that they are resolved here only."""
    return text.replace("$\\u007b", "${")


def _address_of_url(url: str) -> Address:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise TargetError("the URL cannot be parsed", cause="not_configured") from error
    if parts.scheme not in ("http", "https") or not host:
        raise TargetError("the URL is not http:// or https:// and a host", cause="not_configured")
    tls = parts.scheme == "https"
    return Address(host, port or (443 if tls else 80), tls)


def _address_of_apprise(url: str) -> Address | None:
    """The address that apprise would connect to; None for a service whose address is its own."""
    try:
        service: Any = _apprise().Apprise.instantiate(url)
    except TypeError:
        service = None
    if service is None:
        raise TargetError("apprise cannot parse the URL", "see github.com/caronc/apprise/wiki", cause="not_configured")
    host = getattr(service, "smtp_host", None) or getattr(service, "host", None)
    if url.partition("://")[0].lower() not in _WITH_HOST or not isinstance(host, str) or not host:
        return None
    port = getattr(service, "port", None)
    if getattr(service, "smtp_host", None):
        return Address(host, port or 25, port == _SMTPS)
    secure = bool(getattr(service, "secure", False))
    return Address(host, port or (443 if secure else 80), secure)


def _apprise() -> Any:
    warnings.simplefilter("ignore")  # apprise imports what Python has deprecated
    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # its texts have the URL
    import apprise

    return apprise


def _connect(address: Address) -> str:
    place = f"{address.host}:{address.port}"
    began = time.monotonic()
    try:
        with socket.create_connection((address.host, address.port), timeout=_CONNECT_SECONDS) as plain:
            if address.tls:
                with ssl.create_default_context().wrap_socket(plain, server_hostname=address.host) as wrapped:
                    wrapped.version()
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "") or error.reason or "handshake failed"
        raise TargetError(f"{place}: {reason}", "check its certificate", cause="tls") from error
    except TimeoutError as error:
        raise TargetError(f"{place}: no connection within {_CONNECT_SECONDS:.0f}s", cause="timed_out") from error
    except ConnectionRefusedError as error:
        raise TargetError(f"{place}: connection refused", cause="refused") from error
    except OSError as error:
        raise TargetError(f"{place}: {error.strerror or error}", cause="unreachable") from error
    how = "TLS" if address.tls else "connected"
    return f"{place}: {how} after {(time.monotonic() - began) * 1000:.0f} ms"
