"""Logs as services write them, with a known number of denied requests and many lines that resemble one."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

PATHS = ("/health", "/metrics", "/pnl/status", "/admin/orders/halt", "/api/orders/401", "/api/403/orders?token=401")


def stamp(at: datetime) -> str:
    """Format a time like JavaScript."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"


def wrapped(line: str, at: datetime, stream: str = "stdout", ended: bool = True) -> str:
    """Wrap a line like Docker's json-file driver."""
    body = {"log": line + ("\n" if ended else ""), "stream": stream}
    return json.dumps(body | {"time": f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond:06d}123Z"}, separators=(",", ":"))


def request(
    rng: random.Random, at: datetime, status: int, path: str = "/health", compact: bool = True, **more: Any
) -> str:
    """Return a request line like the stack's logger; its times and ids often contain the digits 401 and 403."""
    body = {
        "level": "info",
        "service": "orchestrator",
        "msg": "http_request",
        "time": stamp(at),
        "method": "GET",
        "path": path,
        "status": status,
        "durationMs": round(rng.random() * 500, 3),
        "requestId": f"{rng.getrandbits(128):032x}",
        "remote": f"::ffff:10.0.{rng.randrange(4)}.{rng.randrange(200)}",
        "ua": "curl/7.88.1",
    } | more
    return json.dumps(body, separators=(",", ":") if compact else None)


def corpus(
    path: Path,
    size: int,
    *,
    since: datetime,
    until: datetime,
    seed: int = 1,
    form: Callable[[str, datetime], str] = lambda line, _: line,
    compact: bool = True,
    one_in: int = 40,
) -> Counter[int]:
    """Write a log of about `size` bytes in order of time; return the number of denied requests by status."""
    rng = random.Random(seed)
    counts: Counter[int] = Counter()
    about = len(form(request(rng, since, 200, compact=compact), since)) + 8
    step = (until - since) / max(1, size // about)
    with path.open("w") as file:
        at, written = since, 0
        while written < size and at < until:
            denied = rng.randrange(one_in) == 0
            status = rng.choice((401, 403)) if denied else rng.choice((200, 200, 204, 400, 404, 500, 4010))
            counts[status] += 1
            line = form(request(rng, at, status, rng.choice(PATHS), compact), at) + "\n"
            file.write(line)
            written += len(line)
            at += step
    return Counter({status: counts[status] for status in (401, 403)})


def minutes(since: datetime, count: int) -> Iterator[datetime]:
    """Yield `count` instants, one minute apart."""
    return (since + timedelta(minutes=n) for n in range(count))
