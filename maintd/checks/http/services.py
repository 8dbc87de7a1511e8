"""Services by HTTP: the status, what the body says, and how long it takes."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from maintd.checks.limits import Limits
from maintd.clients import http
from maintd.errors import MaintdError, TargetError
from maintd.job.context import Context
from maintd.model.evidence import Scalar
from maintd.model.target import HttpTarget

# What services write about a part of theirs that is not well, as values of some field in a body of JSON.
_COMPLAINTS = frozenset(
    {"error", "down", "unhealthy", "degraded", "fail", "failed", "failing", "critical", "disconnected", "unavailable"}
)
_DEPTH = 4  # health bodies are shallow
_KEPT = 2000  # characters of a body
_SECRET = re.compile(
    r"""("[^"]*(?:secret|token|passw|api_?key|authorization)[^"]*"\s*:\s*)("(?:[^"\\]|\\.)*"?|[^,}\s]+)""",
    re.IGNORECASE,
)


class HttpLimits(Limits):
    """How services are asked."""

    tries: int = 3
    """Requests to each; the middle one of their times is its latency."""


@dataclass(frozen=True)
class ServiceFacts:
    """The first answer, and the time of each."""

    answer: http.Answer
    latencies: tuple[timedelta, ...]

    def evidence(self) -> dict[str, Scalar]:
        """Plain data for an artifact; of a body no more than its beginning, without what is called a secret."""
        body = _SECRET.sub(r'\1"***"', self.answer.text[:_KEPT])
        return {"url": self.answer.url, "status": self.answer.status, "body": body}


def look(target: HttpTarget, limits: HttpLimits) -> ServiceFacts:
    """Ask so many times. Raises TargetError when one of them has no answer."""
    answer = http.look(target)
    more = [http.look(target).latency for _ in range(limits.tries - 1)]
    return ServiceFacts(answer, (answer.latency, *more))


def judge(ctx: Context, name: str, facts: ServiceFacts, target: HttpTarget) -> None:
    """Checks and measures of one service. The status alone is never believed where the body says more."""
    subject = f"http {name}"
    answer = facts.answer
    if answer.status in (401, 403) and target.status not in (401, 403):
        ctx.unknown(
            f"{subject}: answers",
            f"denied: {answer.url} answered {answer.status}",
            expected=f"{target.status}",
            hint="check the target's headers or the proxy's rules",
        )
        return
    where = f"; it redirects to {answer.location}" if answer.location else ""
    met = (
        ctx.check(
            f"{subject}: answers",
            answer.status,
            equals=target.status,
            hint=f"{answer.url} says {_first_words(answer)}{where}",
        ).status.value
        == "ok"
    )
    well = _body(ctx, name, answer, target, must_be_json=met) and met
    latency = timedelta(seconds=statistics.median(item.total_seconds() for item in facts.latencies))
    ctx.check(
        f"{subject}: latency", latency, warn_above=target.max_latency, hint="look at its load and what it waits for"
    )
    ctx.measure("http_health_latency_seconds", latency.total_seconds(), "s", service=name)
    ctx.measure("service_up", well, service=name)


def judge_silence(ctx: Context, name: str, error: MaintdError, target: HttpTarget) -> None:
    """A service that gave no answer is down, whatever kept it from answering."""
    ctx.report_error(f"http {name}: answers", error, expected=f"{target.status}")
    if isinstance(error, TargetError):
        ctx.measure("service_up", 0, service=name)


def _body(ctx: Context, name: str, answer: http.Answer, target: HttpTarget, *, must_be_json: bool) -> bool:
    subject, well = f"http {name}", True
    if target.expect_text is not None:
        found = target.expect_text in answer.text
        well = found
        ctx.check(
            f"{subject}: body has {target.expect_text!r}", found, equals=True, hint=f"it says {_first_words(answer)}"
        )
    try:
        results = http.judge(answer, target.expect)
        complaints = [] if target.expect else list(_complaints(_json_or_none(answer)))
    except TargetError as error:
        if must_be_json:
            ctx.fail(f"{subject}: body", f"malformed: {error.message}", expected="JSON", hint=error.hint or "")
        return False
    for result in results:
        well = well and result.met
        if result.observed is None:
            ctx.fail(
                f"{subject}: {result.path}", "missing", expected=f"{result.expected}", hint="the body has no such field"
            )
        elif result.met:
            ctx.check(f"{subject}: {result.path}", result.observed, equals=result.expected)
        else:
            ctx.fail(
                f"{subject}: {result.path}",
                result.observed,
                expected=f"{result.expected}",
                hint=f"{answer.url} says so itself: look at that part",
            )
    if not target.expect and _json_or_none(answer) is not None:
        well = well and not complaints
        ctx.check(
            f"{subject}: body without complaint",
            ", ".join(complaints) or "none",
            equals="none",
            hint=f"look at that part, or say with targets.http.{name}.expect what counts",
        )
    return well


def _json_or_none(answer: http.Answer) -> Any:
    try:
        return answer.json()
    except TargetError:
        return None


def _complaints(body: Any, path: str = "", depth: int = 0) -> Iterator[str]:
    """Dotted paths of values that say that something is not well: `checks.db: error`."""
    if depth > _DEPTH:
        return
    if isinstance(body, dict):
        for key, value in body.items():
            yield from _complaints(value, f"{path}.{key}" if path else str(key), depth + 1)
    elif isinstance(body, str) and path and body.lower() in _COMPLAINTS:
        yield f"{path}: {body}"


def _first_words(answer: http.Answer) -> str:
    return repr(" ".join(answer.text[:200].split())[:120])
