"""Server-sent events: lines of a stream → events.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from maintd.errors import MaintdError

LARGEST_EVENT = 8_000_000  # characters of the data of one event


class ServerEvent(NamedTuple):
    """One event: its type, its data, and the id with which a stream continues after it; "" if it has none."""

    type: str
    data: str
    id: str


def server_events(lines: Iterable[bytes]) -> Iterator[ServerEvent]:
    """The events of a stream. One that the end of the stream cuts off is dropped. Raises MaintdError."""
    kind, data, last_id, size = "", list[str](), "", 0
    for raw in lines:
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if not line:
            if data:
                yield ServerEvent(kind or "message", "\n".join(data), last_id)
            kind, data, size = "", [], 0
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            kind = value
        elif name == "id" and "\0" not in value:
            last_id = value
        elif name == "data":
            data.append(value)
            size += len(value)
            if size > LARGEST_EVENT:
                raise MaintdError(f"an event of the stream is larger than {LARGEST_EVENT} characters")
