"""What is said of attempts to get in, of denied requests, and of the logs that tell of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from statistics import median

from pydantic import Field

from maintd.checks.limits import Limits
from maintd.checks.logs.access_log import Denials
from maintd.checks.logs.files import Extent, Verdict, verdict
from maintd.checks.logs.logins import DAY, LoginReview, Success
from maintd.job.context import Context
from maintd.model.evidence import CheckStatus
from maintd.units import Duration

_NAMED = 10  # in a hint
_LEAST_DAYS = 3  # of a baseline
_MOST_LEARNED = 100  # successes whose source is remembered, of one run


class LoginLimits(Limits):
    """When attempts to get in need somebody."""

    failures_warn: int = Field(20, ge=1)
    """So many failures from one address within a day warn."""
    failures_fail: int = Field(100, ge=1)
    """So many fail."""
    failures_before_success: int = Field(5, ge=1)
    """A success after so many failures from the same address fails: somebody guessed."""
    sudo_failures: int = Field(5, ge=1)
    """So many failures of one user at sudo or su warn."""
    hours: tuple[int, int] | None = None
    """From and until which hour, UTC, people log in; a success at another hour warns. None: at any."""
    unparsed_percent: float = 5
    """Of the lines of these programs, so many that are not understood warn."""
    silent: Duration = timedelta(hours=24)
    """A log whose last line is older says nothing."""


class RequestLimits(Limits):
    """When denied requests need somebody."""

    denied_warn: int = Field(20, ge=1)
    """Fewer denied requests a day never warn."""
    times_usual: float = 5
    """So many times the usual number warn."""
    usual_days: int = Field(14, ge=_LEAST_DAYS)
    """How many days back the usual number is the median of."""
    admin_fail: int = Field(5, ge=1)
    """So many denied requests of administrators' paths fail."""
    silent: Duration = timedelta(hours=24)
    """Logs whose last line is older say nothing."""


def judge_logins(
    ctx: Context, review: LoginReview, since: datetime, known: set[tuple[str, str, str]] | None, limits: LoginLimits
) -> None:
    """Checks and measures of what was read; `known` are the sources of earlier successes, None at the first review."""
    busiest = review.busiest(_NAMED)
    told = ", ".join(f"{printable(source)} {count}" for source, count in busiest if count >= limits.failures_warn)
    ctx.check(
        "logins: failures from one address in a day",
        busiest[0][1] if busiest else 0,
        at_most=limits.failures_fail - 1,
        warn_above=limits.failures_warn - 1,
        hint=f"is it blocked, and are passwords off? {told}" if told else "",
    )
    guessed = [item for item in review.successes if item.failures >= limits.failures_before_success]
    ctx.check("logins: success after failures", len(guessed), equals=0, hint=_told("was it them? ", guessed))
    by_root = [item for item in review.successes if item.user == "root" and item.method != "publickey"]
    ctx.check(
        "logins: root by password", len(by_root), equals=0, hint=_told("PermitRootLogin prohibit-password: ", by_root)
    )
    _judge_sources(ctx, review.successes, known)
    if limits.hours is not None:
        first, last = limits.hours
        odd = [item for item in review.successes if not _within(item.at.hour, first, last)]
        ctx.check("logins: at odd hours", len(odd), warn_above=0, hint=_told("was it them? ", odd))
    sudo = review.sudo_failures()
    told = ", ".join(f"{printable(user)} {count}" for user, count in sudo[:_NAMED] if count >= limits.sudo_failures)
    ctx.check(
        "logins: sudo and su failures of one user",
        sudo[0][1] if sudo else 0,
        warn_above=limits.sudo_failures - 1,
        hint=f"was it them? {told}" if told else "",
    )
    days = (review.until - since) / DAY
    for method, count in review.by_method.top(20):
        ctx.measure("auth_failures_24h", count / days, "", method=printable(method)[:40])
    ctx.measure("auth_success_24h", review.success_count / days)
    ctx.measure("auth_distinct_source_ips", review.all_of_source.distinct)


def _judge_sources(ctx: Context, successes: Sequence[Success], known: set[tuple[str, str, str]] | None) -> None:
    new: dict[tuple[str, str, str], Success] = {}
    for item in successes:
        user, source, key = item.who
        new.setdefault((printable(user), source, key), item)
    for user, source, key in list(new)[:_MOST_LEARNED]:
        ctx.measure("login_source", 1, "", user=user, source=source, key=key)
    if known is None:
        ctx.log(f"logins: {len(new)} sources of successes learned; new ones are judged from the next run on")
        return
    unseen = [item for who, item in new.items() if who not in known]
    ctx.check("logins: from new sources", len(unseen), warn_above=0, hint=_told("was it them? ", unseen))


def judge_log(
    ctx: Context, newest: datetime | None, lines: int, unparsed: int, now: datetime, limits: LoginLimits
) -> None:
    """Whether the log of logins speaks, and is understood."""
    what = "logins: last line of the log"
    if newest is None:
        ctx.unknown(what, "empty: it has no line of these days", hint="does anything still write it?")
    elif now - newest > limits.silent:
        hint = "does anything still write it, or was it switched off?"
        ctx.unknown(what, f"silent since {newest:%Y-%m-%d %H:%M} UTC", expected="a line of today", hint=hint)
    else:
        ctx.check(what, max(timedelta(), now - newest), at_most=limits.silent)
    percent = 100 * unparsed / lines if lines else 0.0
    hint = "is it written in another format?"
    ctx.check("logins: lines not understood", percent, warn_above=limits.unparsed_percent, unit="%", hint=hint)
    ctx.measure("log_lines_unparsed_ratio", percent / 100)


def judge_extents(ctx: Context, log: str, now: Sequence[Extent]) -> None:
    """Whether the log still holds what it held at the last run, and how it is now."""
    labels = {"log": log}
    before = [ctx.last(name, None, **labels) for name in ("log_inode", "log_size", "log_head")]
    current = next((extent for extent in now if extent.current), None)
    if current is not None:
        ctx.measure("log_inode", current.inode, "", **labels)
        ctx.measure("log_size", current.size, "B", **labels)
        ctx.measure("log_head", current.head, "", **labels)
    if None in before:
        return
    inode, size, head = (round(value) for value in before if value is not None)
    found = verdict(Extent(inode, size, head, current=True), now)
    hint = _ADVICE[found]
    severity = CheckStatus.WARN if found == "replaced" else CheckStatus.FAIL
    ctx.check("logins: what the log held", found, equals="kept", severity=severity, hint=hint)


_ADVICE: Mapping[Verdict, str] = {
    "kept": "",
    "cut": "nothing that rotates logs does this: who did, and what was in it?",
    "replaced": "its earlier lines are in no rotated file: does logrotate keep none, or did somebody delete it?",
    "gone": "it was deleted: who did, and what was in it?",
}


def judge_requests(ctx: Context, found: Denials, usual: Sequence[float], limits: RequestLimits) -> None:
    """Checks and measures of denied requests; `usual` are the numbers of earlier days."""
    days = (found.until - found.since) / DAY
    per_day = found.total / days
    what = "requests: denied in a day"
    top = _requests(found.by_request.top(5))
    if len(usual) < _LEAST_DAYS:
        ctx.log(f"{what}: {per_day:.0f}; judged against the usual number once there are {_LEAST_DAYS} days of it")
    else:
        most = max(limits.denied_warn - 1, limits.times_usual * median(usual))
        ctx.check(what, round(per_day, 1), warn_above=most, hint=f"who tries, and with what? {top}" if top else "")
    admin = [item for item in found.by_request.top(1000) if found.of_admin(item[0][2])][:5]
    ctx.check(
        "requests: denied on administrators' paths",
        found.admin,
        at_most=limits.admin_fail - 1,
        hint=f"somebody tries keys, or a client has a stale one: {_requests(admin)}" if admin else "",
    )
    if found.undated:
        hint = "let the service write a time on each line"
        ctx.unknown("requests: denied at an unknown time", f"{found.undated} without a time", expected="0", hint=hint)
    if found.cut:
        hint = "what do they hide? the log has lines longer than 16 KiB"
        ctx.unknown("requests: lines not understood", f"{found.cut} too long", expected="0", hint=hint)
    for (service, status), count in found.by_service.top(100):
        ctx.measure("api_denied_24h", count / days, "", service=printable(service)[:60], status=str(status))
    ctx.measure("api_denied_total_24h", per_day)


def judge_hearing(ctx: Context, found: Denials, services: Sequence[str], now: datetime, limits: RequestLimits) -> None:
    """Whether logs speak at all, and those of each service named."""
    what = "requests: last line of the logs"
    if found.newest is None or now - found.newest > limits.silent:
        since = "nothing was written" if found.newest is None else f"silent since {found.newest:%Y-%m-%d %H:%M} UTC"
        ctx.unknown(what, f"empty: {since}", hint="do the services still run, and log to where this looks?")
    else:
        ctx.check(what, max(timedelta(), now - found.newest), at_most=limits.silent)
    for service in services:
        if service not in found.heard:
            hint = "does it run, and log to where this looks?"
            ctx.unknown(f"requests: {service}", "silent: it wrote nothing", expected="lines", hint=hint)
    if found.unread:
        told = printable("; ".join(found.unread[:_NAMED]))
        ctx.unknown("requests: logs that could not be read", f"{len(found.unread)}", expected="0", hint=told)


def _requests(items: Sequence[tuple[tuple[str, int, str, str], int]]) -> str:
    return "; ".join(
        f"{printable(service)} {status} {printable(path)} from {printable(remote) or 'unknown'}: {count}"
        for (service, status, path, remote), count in items
    )


def printable(text: str) -> str:
    """A stranger's text for a check, a log or a terminal: no control characters, nothing that is not text."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _told(words: str, items: Sequence[Success]) -> str:
    if not items:
        return ""
    said = "; ".join(
        f"{printable(item.user)} from {printable(item.source)} by {printable(item.method)} "
        f"at {item.at:%Y-%m-%d %H:%M} UTC" + (f" after {item.failures} failures" if item.failures else "")
        for item in items[:_NAMED]
    )
    return f"{words}{said}" + (f"; and {len(items) - _NAMED} more" if len(items) > _NAMED else "")


def _within(hour: int, first: int, last: int) -> bool:
    return first <= hour < last if first <= last else hour >= first or hour < last
