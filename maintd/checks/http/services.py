"""Health of HTTP services: status, body, latency."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from maintd.checks.clock_offset import ClockLimits, ClockOffset, clock_of_answer, report_clock
from maintd.checks.probes import answered, value_or_error
from maintd.clients import http
from maintd.errors import MaintdError, TargetError
from maintd.job.context import Context
from maintd.model.evidence import CheckStatus, Scalar
from maintd.model.target import HttpTarget
from maintd.units import Duration

# Values of fields in a JSON body by which services report that a component is unhealthy.
_UNHEALTHY = frozenset(
    {"error", "down", "unhealthy", "degraded", "fail", "failed", "failing", "critical", "disconnected", "unavailable"}
)
# Fields that are false when a service or component is unhealthy.
_HEALTHY = frozenset({"healthy", "ok", "ready", "up", "alive", "success", "available", "connected"})
# A path at which programs ask: a web page there comes from something in front of the service, or is its catch-all page.
_MACHINE_PATH = re.compile(
    r"(^|[/_.-])(health[a-z]*|ready[a-z]*|live[a-z]*|ping|status|metrics|api|v\d+|version|info)([/_.-]|$)",
    re.IGNORECASE,
)
_LOGIN_PATH = re.compile(
    r"(^|[/_.-])(log[-_]?in|sign[-_]?in|sso|auth[a-z0-9]*|oauth2?|saml2?|oidc|cas|realms|accounts?)([/_.?-]|$)",
    re.IGNORECASE,
)
_LOGIN_FORM = re.compile(
    r"""<input[^>]*type\s*=\s*["']?password|<title>[^<]*\b(log ?in|sign ?in|anmeld|authenticat)""", re.IGNORECASE
)
_NAMED = 20  # complaints of one body
_KEPT = 2000  # characters of a body
_SECRET = re.compile(
    r"""("[^"]*(?:secret|token|passw|api_?key|authorization)[^"]*"\s*:\s*)("(?:[^"\\]|\\.)*"?|[^,}\s]+)""",
    re.IGNORECASE,
)


class HttpLimits(ClockLimits):
    """How services are requested, and limits for the clocks of their hosts."""

    tries: int = 3
    """Requests to each service; its latency is their median."""
    certificate_warn: Duration = timedelta(days=21)
    certificate_fail: Duration = timedelta(days=7)
    """Remaining validity of a service's certificate below which it warns, or fails."""


@dataclass(frozen=True)
class ServiceFacts:
    """The first answer, the latency of each, and the clock by the fastest of them."""

    answer: http.Answer
    latencies: tuple[timedelta, ...]
    clock: ClockOffset | TargetError

    def evidence(self) -> dict[str, Scalar]:
        """Plain data for an artifact: the beginning of the body, without the values of secret fields."""
        body = _SECRET.sub(r'\1"***"', self.answer.text[:_KEPT])
        return {"url": self.answer.url, "status": self.answer.status, "body": body}


def collect(target: HttpTarget, limits: HttpLimits) -> ServiceFacts:
    """Send the requests. Raises TargetError when one has no answer."""
    answer = http.get(target)
    answered()
    answers = [answer, *(http.get(target) for _ in range(limits.tries - 1))]
    fastest = min(answers, key=lambda item: item.latency)
    clock = value_or_error(lambda: clock_of_answer(fastest))
    return ServiceFacts(answer, tuple(item.latency for item in answers), clock)


def report(ctx: Context, name: str, facts: ServiceFacts, target: HttpTarget, limits: HttpLimits) -> None:
    """Report the checks and measures of one service: it is up when both its status and its body are as expected."""
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
    if answer.status != target.status and _is_login(answer.location):
        ctx.unknown(
            f"{subject}: answers",
            f"denied: {answer.url} redirects to a login page, {answer.location}",
            expected=f"{target.status}",
            hint="set the target's headers, or request a path that needs no login",
        )
        return
    redirect = f"; it redirects to {answer.location}" if answer.location else ""
    check = ctx.check(
        f"{subject}: answers",
        answer.status,
        equals=target.status,
        hint=f"{answer.url} answered {_excerpt(answer)}{redirect}",
    )
    expected = check.status is CheckStatus.OK
    healthy = _report_body(ctx, name, answer, target, must_be_json=expected) and expected
    page = "" if target.expect or target.expect_text is not None or not expected else _page(answer)
    if page:
        ctx.unknown(
            f"{subject}: body",
            page,
            expected="an answer of the service itself",
            hint=f"set what it answers in targets.http.{name}: expect for JSON, or expect_text",
        )
    latency = timedelta(seconds=statistics.median(item.total_seconds() for item in facts.latencies))
    ctx.check(
        f"{subject}: latency", latency, warn_above=target.max_latency, hint="check its load and what it waits for"
    )
    report_clock(ctx, subject, facts.clock, limits, optional=True)
    if answer.certificate_expires_at is not None:
        _report_certificate(ctx, name, answer.certificate_expires_at - ctx.now(), limits)
    ctx.measure("http_health_latency_seconds", latency.total_seconds(), "s", service=name)
    if not page:
        ctx.measure("service_up", healthy, service=name)


def _report_certificate(ctx: Context, name: str, left: timedelta, limits: HttpLimits) -> None:
    hint = "renew it, and check why its renewal did not run"
    ctx.check(
        f"http {name}: certificate is valid for",
        left,
        at_least=limits.certificate_fail,
        warn_below=limits.certificate_warn,
        hint=hint,
    )
    ctx.measure("ssl_certificate_expiry_days", left / timedelta(days=1), "day", service=name)


def report_no_answer(ctx: Context, name: str, error: MaintdError, target: HttpTarget) -> None:
    """Report a service without an answer as down."""
    ctx.report_error(f"http {name}: answers", error, expected=f"{target.status}")
    if isinstance(error, TargetError):
        ctx.measure("service_up", 0, service=name)


def _report_body(ctx: Context, name: str, answer: http.Answer, target: HttpTarget, *, must_be_json: bool) -> bool:
    subject, healthy = f"http {name}", True
    if target.expect_text is not None:
        found = target.expect_text in answer.text
        healthy = found
        ctx.check(
            f"{subject}: body has {target.expect_text!r}", found, equals=True, hint=f"it answered {_excerpt(answer)}"
        )
    try:
        fields = http.fields(answer, target.expect)
        unhealthy = [] if target.expect else list(_unhealthy_fields(_json_or_none(answer)))
    except TargetError as error:
        if must_be_json:
            ctx.fail(f"{subject}: body", f"malformed: {error.message}", expected="JSON", hint=error.hint or "")
        return False
    for field in fields:
        healthy = healthy and field.equal
        check = f"{subject}: {field.path}"
        if field.observed is None:
            ctx.fail(
                check,
                "missing",
                expected=f"{field.expected}",
                hint=f"name a field of the answer in targets.http.{name}.expect",
            )
        elif field.equal:
            ctx.check(check, field.observed, equals=field.expected)
        else:
            hint = f"{answer.url} reports it itself: check that component"
            ctx.fail(check, field.observed, expected=f"{field.expected}", hint=hint)
    if not target.expect and _json_or_none(answer) is not None:
        healthy = healthy and not unhealthy
        more = f", and {len(unhealthy) - _NAMED} more" if len(unhealthy) > _NAMED else ""
        ctx.check(
            f"{subject}: body without complaint",
            ", ".join(unhealthy[:_NAMED]) + more or "none",
            equals="none",
            hint=f"check that component, or set the fields that count in targets.http.{name}.expect",
        )
    return healthy


def _page(answer: http.Answer) -> str:
    """Why the body of a successful answer may not come from the service itself; empty if nothing suggests that."""
    start = answer.text.lstrip("\ufeff \t\r\n")[:1000].lower()
    html = "html" in answer.content_type.lower() or re.match(r"<(!doctype|html|head|body|meta|title)\b", start)
    if html and _LOGIN_FORM.search(answer.text):
        return "denied: a login page"
    path = urlsplit(answer.url).path
    if html and _MACHINE_PATH.search(path):
        return f"unfamiliar: a web page from {path}, where services answer JSON or plain text"
    if "json" in answer.content_type.lower() and answer.body.strip() and _json_or_none(answer) is None:
        return "malformed: its content type is JSON, its body is not"
    return ""


def _is_login(location: str) -> bool:
    parts = urlsplit(location)
    host = parts.hostname or ""
    return bool(_LOGIN_PATH.search(parts.path) or (_LOGIN_PATH.search(host.partition(".")[0]) if host else None))


def _json_or_none(answer: http.Answer) -> Any:
    try:
        return answer.json()
    except TargetError:
        return None


def _unhealthy_fields(body: Any, path: str = "") -> Iterator[str]:
    """Paths and values of fields that report an unhealthy component: `checks.db: error`.

    At every depth: a body that is nested too deeply is refused before it is decoded.
    """
    if isinstance(body, dict):
        for key, value in body.items():
            inner = f"{path}.{key}" if path else str(key)
            if (value is False and str(key).lower() in _HEALTHY) or (
                isinstance(value, str) and value and str(key).lower() == "error"
            ):
                yield f"{inner}: {str(value).lower() if value is False else value[:100]}"
            else:
                yield from _unhealthy_fields(value, inner)
    elif isinstance(body, list):
        for index, value in enumerate(body):
            yield from _unhealthy_fields(value, f"{path}.{index}" if path else str(index))
    elif isinstance(body, str) and path and body.lower() in _UNHEALTHY:
        yield f"{path}: {body}"


def _excerpt(answer: http.Answer) -> str:
    return repr(" ".join(answer.text[:200].split())[:120])
