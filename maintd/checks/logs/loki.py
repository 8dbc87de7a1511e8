"""Denied requests from Loki, which preselects lines; their fields are parsed here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import httpx
from pydantic import Field

from maintd.checks.logs import denied_requests
from maintd.checks.logs.denied_requests import DeniedRequests
from maintd.clients.http import Api
from maintd.clients.shapes import Listing, Shape, read_each
from maintd.clients.shapes import read as read_shape
from maintd.errors import TargetError
from maintd.job.references import resolved
from maintd.model.target import HttpTarget

SELECTOR = '{job="docker"}'
_CANDIDATES = "40[13]"
_PAGE = 5000  # lines of a response: Loki's default limit
_LABELS = ("service", "compose_service", "container", "container_name", "app", "job")


# --- shapes of the answers ---

S = TypeVar("S", bound=Shape)
_Nanoseconds = Annotated[str, Field(pattern=r"^[0-9]{1,19}$")]  # until the year 2286


class _Data(Shape):
    kind: str = Field("", alias="resultType")
    result: Any = None


class _Envelope(Shape):
    status: str
    data: _Data


class _Count(Shape):
    value: tuple[float, Annotated[float, Field(ge=0, allow_inf_nan=False)]]


class _Stream(Shape):
    stream: dict[str, str] = {}
    # Since Loki 3 a line may have structured metadata.
    values: tuple[tuple[_Nanoseconds, str] | tuple[_Nanoseconds, str, Any], ...] = ()


def read(target: HttpTarget, name: str, selector: str, requests: DeniedRequests) -> None:
    """Add the denied requests of all streams of a selector. Raises TargetError.

    First counts all lines of the selector: without any line, finding no denied request means nothing.
    """
    target = resolved(target)
    api = Api.of(target, url=str(httpx.URL(target.url).copy_with(path="/", query=None)))
    if not _count_lines(api, name, selector, requests):
        return
    requests.record_activity(selector, requests.until)
    for at, stream, line in _matching_lines(api, name, selector, requests):
        requests.bytes_read += len(line)
        service = next((stream[label] for label in _LABELS if stream.get(label)), selector)
        requests.add_parsed(denied_requests.unwrap(line.encode("utf-8", "surrogateescape")), service, at)


def _count_lines(api: Api, name: str, selector: str, requests: DeniedRequests) -> float:
    seconds = round((requests.until - requests.since).total_seconds())
    query = f"sum(count_over_time({selector}[{seconds}s]))"
    answer = api.get("/loki/api/v1/query", query=query, time=_nanoseconds(requests.until))
    return sum(item.value[1] for item in _result(answer, name, "vector", _Count))


def _matching_lines(
    api: Api, name: str, selector: str, requests: DeniedRequests
) -> Iterator[tuple[datetime, dict[str, str], str]]:
    """Yield the lines that contain 401 or 403, page by page.

    A page starts at the last time of the page before, so that no line of that time is lost; lines of that time that
    were already returned are counted and skipped.
    """
    start, end = _nanoseconds(requests.since), _nanoseconds(requests.until)
    seen: Counter[tuple[str, str]] = Counter()
    while True:
        answer = api.get(
            "/loki/api/v1/query_range",
            query=f"{selector} |~ `{_CANDIDATES}`",
            start=start,
            end=end,
            limit=str(_PAGE),
            direction="forward",
        )
        rows = [
            (int(at), str(sorted(found.stream.items())), line, found.stream)
            for found in _result(answer, name, "streams", _Stream)
            for at, line, *_ in found.values
        ]
        page = sorted(rows, key=lambda row: row[:3])
        again = Counter(seen)
        for at, key, line, stream in page:
            if str(at) == start and again[key, line] > 0:
                again[key, line] -= 1
                continue
            yield datetime.fromtimestamp(at / 1e9, UTC), stream, line
        if len(page) < _PAGE:
            return
        last = page[-1][0]
        if str(last) == start:
            raise TargetError(
                f"{name}: more than {_PAGE} lines with the same time", "narrow the selector", cause="partial"
            )
        start = str(last)
        seen = Counter((key, line) for at, key, line, _ in page if at == last)


def _result(answer: Any, name: str, kind: str, shape: type[S]) -> Listing[S]:
    """The items of a result. An item of another shape makes the whole unusable, since what it hides is not known."""
    envelope = read_shape(_Envelope, answer, f"{name}: not a response of Loki")
    if envelope.status != "success" or envelope.data.kind != kind:
        raise TargetError(f"{name}: not a response of Loki", "check its url", cause="malformed")
    found = read_each(shape, envelope.data.result, f"{name}: {kind}")
    if found.not_understood:
        raise TargetError(f"{name}: {kind}: {found.not_understood[0]}", cause="malformed")
    return found


def _nanoseconds(at: datetime) -> str:
    return f"{round(at.timestamp() * 1_000_000)}000"
