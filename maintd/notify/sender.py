"""The process that delivers one message: it reads an order from standard input and prints what became of it.

A process of its own can be ended when a server answers a byte a minute, and takes with it what apprise imports: a
daemon that sends nothing never imports it. Secrets are resolved here, and masked in what it reports.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, NamedTuple

from pydantic import SecretStr

import maintd
from maintd.errors import JobError
from maintd.job.references import resolve_references
from maintd.model.notice import Channel, secrets_of_channel
from maintd.notify.ping_protocol import BODY_LIMIT_HEADER, body_limit, ping_url, refusal_in
from maintd.redaction import forms_of, mask_text, replace_secrets

CONNECT_SECONDS = 10.0
READ_SECONDS = 15.0

LONGEST_ERROR = 300
MOST_RETRY_SECONDS = 3600.0
"""A channel is asked again at least once an hour, whatever its Retry-After is."""

_ANSWER_BYTES = 65_536
_HTTP_ERROR = re.compile(r"error[= ](\d{3})")
_BUSY = (408, 425, 429)


class Result(StrEnum):
    """What became of a message."""

    SENT = "sent"  # the channel accepted it
    DOWN = "down"  # the channel cannot be reached, or cannot take messages now; it did not get this one
    UNCERTAIN = "uncertain"  # as `down`, but the channel may have got this message
    REFUSED = "refused"  # the channel does not want this message
    PARTLY = "partly"  # accepted for some recipients, refused for the others: not sent again


class Outcome(NamedTuple):
    """What became of a message, why, and after how many seconds the channel wants to be asked again.

    `body_limit`: the bytes of a body that a monitor keeps, if it answered with that.
    """

    result: Result
    error: str = ""
    retry_seconds: float | None = None
    body_limit: int | None = None


def main() -> None:
    """Deliver the order on standard input; print an Outcome as JSON."""
    order = json.load(sys.stdin)
    given = {name: None if value is None else SecretStr(value) for name, value in order["channel"].items()}
    outcome = deliver(Channel(name="", **given), order["message"])
    print(json.dumps(outcome._asdict()))


def deliver(channel: Channel, message: dict[str, Any]) -> Outcome:
    """Deliver a message with `key`, `title`, `body`, `level` and the JSON `payload`."""
    secrets = secrets_of_channel(channel)
    try:
        resolved = _resolved(channel)
        secrets |= secrets_of_channel(resolved)
        outcome = _send(resolved, message)
    except JobError as error:
        outcome = Outcome(Result.DOWN, str(error))
    except Exception as error:  # noqa: BLE001 - the border to other people's code
        outcome = Outcome(Result.UNCERTAIN, f"{type(error).__name__}: {error}")
    text = " ".join(mask_text(replace_secrets(outcome.error, forms_of(secrets))).split())
    return outcome._replace(error=text[:LONGEST_ERROR])


def _send(channel: Channel, message: dict[str, Any]) -> Outcome:
    if channel.ping is not None:
        return _ping(channel.ping.get_secret_value(), message["ping"])
    return _post(channel, message) if channel.webhook is not None else _notify(channel, message)


def _resolved(channel: Channel) -> Channel:
    fields = ("url", "webhook", "secret", "ping")
    values = {name: resolve_references(getattr(channel, name), os.environ) for name in fields}
    return channel.model_copy(update=values)


# --- ping ---


def _ping(url: str, ping: dict[str, Any]) -> Outcome:
    """Send a ping with `signal`, `rid`, and a `body` for POST."""
    target = ping_url(url, ping["signal"], ping["rid"])
    headers = {"Content-Type": "text/plain; charset=utf-8", "User-Agent": f"maintd/{maintd.__version__}"}
    return _request(target, ping["body"].encode(), headers, of_monitor=True)


# --- webhook ---


def _post(channel: Channel, message: dict[str, Any]) -> Outcome:
    from maintd.notify.webhook import signed_headers

    assert channel.webhook is not None
    body = json.dumps(message["payload"], ensure_ascii=False).encode()
    secret = "" if channel.secret is None else channel.secret.get_secret_value()
    try:
        headers = signed_headers(message["key"], int(time.time()), body, secret)
    except ValueError as error:
        return Outcome(Result.DOWN, str(error))
    return _request(channel.webhook.get_secret_value(), body, headers)


def _request(
    url: str,
    body: bytes,
    headers: dict[str, str],
    *,
    of_monitor: bool = False,
) -> Outcome:
    """POST. A monitor's answer with a successful status can be a refusal nevertheless, and has the limit of a body."""
    import httpx

    timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
    try:
        with (
            httpx.Client(timeout=timeout, follow_redirects=False) as client,
            client.stream("POST", url, content=body, headers=headers) as answer,
        ):
            text = _text_of(answer) if answer.status_code >= 300 or of_monitor else ""
            outcome = _outcome_of(answer.status_code, answer.headers.get("Retry-After"), text)
            if not of_monitor:
                return outcome
            refusal = refusal_in(text) if outcome.result is Result.SENT else ""
            if refusal:
                return Outcome(Result.REFUSED, refusal)
            return outcome._replace(body_limit=body_limit(answer.headers.get(BODY_LIMIT_HEADER)))
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        return Outcome(Result.DOWN, f"the URL cannot be parsed: {error}")
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        return Outcome(Result.DOWN, f"no connection: {error or type(error).__name__}")
    except httpx.HTTPError as error:
        return Outcome(Result.UNCERTAIN, f"no answer: {error or type(error).__name__}")


def _text_of(answer: Any) -> str:
    """The start of an answer's body."""
    read = bytearray()
    for part in answer.iter_bytes():
        read += part
        if len(read) > _ANSWER_BYTES:
            break
    return read[:200].decode(errors="replace")


def _outcome_of(status: int, retry_after: str | None, text: str) -> Outcome:
    if 200 <= status < 300:
        return Outcome(Result.SENT)
    error = f"HTTP {status}{f': {text}' if text.strip() else ''}"
    if status in _BUSY:
        return Outcome(Result.DOWN, error, retry_seconds(retry_after, time.time()))
    if status >= 500:
        return Outcome(Result.UNCERTAIN, error, retry_seconds(retry_after, time.time()))
    return Outcome(Result.REFUSED, error)


def retry_seconds(header: str | None, now: float) -> float | None:
    """Seconds from a Retry-After header: a number, or a date as HTTP has it. `now` is in seconds since 1970."""
    if header is None:
        return None
    text = header.strip()
    if text.isdecimal():
        return min(float(text), MOST_RETRY_SECONDS)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, IndexError):
        return None
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    return min(max(0.0, (at - datetime.fromtimestamp(now, UTC)).total_seconds()), MOST_RETRY_SECONDS)


# --- apprise ---


class _Log(logging.Handler):
    """Keeps what apprise logs about a failure; it returns only whether it delivered."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING or "xception" in text:  # the cause is logged for debugging only
            self.lines.append(text)


def _notify(channel: Channel, message: dict[str, Any]) -> Outcome:
    import warnings

    warnings.simplefilter("ignore")  # apprise imports what Python has deprecated
    import apprise
    import requests

    from maintd.notify import smtp_outcome

    assert channel.url is not None
    log = _Log()
    logger = logging.getLogger("apprise")
    logger.addHandler(log)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    asset = apprise.AppriseAsset(app_id="maintd", app_desc="maintd", app_url="", async_mode=False, secure_logging=True)
    try:
        service = apprise.Apprise.instantiate(channel.url.get_secret_value(), asset=asset, suppress_exceptions=False)
    except TypeError as error:
        service, log.lines = None, [*log.lines, str(error)]
    if service is None:
        return Outcome(Result.DOWN, f"the URL cannot be parsed: {'; '.join(log.lines) or 'unknown to apprise'}")
    service.socket_connect_timeout = max(service.socket_connect_timeout, CONNECT_SECONDS)
    service.socket_read_timeout = max(service.socket_read_timeout, READ_SECONDS)
    _set_message_id(service, message["key"])
    answers: list[tuple[int, str | None]] = []
    _watch(requests, answers)
    sender = apprise.Apprise(asset=asset)
    sender.add(service)
    with smtp_outcome.watch() as dialogue:
        sent = sender.notify(
            body=message["body"],
            title=message["title"],
            notify_type=message["level"],
            body_format=apprise.NotifyFormat.TEXT,
        )
    if sent:
        return Outcome(Result.SENT)
    return smtp_outcome.outcome_of(dialogue) or _failure(log.lines, answers)


def _failure(lines: list[str], answers: list[tuple[int, str | None]]) -> Outcome:
    """What became of a message that apprise did not deliver, by what it logged and by the HTTP answers it got."""
    error = "; ".join(lines) or "apprise gave no reason"
    failed = [answer for answer in answers if not 200 <= answer[0] < 300]
    found = _HTTP_ERROR.search(error)
    if failed:
        outcome = _outcome_of(*failed[-1], "")
        return outcome._replace(error=error)
    if found is not None and found[1].startswith("4") and int(found[1]) not in _BUSY:
        return Outcome(Result.REFUSED, error)
    return Outcome(Result.UNCERTAIN, error)


def _set_message_id(service: Any, key: str) -> None:
    """Give the message an id that stays the same when it is sent again: as Message-ID, or as Idempotency-Key."""
    from apprise.plugins.email.base import NotifyEmail

    if isinstance(service, NotifyEmail):
        from apprise.plugins.email import base

        base.make_msgid = lambda *_, domain="maintd", **__: f"<{key}@{domain}>"  # type: ignore[attr-defined]
    elif isinstance(getattr(service, "headers", None), dict):
        service.headers = {**service.headers, "Idempotency-Key": key}


def _watch(requests: Any, answers: list[tuple[int, str | None]]) -> None:
    """Note the status and Retry-After of the HTTP answers that apprise gets, which it does not pass on."""
    send = requests.adapters.HTTPAdapter.send

    def watched(self: Any, *args: Any, **options: Any) -> Any:
        answer = send(self, *args, **options)
        answers.append((answer.status_code, answer.headers.get("Retry-After")))
        return answer

    requests.adapters.HTTPAdapter.send = watched


if __name__ == "__main__":
    main()
