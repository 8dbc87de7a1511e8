"""Requests to public services about packages, and what may be sent to them.

Nothing is asked but by the params, and only about packages that are known to be public: the name of a private package
shows others what to publish under it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import SecretStr

from maintd.checks.hints import printable
from maintd.checks.packages.locked import NPM, Package, cut
from maintd.clients import http
from maintd.errors import TargetError

PUBLIC_HOSTS = ("registry.npmjs.org", "registry.yarnpkg.com", "pypi.org", "files.pythonhosted.org")
"""Hosts of registries whose packages are open to all."""

LONGEST_WAIT = timedelta(seconds=60)
"""The longest that a Retry-After is waited for."""

_TRIES = 3
_LIMIT = 16 << 20
_LONGEST_DATE = 64


@dataclass(frozen=True)
class Privacy:
    """What may be sent: packages of `registries`, which no pattern of `private` matches, and one of `public` if the
    lock file does not show where they are from."""

    registries: Sequence[str] = PUBLIC_HOSTS
    private: Sequence[str] = ()
    public: Sequence[str] = ()

    def reason(self, package: Package) -> str:
        """Why it is not sent; empty when it is."""
        if any(fnmatchcase(package.name, pattern) for pattern in self.private):
            return "private"
        if package.registry:
            return "" if package.registry in self.registries else f"from {cut(package.registry)}"
        return "" if any(fnmatchcase(package.name, pattern) for pattern in self.public) else "from an unknown registry"


@dataclass
class Requests:
    """Bounded requests to one service. `left`: how many more; `remaining`: the time of the attempt."""

    base: str
    remaining: Callable[[], timedelta]
    ca_file: Path | None = None
    timeout: timedelta = timedelta(seconds=30)
    left: int = 1000
    wait: Callable[[float], None] = field(default=time.sleep, repr=False)

    def json(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of an answer with status 200. Waits once or twice after a 429 or 503 with a Retry-After.

        Raises TargetError.
        """
        for attempt in range(1, _TRIES + 1):
            self._spend()
            headers = {"Accept": SecretStr("application/json")}
            answer = http.fetch(
                method,
                self.base.rstrip("/") + path,
                timeout=min(self.timeout, max(self.remaining(), timedelta(seconds=1))),
                limit=_LIMIT,
                headers=headers,
                json_body=body,
                ca_file=self.ca_file,
            )
            if answer.status == 200:
                return answer.json()
            if answer.status in (429, 503) and attempt < _TRIES:
                pause = _retry_after(answer.headers.get("retry-after"), datetime.now(UTC))
                if pause is not None and pause <= LONGEST_WAIT and pause < self.remaining() / 2:
                    self.wait(pause.total_seconds())
                    continue
            raise _refused(answer)
        raise AssertionError("the last try returns or raises")

    def _spend(self) -> None:
        if self.left <= 0:
            raise TargetError(f"{self.base}: no more requests are allowed", "raise max_requests", cause="too_large")
        if self.remaining() < timedelta(seconds=5):
            raise TargetError(f"{self.base}: no time is left for a request", cause="timed_out")
        self.left -= 1


def _retry_after(text: str | None, now: datetime) -> timedelta | None:
    """How long to wait: seconds, or a date as RFC 9110 has it. None: the answer does not have it."""
    if not text:
        return None
    text = text.strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return timedelta(seconds=int(text))
    try:
        at = parsedate_to_datetime(text[:_LONGEST_DATE])
    except (ValueError, OverflowError):
        return None
    return max((at if at.tzinfo else at.replace(tzinfo=UTC)) - now, timedelta(0))


def _refused(answer: http.Answer) -> TargetError:
    if answer.status in (401, 403):
        return TargetError(f"{answer.url} answered {answer.status}", cause="denied")
    if answer.status == 429:
        return TargetError(
            f"{answer.url} answered 429: too many requests",
            "lower max_requests, or use the source export",
            cause="failed",
        )
    excerpt = printable(" ".join(answer.text[:120].split()))
    cause = "not_found" if answer.status in (404, 405, 410) else "failed"
    hint = "check the url: a mirror may not have this endpoint" if cause == "not_found" else None
    return TargetError(f"{answer.url} answered {answer.status}: {excerpt}", hint, cause=cause)


def chunks(items: Iterable[Any], size: int) -> Iterable[list[Any]]:
    """Lists of at most `size` items."""
    rest = list(items)
    return (rest[start : start + size] for start in range(0, len(rest), size))


def latest_version(requests: Requests, package: Package) -> str:
    """The version that the registry calls the latest. Raises TargetError."""
    if package.ecosystem == NPM:
        found = requests.json("GET", f"/{quote(package.name, safe='@')}/latest")
        version = found.get("version") if isinstance(found, dict) else None
    else:
        found = requests.json("GET", f"/pypi/{quote(package.name, safe='')}/json")
        info = found.get("info") if isinstance(found, dict) else None
        version = info.get("version") if isinstance(info, dict) else None
    if not isinstance(version, str) or not version:
        text = json.dumps(found)[:80]
        raise TargetError(f"{requests.base}: {package.name}: no version in {text}", cause="malformed")
    return version
