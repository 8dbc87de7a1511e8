"""Pings in the protocol of healthchecks.io: what a run's end is to a monitor, and the URL for it. Pure.

    URL           success
    URL/start     a run began; the monitor measures how long it takes
    URL/fail      a failure
    URL/CODE      the exit status of a program, 1 to 255: a failure
    URL/log       for the record; changes nothing about the monitor's state

Each has the query parameter `rid`, a UUID that is the same for the start and the end of a run. The body of the request
is kept by the monitor, up to its limit.
Source: https://healthchecks.io/docs/http_api/
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

from maintd.model.evidence import CheckStatus
from maintd.model.run import Attempt, Run, RunState, RunSummary, Trigger

MAX_BODY_BYTES = 10_000
"""Bytes of a body, unless the monitor answered with another limit. A server of one's own keeps as many by default, and
healthchecks.io ten times that; both keep the first ones, and the last lines of a log matter."""

BODY_LIMIT_HEADER = "Ping-Body-Limit"
"""The header of an answer that has the bytes which the monitor keeps of a body."""

LARGEST_BODY_BYTES = 100_000
"""Of a body, whatever the monitor keeps."""

START, SUCCESS, FAIL, LOG = "start", "", "fail", "log"


class EndPing(NamedTuple):
    """What a monitor gets at the end of a run: the signal, and the first line of the body."""

    signal: str
    text: str


def ping_of_end(run: Run | RunSummary, *, acknowledged: bool = False) -> EndPing | None:
    """The ping at the end of a run; None for one that the monitor need not know of. `run` has its evidence if it is a
    Run.

    1. A dry run did nothing, and a skipped run is missing: the monitor notices that by itself.
    2. What was not observed is a failure. A run of which everything that is wrong has been acknowledged is a success,
       as it is in the status and to notices.
    3. A cancelled run is neither, and so is a success of a run that undid another one.
    """
    if run.dry_run or run.state is RunState.SKIPPED or run.started_at is None:
        return None
    text = f"{run.entry}: {run.state.replace('_', ' ')}{f': {run.reason}' if run.reason else ''}"
    if run.state in (RunState.SUCCEEDED, RunState.WARNED):
        return EndPing(LOG if run.trigger is Trigger.UNDO else SUCCESS, text)
    if run.state is RunState.CANCELLED:
        return EndPing(LOG, text)
    if acknowledged:
        return EndPing(SUCCESS, f"{text} (acknowledged)")
    status = exit_status(run) if isinstance(run, Run) and run.state is RunState.FAILED else None
    return EndPing(FAIL if status is None else str(status), text)


def exit_status(run: Run) -> int | None:
    """The exit status of the program or process that failed, 1 to 255; 128 and its number for a signal. None: the run
    failed for another reason."""
    for step in run.steps:
        for attempt in step.attempts[-1:]:
            found = _exit_status(attempt)
            if found is not None and 0 < found < 256:
                return found
    return None


def _exit_status(attempt: Attempt) -> int | None:
    for check in attempt.checks:
        if check.name == "exit code" and check.status is CheckStatus.FAIL and isinstance(check.observed, int):
            return check.observed  # of the program that the job `command` ran
    if attempt.signal:
        return 128 + attempt.signal
    return attempt.exit_code or None


def rid_of(run_id: int) -> str:
    """The `rid` of a run: a UUID that ends with the run's id in hexadecimal digits."""
    return str(UUID(int=run_id))


def ping_url(url: str, signal: str, rid: str = "") -> str:
    """The URL to request: the signal is added to the path, and `rid` to the query."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/") + (f"/{signal}" if signal else "")
    query = "&".join(filter(None, (parts.query, f"rid={rid}" if rid else "")))
    return urlunsplit((parts.scheme, parts.netloc, path, query, ""))


def refusal_in(text: str) -> str:
    """Why a monitor that answered with success did not take the ping; empty if it did.

    healthchecks.io answers "OK (not found)" for a check that it does not have, and "OK (rate limited)".
    """
    answer = text.strip()
    return f"the monitor answered: {answer[:100]}" if answer.startswith("OK (") else ""


def body_limit(header: str | None) -> int | None:
    """The bytes of a body that a monitor keeps, from its header, at most LARGEST_BODY_BYTES; None without a number."""
    text = "" if header is None else header.strip()
    if not (text.isascii() and text.isdecimal()) or len(text) > 12:
        return None
    return min(int(text), LARGEST_BODY_BYTES)


def ping_body(first: str, lines: list[str], limit: int = MAX_BODY_BYTES) -> str:
    """The body: a line about the run, then the last lines of its log, at most `limit` bytes."""
    head = first[:500] + "\n"
    if len(head.encode()) > limit:
        return head.encode()[:limit].decode(errors="ignore")
    left = limit - len(head.encode())
    kept: list[str] = []
    for line in reversed(lines):
        left -= len(line.encode()) + 1
        if left < 0:
            break
        kept.append(line + "\n")
    return head + "".join(reversed(kept))
