"""Denied requests from Loki: it finds lines that may tell of them, and their fields decide here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx

from maintd.checks.logs import access_log
from maintd.checks.logs.access_log import Denials
from maintd.clients.http import Api
from maintd.errors import TargetError
from maintd.job.references import resolved
from maintd.model.target import HttpTarget

SELECTOR = '{job="docker"}'
_CANDIDATES = "40[13]"
_PAGE = 5000  # lines of an answer: Loki's own limit unless it is raised
_LABELS = ("service", "compose_service", "container", "container_name", "app", "job")


def read(target: HttpTarget, name: str, selector: str, denials: Denials) -> None:
    """Add the denied requests of all streams that a selector names. Raises TargetError.

    A selector that finds no lines at all finds no denied ones, too: so it is asked how many there are, first.
    """
    target = resolved(target)
    api = Api(str(httpx.URL(target.url).copy_with(path="/", query=None)), target.headers, target.timeout)
    if not _lines_of(api, name, selector, denials):
        return
    denials.hear(selector, denials.until)
    for at, stream, line in _found(api, name, selector, denials):
        denials.bytes_read += len(line)
        written = access_log.unwrapped(line.encode("utf-8", "surrogateescape"))
        service = next((stream[label] for label in _LABELS if stream.get(label)), selector)
        found = access_log.denied(written, service, denials.fields)
        if found is not None:
            denials.add(replace(found, at=found.at or at))


def _lines_of(api: Api, name: str, selector: str, denials: Denials) -> float:
    seconds = round((denials.until - denials.since).total_seconds())
    query = f"sum(count_over_time({selector}[{seconds}s]))"
    answer = api.get("/loki/api/v1/query", query=query, time=_nanoseconds(denials.until))
    return sum(float(item["value"][1]) for item in _result(answer, name, "vector"))


def _found(api: Api, name: str, selector: str, denials: Denials) -> Iterator[tuple[datetime, dict[str, str], str]]:
    """Lines with the digits in them, page by page. A page begins at the last time of the one before, so that lines of
    the same time are not lost; those that were there before are left out by their number."""
    start, end = _nanoseconds(denials.since), _nanoseconds(denials.until)
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
            (int(at), str(sorted(stream["stream"].items())), line, stream["stream"])
            for stream in _result(answer, name, "streams")
            for at, line in stream["values"]
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
            raise TargetError(f"{name}: more than {_PAGE} lines of one instant", "narrow the selector", cause="partial")
        start = str(last)
        seen = Counter((key, line) for at, key, line, _ in page if at == last)


def _result(answer: Any, name: str, kind: str) -> list[Any]:
    try:
        data = answer["data"]
        if answer["status"] == "success" and data["resultType"] == kind and isinstance(data["result"], list):
            return list(data["result"])
    except (KeyError, TypeError):
        pass
    raise TargetError(f"{name}: not an answer of Loki", "is its url right?", cause="malformed")


def _nanoseconds(at: datetime) -> str:
    return f"{round(at.timestamp() * 1_000_000)}000"
