"""HTTP client on httpx with a deadline for the whole answer and a limit of its size; JSON APIs."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import httpx
from pydantic import SecretStr

from maintd.clients.bounded import inflate, parse_json
from maintd.clients.causes import cause_of
from maintd.clients.deadline import Deadline
from maintd.errors import TargetError
from maintd.job.references import resolved
from maintd.model.evidence import Scalar
from maintd.model.target import AlertmanagerTarget, HttpTarget, PrometheusTarget
from maintd.tls import verifying_context
from maintd.units import seconds_text

HEALTH_LIMIT = 64 * 1024  # bytes of the answer of a health endpoint
API_LIMIT = 8 * 1024 * 1024


@dataclass(frozen=True)
class Answer:
    """A complete answer. `latency`: from the request to the last byte."""

    url: str
    status: int
    content_type: str
    body: bytes
    latency: timedelta
    location: str = ""  # of a redirect, which is not followed
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    received_at: datetime = field(default_factory=lambda: datetime.now(UTC))  # its last byte, by this machine's clock
    certificate_expires_at: datetime | None = None  # None: without TLS, or the certificate was not verified

    @property
    def text(self) -> str:
        """The body as UTF-8, with invalid bytes replaced."""
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        """The body as JSON. Raises TargetError(cause="malformed")."""
        try:
            return parse_json(self.body, self.url)
        except TargetError as error:
            if error.cause != "malformed":
                raise
            page = "html" in self.content_type or self.body.lstrip()[:1] == b"<"
            kind = "a web page" if page else "something that is not JSON"
            hint = "check for a login page or a proxy in front of it" if page else f"it begins {self.text[:60]!r}"
            raise TargetError(f"{self.url} answered {kind}", hint, cause="malformed") from None


@dataclass(frozen=True)
class Field:
    """A field of a body. `observed` is None when the body has no such path."""

    path: str
    observed: Scalar
    expected: Scalar

    @property
    def equal(self) -> bool:
        """Whether observed and expected are equal and of the same type: true is not 1."""
        return self.observed == self.expected and isinstance(self.observed, bool) == isinstance(self.expected, bool)


def fetch(
    method: str,
    url: str,
    *,
    timeout: timedelta,
    limit: int = API_LIMIT,
    headers: Mapping[str, SecretStr] | None = None,
    params: Mapping[str, str] | None = None,
    form: Mapping[str, str] | None = None,
    json_body: Any = None,
    ca_file: Path | None = None,
    verify: bool = True,
) -> Answer:
    """Send a request and read the whole answer, within `timeout` and `limit` bytes. Redirects are not followed.

    The limits hold while the answer arrives, before it is decompressed and parsed; the deadline also ends a server that
    sends its headers byte by byte. Proxies of the environment are not used, because targets are in the local network.
    Raises TargetError.
    """
    public_url = _without_secrets(url)
    seconds = timeout.total_seconds()
    started = time.monotonic()
    plain = {"Accept-Encoding": "identity"}
    plain |= {name: value.get_secret_value() for name, value in (headers or {}).items()}
    deadline = _Deadline(seconds)
    try:
        with (
            deadline,
            httpx.Client(verify=_verify(url, ca_file, verify), timeout=seconds, trust_env=False) as client,
            client.stream(
                method,
                url,
                headers=plain,
                params=params,
                data=form,
                json=json_body,
                extensions={"trace": deadline.trace},
            ) as response,
        ):
            body = bytearray()
            encoding = response.headers.get("content-encoding", "")
            for chunk in inflate(_limited(response.iter_raw(), limit, public_url), encoding, public_url):
                body += chunk
                if len(body) > limit:
                    raise _too_large(public_url, limit)
        if deadline.over:  # an answer without a length seems to be complete when its connection ends
            raise _incomplete(public_url, seconds)
    except httpx.HTTPError as error:
        if deadline.over:
            raise _incomplete(public_url, seconds) from error
        raise _error(public_url, seconds, error) from error
    except (httpx.InvalidURL, ssl.SSLError, OSError) as error:
        raise TargetError(f"{public_url}: {error}", "correct the target's url or ca_file") from error
    latency, received_at = timedelta(seconds=time.monotonic() - started), datetime.now(UTC)
    return Answer(
        url=public_url,
        status=response.status_code,
        content_type=response.headers.get("content-type", ""),
        body=bytes(body),
        latency=latency,
        location=_without_secrets(response.headers["location"]) if "location" in response.headers else "",
        headers=dict(response.headers),
        received_at=received_at,
        certificate_expires_at=_instant(deadline.expires) if deadline.expires else None,
    )


def _instant(text: str) -> datetime:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), UTC)


def _limited(chunks: Iterator[bytes], limit: int, url: str) -> Iterator[bytes]:
    """The chunks as they are sent, within the limit: compressed nothing can be endless, too."""
    total = 0
    for chunk in chunks:
        total += len(chunk)
        if total > limit:
            raise _too_large(url, limit)
        yield chunk


def _too_large(url: str, limit: int) -> TargetError:
    return TargetError(f"{url} answered more than {limit} bytes", cause="too_large")


def _incomplete(url: str, seconds: float) -> TargetError:
    return TargetError(f"{url} did not complete its answer within {seconds_text(seconds)}", cause="timed_out")


class _Deadline(Deadline):
    expires = ""  # notAfter of the server's certificate

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Called by httpx' transport with each of its steps; keeps the connection's socket."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self.watch(info["return_value"].get_extra_info("socket"))
        if event == "connection.start_tls.complete":
            certificate = info["return_value"].get_extra_info("ssl_object").getpeercert()
            self.expires = certificate.get("notAfter", "") if certificate else ""


def get(target: HttpTarget) -> Answer:
    """GET the target's URL; at most 64 KiB. Raises TargetError."""
    target = resolved(target)
    return fetch(
        "GET",
        target.url,
        timeout=target.timeout,
        limit=HEALTH_LIMIT,
        headers=target.headers,
        ca_file=target.ca_file,
        verify=target.verify,
    )


def fields(answer: Answer, expect: Mapping[str, str | int | float | bool]) -> list[Field]:
    """The body's fields at the dotted paths of `expect`; a number is an index of a list. Raises TargetError."""
    if not expect:
        return []
    body = answer.json()
    return [Field(path, _at(body, path), wanted) for path, wanted in expect.items()]


ApiTarget = HttpTarget | PrometheusTarget | AlertmanagerTarget
"""What has a URL, headers and certificates to trust."""


class Api:
    """A JSON API below a base URL, which may have a path."""

    def __init__(
        self,
        url: str,
        headers: Mapping[str, SecretStr],
        timeout: timedelta,
        *,
        ca_file: Path | None = None,
        verify: bool = True,
    ) -> None:
        self._url = url.rstrip("/")
        self._headers = headers
        self._timeout = timeout
        self._ca_file = ca_file
        self._verify = verify

    @classmethod
    def of(cls, target: ApiTarget, *, url: str | None = None, timeout: timedelta | None = None) -> Self:
        """The API of a resolved target; `url` and `timeout` replace the target's own."""
        return cls(
            url or target.url,
            target.headers,
            timeout or target.timeout,
            ca_file=target.ca_file,
            verify=target.verify,
        )

    def call(self, method: str, path: str, **request: Any) -> Answer:
        """The answer, with a status below 300. Raises TargetError: denied for 401 and 403, malformed for a redirect."""
        answer = fetch(
            method,
            self._url + path,
            timeout=self._timeout,
            headers=self._headers,
            ca_file=self._ca_file,
            verify=self._verify,
            **request,
        )
        if answer.status in (401, 403):
            raise TargetError(
                f"{answer.url} answered {answer.status}",
                "check the target's headers or the proxy's rules",
                cause="denied",
            )
        if 300 <= answer.status < 400:
            raise TargetError(
                f"{answer.url} redirects to {answer.location or 'nowhere'}",
                "check for a login page or a proxy in front of it",
                cause="malformed",
            )
        if answer.status >= 300:
            excerpt = " ".join(answer.text[:200].split())
            cause = "not_found" if answer.status == 404 else "failed"
            raise TargetError(f"{answer.url} answered {answer.status}: {excerpt}", cause=cause)
        return answer

    def get(self, path: str, **params: str) -> Any:
        """The JSON of a GET."""
        return self.call("GET", path, params=params).json()

    def post_form(self, path: str, **form: str) -> Any:
        """The JSON of a form-encoded POST, whose parameters may be long."""
        return self.call("POST", path, form=form).json()


def _without_secrets(url: str) -> str:
    """The URL without user, password and query."""
    try:
        return str(httpx.URL(url).copy_with(userinfo=b"", query=None))
    except httpx.InvalidURL:
        return "the url"


def _verify(url: str, ca_file: Path | None, verify: bool) -> ssl.SSLContext | bool:
    """The certificates to trust; False only where there are none to check: `verify: false`, or the scheme http."""
    if not verify or httpx.URL(url).scheme == "http":  # in lower case, as httpx itself reads it
        return False  # loading the system's certificates takes 20 ms
    return verifying_context(ca_file)


def _error(url: str, seconds: float, error: httpx.HTTPError) -> TargetError:
    if isinstance(error, httpx.TimeoutException):
        return TargetError(f"{url} did not answer within {seconds_text(seconds)}", cause="timed_out")
    if isinstance(error, httpx.RemoteProtocolError):
        return TargetError(f"{url} closed the connection or does not speak HTTP: {error}", cause="partial")
    cause = cause_of(error) or ("unreachable" if isinstance(error, httpx.ConnectError) else "failed")
    words = {
        "refused": "refused the connection",
        "unreachable": "cannot be reached",
        "partial": "closed the connection",
        "tls": "failed the TLS handshake",
    }
    return TargetError(f"{url} {words.get(cause, 'failed')}: {error}", cause=cause)


def _at(body: Any, path: str) -> Scalar:
    for part in path.split("."):
        if isinstance(body, Mapping) and part in body:
            body = body[part]
        elif isinstance(body, list) and part.isdigit() and int(part) < len(body):
            body = body[int(part)]
        else:
            return None
    return body if isinstance(body, str | int | float | bool) or body is None else json.dumps(body)[:200]
