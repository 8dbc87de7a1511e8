"""Forms of access logs: a request with its status, from a line of text or from the fields of structured logs.

Known are the common log format and what follows it (nginx, Apache with the virtual host first, uvicorn, gunicorn,
Traefik, Envoy, Django, werkzeug, aiohttp), loggers with the status first (HAProxy, gin, nginx proxy manager, load
balancers of AWS), morgan, oauth2-proxy, IIS, Squid, Rails and Phoenix, logfmt, and JSON of pino, winston, Traefik,
Caddy, Envoy, ECS and Google Cloud.

Paths, user agents and other quoted text come from the client. The first quoted request of a line is the server's own,
and a status is never taken from quoted text.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

STATUS_FIELDS = (
    "status",
    "statusCode",
    "status_code",
    "res.statusCode",
    "res.status",
    "response.status",
    "response.statusCode",
    "response.status_code",
    "http.response.status_code",
    "http.status_code",
    "http.statusCode",
    "http.status",
    "http_status",
    "http_status_code",
    "httpStatus",
    "httpRequest.status",
    "meta.res.statusCode",
    "response_code",
    "responseCode",
    "responseStatus",
    "sc-status",
    "DownstreamStatus",
)
"""Fields with the status in structured logs of common loggers and proxies."""
_PATHS = (
    "path",
    "url",
    "uri",
    "req.url",
    "req.path",
    "request.uri",
    "request.url",
    "request.path",
    "url.path",
    "url.original",
    "url.full",
    "http.url",
    "http.target",
    "http.path",
    "http.route",
    "http.request.path",
    "httpRequest.requestUrl",
    "meta.req.url",
    "originalUrl",
    "request_uri",
    "request_path",
    "requestPath",
    "requestUri",
    "cs-uri-stem",
    "RequestPath",
)
_METHODS = (
    "method",
    "req.method",
    "request.method",
    "http.request.method",
    "http.method",
    "httpRequest.requestMethod",
    "meta.req.method",
    "request_method",
    "requestMethod",
    "cs-method",
    "verb",
    "RequestMethod",
)
_REMOTES = (
    "remote",
    "remoteAddress",
    "remote_addr",
    "remote_ip",
    "remoteIp",
    "client_ip",
    "clientIp",
    "req.remoteAddress",
    "req.ip",
    "request.client_ip",
    "request.remote_ip",
    "request.remote_addr",
    "client.ip",
    "client.address",
    "source.ip",
    "http.client_ip",
    "httpRequest.remoteIp",
    "ip",
    "c-ip",
    "client",
    "downstream_remote_address",
    "ClientHost",
)
TIMES = ("time", "timestamp", "@timestamp", "ts", "t", "StartUTC", "start_time", "date", "datetime")
"""Fields with the time in structured logs."""
_MESSAGES = ("message", "msg", "textPayload", "@message", "event", "request", "request_line", "log")

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_WORDS = "GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|TRACE|CONNECT|PROPFIND|REPORT|MKCOL"
_MORGAN = re.compile(r"(?P<method>[A-Z]{3,10}) (?P<path>\S+) (?P<status>\d{3}) [\d.]+ ms - \S+")
_COMMON = re.compile(
    r'(?P<remote>\S+) \S+ \S+ \[(?P<time>[^\]]{20,40})\] "(?P<method>[A-Z]{3,10}) (?P<path>\S+) HTTP/[\d.]+" '
    r"(?P<status>\d{3}) (?:\d+|-)(?: .*)?",
    re.DOTALL,
)
_IIS = re.compile(
    rf"(?P<time>\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d) (?:\S+ ){{0,3}}?(?P<method>{_WORDS}) (?P<path>/\S*) \S+ "
    r"\d{1,5} \S+ (?P<remote>\S+) .*?(?P<status>[1-5]\d\d) \d{1,3} \d{1,10}(?: \d{1,10}){1,3}"
)
_SQUID = re.compile(
    r"(?P<time>\d{9,10}\.\d{3}) +\d{1,9} (?P<remote>\S+) [A-Z_]{3,40}/(?P<status>\d{3}) \d{1,15} "
    r"(?P<method>[A-Z]{3,10}) (?P<path>\S+) .*",
    re.DOTALL,
)
# Rails and Phoenix log the path with the start of the request, in a line of its own.
_WITHOUT_PATH = re.compile(
    r"(?:^|\s)(?:Completed (?P<rails>[1-5]\d\d) [A-Z][A-Za-z ]{0,40}? in|Sent (?P<phoenix>[1-5]\d\d) in) \d"
)
_QUOTED_REQUEST = re.compile(
    r'"(?P<method>[A-Z]{3,10}) (?P<path>(?:[^"\\\s]|\\.)+)(?: (?:[^"\\]|\\.)*)?"',
)
_PLAIN_REQUEST = re.compile(
    rf'(?<![\w"\'/=.-])(?P<method>{_WORDS})\s{{1,20}}(?:- )?(?:https? \S{{1,300}} )?'
    r'"?(?P<path>(?:/|https?://|\*)(?:[^"\\\s]|\\.)*)"?(?: HTTP/\d[\d.]*)?(?=[\s|,]|$)',
)
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_BETWEEN_TOKENS = re.compile(r"[\s|,]+")
_STATUS = re.compile(r"[1-5]\d\d")
_USER_AND_TIME = re.compile(r"(?:^|\s)(\S+) \S+ \S+ \[")
_TIME = re.compile(
    r"(?P<day>\d\d)/(?P<month>[A-Z][a-z]{2})/(?P<year>\d{4})[: ](?P<clock>\d\d:\d\d:\d\d)(?:\.\d{1,9})?"
    r"(?: (?P<zone>[+-]\d{4}))?"
    r"|(?P<date>\d{4}[-/]\d\d[-/]\d\d)(?:[T ]| - )(?P<hours>\d\d:\d\d:\d\d)(?:[.,]\d{1,9})?"
    r"(?P<offset>Z|[+-]\d\d:?\d\d)?"
)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_PAIR = re.compile(
    r'(?:^|(?<=\s))(?P<key>[A-Za-z_@][\w.@-]{0,60})=(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^\s"]*))(?=\s|$)'
)
_FEWEST_PAIRS = 3
_MOST_PAIRS = 200
_LONGEST_WITHOUT_PATH = 1000
_MOST_WORDS = 64  # of a line, that are examined for an address
_MAY_BE_STATUS = re.compile(
    r"HTTP/\d|TCP_DENIED|\b40[13],? (?:Unauthorized|Forbidden)\b|"
    rf"(?<![\w])(?:{_WORDS})(?![\w]).{{0,300}}?/|"
    r"(?:status|code|response|result)\w{0,10}(?:\\*[\"'])?\s{0,4}[:=|>]\s{0,4}(?:\\*[\"'])?40[13](?!\d)",
    re.IGNORECASE | re.DOTALL,
)
_STATUS_KEY = re.compile(r"(?:^|[._-]|(?<=[a-z]))(?:status|code|response|rc)(?:[._-]?code)?$", re.IGNORECASE)
_DEPTH = 8
_LONGEST = 200


@dataclass(frozen=True)
class Request:
    """A request and its response. `path` has no host and no query string, which may contain a secret; it is empty when
    the line does not have it. `service` is the name in a structured line."""

    status: int
    method: str = ""
    path: str = ""
    remote: str = ""
    at: datetime | None = None
    service: str = ""


def from_text(text: str, fields: Sequence[str] = STATUS_FIELDS) -> Request | None:
    """Parse a request from a line of text; None when it has no known form."""
    text = _COLOURS.sub("", text).strip()
    for form in (_MORGAN, _COMMON, _IIS, _SQUID):
        if (match := form.fullmatch(text)) is not None:
            found = match.groupdict()
            written = found.get("time")
            at = parse_time(float(written) if form is _SQUID else written) if written else None
            return Request(
                int(found["status"]), found["method"], path_of(found["path"]), _remote(found.get("remote")), at
            )
    if (match := _WITHOUT_PATH.search(text[:_LONGEST_WITHOUT_PATH])) is not None:
        return Request(int(match["rails"] or match["phoenix"]))
    for form in (_QUOTED_REQUEST, _PLAIN_REQUEST):
        if (match := form.search(text)) is not None and (found_request := _around(text, match)) is not None:
            return found_request
    return _from_pairs(text, fields)


def _around(text: str, match: re.Match[str]) -> Request | None:
    """A request whose status is the first number of three digits after it, else the first before it."""
    before = _QUOTED.sub('""', text[: match.start()])
    after = _QUOTED.sub('""', text[match.end() :])
    tokens_before, tokens_after = _BETWEEN_TOKENS.split(before), _BETWEEN_TOKENS.split(after)
    status = next((word for word in (*tokens_after, *tokens_before) if _STATUS.fullmatch(word)), None)
    if status is None:
        return None
    named = _USER_AND_TIME.search(before)
    remote = _address(named[1]) if named else ""
    words = (*tokens_before[:_MOST_WORDS], *tokens_after[:_MOST_WORDS])
    remote = remote or next((found for word in words if (found := _address(word))), "")
    return Request(
        int(status), match["method"], path_of(match["path"]), remote, parse_time(before) or parse_time(after)
    )


def _from_pairs(text: str, fields: Sequence[str]) -> Request | None:
    """Parse logfmt: `method=GET path=/admin status=401`."""
    body: dict[str, str] = {}
    for match, _ in zip(_PAIR.finditer(text), range(_MOST_PAIRS), strict=False):
        value = match["plain"] if match["quoted"] is None else match["quoted"].replace('\\"', '"')
        body.setdefault(match["key"], value)
    return from_fields(body, fields) if len(body) >= _FEWEST_PAIRS else None


def from_fields(body: Mapping[str, Any], fields: Sequence[str] = STATUS_FIELDS) -> Request | None:
    """Parse a request from the fields of a structured line, or from its message; None when it has no known form.

    With several fields for a status, one of 401 or 403 counts.
    """
    present = (field for field, first in _with_first_parts(tuple(fields)) if first in body or field in body)
    found = [status for field in present if (status := _status(value_at(body, field))) is not None]
    if not found:
        messages = (body.get(name) for name in _MESSAGES)
        request = next((parsed for text in messages if isinstance(text, str) and (parsed := from_text(text))), None)
        if request is None:
            return None
        return Request(
            request.status,
            request.method,
            request.path,
            request.remote or _remote(_first(body, _REMOTES)),
            request.at or parse_time(_first(body, TIMES)),
            _service(body),
        )
    method, path = _short(_first(body, _METHODS)), path_of(_first(body, _PATHS))
    if not path and (line := _REQUEST_LINE.fullmatch(_short(body.get("request") or body.get("request_line")))):
        method, path = line["method"], path_of(line["path"])
    status = next((status for status in found if status in (401, 403)), found[0])
    at = parse_time(_first(body, TIMES))
    return Request(status, method, path, _remote(_first(body, _REMOTES)), at, _service(body))


_REQUEST_LINE = re.compile(r"(?P<method>[A-Z]{3,10}) (?P<path>\S+)(?: HTTP/\d[\d.]*)?…?")


def may_be_denied(text: str, body: Mapping[str, Any] | None = None) -> bool:
    """Whether a line that has no known form, but 401 or 403 in it, may be about a denied request."""
    if body is None:
        return bool(_MAY_BE_STATUS.search(text))
    return any(_STATUS_KEY.search(key) or _MAY_BE_STATUS.search(value) for key, value in _denials(body))


def _denials(body: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield the values that are or contain 401 or 403, with their keys."""
    if depth > _DEPTH:
        return
    if isinstance(body, Mapping):
        for name, value in body.items():
            yield from _denials(value, str(name), depth + 1)
    elif isinstance(body, list):
        for value in body:
            yield from _denials(value, key, depth + 1)
    elif isinstance(body, str):
        if body in ("401", "403"):
            yield key, ""
        elif "401" in body or "403" in body:
            yield "", body
    elif not isinstance(body, bool) and isinstance(body, int | float) and body in (401, 403):
        yield key, ""


def value_at(body: Mapping[str, Any], field: str) -> Any:
    """Return a field by its name, or by a dotted path into objects."""
    if field in body or "." not in field:
        return body.get(field)
    found: Any = body
    for part in field.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found


def first_time(body: Mapping[str, Any]) -> datetime | None:
    """The time in the fields of a structured line."""
    return parse_time(_first(body, TIMES))


def _first(body: Mapping[str, Any], fields: tuple[str, ...]) -> Any:
    for name, first in _with_first_parts(fields):
        if first in body or name in body:
            found = value_at(body, name)
            if found is not None and not isinstance(found, Mapping):
                return found
    return None


@lru_cache(maxsize=20)
def _with_first_parts(fields: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Field names with the part before the first dot, by which an absent field is recognized quickly."""
    return tuple((field, field.partition(".")[0]) for field in fields)


def _status(value: Any) -> int | None:
    if isinstance(value, str):
        text = value.split(" ", 1)[0]
        return int(text) if len(text) == len("401") and _STATUS.fullmatch(text) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 100 <= value <= 599:
        return None
    return int(value) if int(value) == value else None


def parse_time(value: Any) -> datetime | None:
    """Parse ISO 8601 or a time of an access log, or seconds, milliseconds or nanoseconds since 1970."""
    try:
        if isinstance(value, str):
            return _time_in(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            scale = 1e9 if value > 1e17 else 1e6 if value > 1e14 else 1e3 if value > 1e11 else 1
            return datetime.fromtimestamp(value / scale, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return None


def _time_in(text: str) -> datetime | None:
    with suppress(ValueError):
        at = datetime.fromisoformat(text)
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    match = _TIME.search(text)
    if match is None:
        return None
    if match["date"]:
        at = datetime.fromisoformat(f"{match['date'].replace('/', '-')}T{match['hours']}{match['offset'] or ''}")
    else:
        month = _MONTHS.index(match["month"]) + 1
        at = datetime.fromisoformat(f"{match['year']}-{month:02d}-{match['day']}T{match['clock']}{match['zone'] or ''}")
    return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)


def path_of(value: Any) -> str:
    """A path without scheme, host, query string and fragment."""
    text = value if isinstance(value, str) else ""
    if text.startswith(("http://", "https://")):
        text = "/" + text.split("/", 3)[3] if text.count("/") > 2 else "/"
    return _short(text.split("?", 1)[0].split("#", 1)[0])


def _address(word: str) -> str:
    """The address in a word such as `203.0.113.7:50000`; empty when it is none."""
    text = word.strip("[]()\"'<>;")
    for candidate in (text, text.rpartition(":")[0].strip("[]")):
        with suppress(ValueError):
            return _remote(str(ipaddress.ip_address(candidate)))
    return ""


def _remote(value: Any) -> str:
    return _short(value).removeprefix("::ffff:")


def _service(body: Mapping[str, Any]) -> str:
    named = body.get("service")
    return _short(named)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else ""
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
