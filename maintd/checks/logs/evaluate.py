"""Checks of logs: login attempts, denied requests, and whether the logs themselves are complete and current."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

from pydantic import Field

from maintd.checks.hints import name_first, printable
from maintd.checks.limits import Limits
from maintd.checks.logs.denied_requests import DeniedRequests
from maintd.checks.logs.log_files import LogChange, LogFileState, compare
from maintd.checks.logs.logins import DAY, LoginSummary, Success
from maintd.checks.logs.unfamiliar_logins import LoginTally
from maintd.checks.read_tally import ReadTally
from maintd.errors import MaintdError
from maintd.job.attempt_info import Point
from maintd.job.causes import Role
from maintd.job.context import Context
from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus
from maintd.reports.formatting import instant
from maintd.units import Duration

_NAMED = 10  # sources in a hint
_MANY_SOURCES = "see logins.md for the most frequent; allow logins only from known networks, and only by key"
_MIN_DAYS = 3  # of a baseline
_MOST_KNOWN = 1_000  # logins remembered; the longest unused are forgotten first, and are new when they come back
_KNOWN_FOR = timedelta(days=400)  # a yearly review sees who has logged in since the last one


class LoginLimits(Limits):
    """When login attempts need attention."""

    failures_warn: int = Field(20, ge=1)
    """This many failures from one address in a day warn."""
    failures_fail: int = Field(100, ge=1)
    """This many failures from one address in a day fail."""
    total_warn: int = Field(100, ge=1)
    """Fewer failures from all addresses in a day never warn."""
    times_usual: float = 5
    """This many times the typical number of failures a day warns; before there is one, this many times `total_warn`."""
    usual_days: int = Field(14, ge=_MIN_DAYS)
    """The typical number is the median of this many days."""
    failures_before_success: int = Field(5, ge=1)
    """A success after this many failures from the same address fails: a password may have been guessed."""
    sudo_failures: int = Field(5, ge=1)
    """This many failures of one user at sudo or su warn."""
    hours: tuple[int, int] | None = None
    """First and last hour, UTC, in which people log in; a success at another hour warns. null: any hour."""
    unparsed_percent: float = 5
    """Unknown when a higher percentage of messages about logins, and at least `failures_warn`, is not understood."""
    silent: Duration = timedelta(hours=24)
    """A log whose last line is older is unknown."""


class RequestLimits(Limits):
    """When denied requests need attention."""

    denied_warn: int = Field(20, ge=1)
    """Fewer denied requests a day never warn."""
    times_usual: float = 5
    """This many times the typical number a day warns."""
    usual_days: int = Field(14, ge=_MIN_DAYS)
    """The typical number is the median of this many days."""
    admin_fail: int = Field(5, ge=1)
    """This many denied requests on administrators' paths fail; unknown when it may be as many, without a known path."""
    not_understood_percent: float = 5
    """Unknown when a higher percentage of a service's lines with 401 or 403, and at least `admin_fail`, has no known
    form."""
    silent: Duration = timedelta(hours=24)
    """Logs whose last line is older are unknown."""


def was_never_configured(ctx: Context, error: MaintdError, source: str) -> bool:
    """Whether this site never had the log that could not be read."""
    return getattr(error, "cause", "") == "not_configured" and ctx.last("reviewed_until", source=source) is None


def report_unread(ctx: Context, check: str, error: MaintdError, source: str) -> None:
    """A log that this site never had is optional; one that was read before is not."""
    if was_never_configured(ctx, error, source):
        ctx.unknown(
            check, f"not_configured: {error.message}", expected="readable", hint=error.hint or "", optional=True
        )
    else:
        ctx.report_error(check, error, expected="readable", role=Role.SOURCE)


def window_start(ctx: Context, source: str, now: datetime, window: timedelta, longest: timedelta) -> datetime:
    """Return the start of the window: `window` ago, or the last complete review when that is longer ago.

    At most `longest` ago; what is older is reported as unknown.
    """
    last = ctx.last("reviewed_until", None, source=source)
    since = now - window
    if last is not None:
        since = min(since, datetime.fromtimestamp(last, UTC))
    if since < now - longest:
        ctx.unknown(
            f"{source}: time without a review",
            f"from {instant(since)} until {instant(now - longest)}",
            expected=f"at most {longest.days} days back",
            hint="review it manually, or run the job once with a larger `longest`",
        )
        since = now - longest
    return since


def counted_since(ctx: Context, since: datetime) -> datetime:
    """The end of what earlier reviews have counted, at least `since`: windows overlap, and a login counts once."""
    last = ctx.last("reviewed_until", None, source="logins")
    return since if last is None else max(since, datetime.fromtimestamp(last, UTC))


def keep_logins(ctx: Context, summary: LoginSummary) -> None:
    """Keep the number of logins by user, source, key and method since the last complete review, for `access_review`.

    `logins_counted_from` is the start of what was counted, in seconds since 1970; its end is `reviewed_until` of the
    same run. Those beyond the bound are `logins_accepted_others`. The store keeps them as long as runs: 400 days.
    """
    if summary.counted_since is None:
        return
    for (user, source, key, method), count in summary.accepted.top(summary.accepted.limit):
        labels = {"user": printable(user)[:64], "source": source[:64], "key": key[:128], "method": method[:32]}
        ctx.measure("logins_accepted", count, **labels)
    ctx.measure("logins_accepted_others", summary.accepted.others)
    ctx.measure("logins_not_understood", summary.possible_successes)
    ctx.measure("logins_counted_from", summary.counted_since.timestamp(), "s")


def report_logins(ctx: Context, summary: LoginSummary, since: datetime, limits: LoginLimits) -> None:
    """Check and measure login attempts, and logins from new sources."""
    busiest = summary.busiest_sources(_NAMED)
    sources = ", ".join(f"{printable(source)} {count}" for source, count in busiest if count >= limits.failures_warn)
    _check(
        ctx,
        summary.not_understood,
        "logins: failures from one address in a day",
        busiest[0][1] if busiest else 0,
        at_most=limits.failures_fail - 1,
        warn_above=limits.failures_warn - 1,
        hint=f"block it, and disable password logins: {sources}" if sources else _MANY_SOURCES,
        limited_by=(summary.by_source_and_day,),
    )
    earlier = ctx.series("auth_failures_total_24h")
    now = summary.until
    days = (now - since) / DAY
    _check(
        ctx,
        summary.not_understood,
        "logins: failures in a day",
        summary.busiest_day,
        warn_above=_usual_limit(earlier, now, limits.usual_days, limits.total_warn, limits.times_usual),
        hint=_MANY_SOURCES,
    )
    guessed = summary.after_failures
    _check(
        ctx,
        summary.not_understood,
        "logins: success after failures",
        guessed.total,
        equals=0,
        hint=_hint("ask whether it was them", list(guessed)) if len(guessed) else _MANY_SOURCES,
        limited_by=(summary.by_source,),
    )
    by_root = summary.root_without_key
    hint = _hint("set PermitRootLogin prohibit-password", list(by_root))
    _check(ctx, summary.not_understood, "logins: root by password", by_root.total, equals=0, hint=hint)
    _report_sources(ctx, summary)
    if limits.hours is not None:
        first, last = limits.hours
        odd_hours = [hour for hour in sorted(summary.count_by_hour) if not _within(hour, first, last)]
        odd = [item for hour in odd_hours for item in summary.by_hour[hour]]
        count = sum(summary.count_by_hour[hour] for hour in odd_hours)
        _check(
            ctx,
            summary.not_understood,
            "logins: at odd hours",
            count,
            warn_above=0,
            hint=_hint("ask whether it was them", odd),
        )
    sudo = summary.sudo_failures()
    users = ", ".join(f"{printable(user)} {count}" for user, count in sudo[:_NAMED] if count >= limits.sudo_failures)
    _check(
        ctx,
        summary.not_understood,
        "logins: sudo and su failures of one user",
        sudo[0][1] if sudo else 0,
        warn_above=limits.sudo_failures - 1,
        hint=f"ask whether it was them: {users}" if users else "",
        limited_by=(summary.pam_failures, summary.sudo_attempts, summary.not_allowed),
    )
    for method, count in summary.by_method.top(20):
        ctx.measure("auth_failures_24h", count / days, "", method=printable(method)[:40])
    if not summary.not_understood:  # else the number is not known, and must not become the typical one
        ctx.measure("auth_failures_total_24h", summary.failures / days)
        ctx.measure("auth_success_24h", summary.success_count / days)
    ctx.measure("auth_distinct_source_ips", summary.by_source.distinct)


def _report_sources(ctx: Context, summary: LoginSummary) -> None:
    """Check for successes from sources that are new; the first complete review only remembers them.

    Every run records all known logins again, with the time when each was last seen (seconds since 1970), so that a run
    without logins does not forget them.
    """
    known: dict[tuple[str, str, str], float] = {}
    for point in ctx.series("login_source"):
        last_seen = point.value if point.value > 1 else point.at.timestamp()  # earlier versions recorded 1
        identity = (point.labels["user"], point.labels["source"], point.labels["key"])
        known[identity] = max(known.get(identity, 0.0), last_seen)
    first_review = not ctx.series("reviewed_until", source="logins")
    seen: dict[tuple[str, str, str], Success] = {}
    for (user, source, key), item in summary.identities.items():
        seen.setdefault((printable(user), source, key), item)
    now = summary.until.timestamp()
    remembered = known | dict.fromkeys(seen, now)
    recent = sorted(remembered.items(), key=lambda item: (-item[1], item[0]))[:_MOST_KNOWN]
    for (user, source, key), last_seen in recent:
        if now - last_seen <= _KNOWN_FOR.total_seconds():
            ctx.measure("login_source", last_seen, "s", user=user, source=source, key=key)
    if first_review:
        ctx.log(f"logins: {len(seen)} sources of logins remembered; new ones are checked from the next run on")
        return
    new = [item for identity, item in seen.items() if identity not in known]
    _check(
        ctx,
        summary.not_understood,
        "logins: from new sources",
        len(new),
        warn_above=0,
        hint=_hint("ask whether it was them", new),
        limited_by=(summary.identities,),
    )


def _usual_limit(earlier: Sequence[Point], now: datetime, usual_days: int, floor: int, times: float) -> float:
    """Return the highest number a day that does not warn: a multiple of the median, or of the floor without one."""
    typical = [point.value for point in earlier if now - point.at < timedelta(days=usual_days)]
    if len(typical) < _MIN_DAYS:
        return times * floor
    return max(floor - 1, times * median(typical))


def report_log(ctx: Context, newest: datetime | None, tally: LoginTally, now: datetime, limits: LoginLimits) -> None:
    """Check that the log of logins is current, and that its messages are understood.

    Fewer messages than the lowest limit for failures could not change a count of failures, so they are no alarm. One
    that may be a successful login is: it is checked by itself.
    """
    what = "logins: last line of the log"
    if newest is None:
        ctx.unknown(what, "empty: no recent line", hint="check that it is still written")
    elif now - newest > limits.silent:
        hint = "check that it is still written, and that logging was not disabled"
        ctx.unknown(what, f"silent since {instant(newest)}", expected="a line of today", hint=hint)
    else:
        ctx.check(what, max(timedelta(), now - newest), at_most=limits.silent)
    ctx.report(
        [
            tally.criterion(
                "logins: lines not understood",
                "lines",
                at_most_share=limits.unparsed_percent / 100,
                at_least=limits.failures_warn,
                hint="failed logins may be among them: review these lines manually, and report their form",
            )
        ]
    )
    what = "logins: possible successes not understood"
    hint = (
        "find out whether it was a login, and by whom; then describe its form in the param login_forms: under "
        "`accepted` with groups user and address, or under `ignored` when it is no login"
    )
    if tally.possible_successes:
        shown = "; ".join(f'"{one}"' for one in tally.success_samples)
        ctx.unknown(what, f"{tally.possible_successes}, such as {shown}", expected="0", hint=hint)
    else:
        ctx.check(what, 0, at_most=0, hint=hint)
    ctx.measure("log_lines_unparsed_ratio", tally.share_not_understood)


def report_log_change(ctx: Context, log: str, files: Sequence[LogFileState]) -> None:
    """Check that the log still has what it had at the last run, and record its current state."""
    labels = {"log": log}
    before = [ctx.last(name, None, **labels) for name in ("log_inode", "log_size", "log_head")]
    current = next((file for file in files if file.current), None)
    if current is not None:
        ctx.measure("log_inode", current.inode, "", **labels)
        ctx.measure("log_size", current.size, "B", **labels)
        ctx.measure("log_head", current.head, "", **labels)
    if None in before:
        return
    inode, size, head = (round(value) for value in before if value is not None)
    change = compare(LogFileState(inode, size, head, current=True), files)
    severity = CheckStatus.WARN if change == "replaced" else CheckStatus.FAIL
    ctx.check("logins: what the log held", change, equals="kept", severity=severity, hint=_CHANGE_HINTS[change])


_CHANGE_HINTS: Mapping[LogChange, str] = {
    "kept": "",
    "cut": "log rotation does not do this: find out who truncated it, and what was removed",
    "replaced": "its earlier lines are in no rotated file: check that logrotate keeps them, and who deleted it",
    "gone": "find out who deleted it, and what was in it",
}


def report_requests(ctx: Context, found: DeniedRequests, now: datetime, limits: RequestLimits) -> None:
    """Check and measure denied requests, against the typical number of earlier days."""
    earlier = ctx.series("api_denied_total_24h")
    typical = [point.value for point in earlier if now - point.at < timedelta(days=limits.usual_days)]
    days = (found.until - found.since) / DAY
    per_day = found.total / days
    what = "requests: denied in a day"
    top = _request_list(found.by_request.top(5))
    cause = _missing(found, limits)
    if len(typical) < _MIN_DAYS:
        ctx.log(f"{what}: {per_day:.0f}; compared with the typical number after {_MIN_DAYS} days of history")
    else:
        most = max(limits.denied_warn - 1, limits.times_usual * median(typical))
        hint = f"find out who sends them: {top}" if top else ""
        _check(ctx, cause, what, round(per_day, 1), warn_above=most, hint=hint)
    _report_admin(ctx, found, limits, cause)
    if found.undated:
        hint = "configure the service to log a time with each line"
        ctx.unknown("requests: denied at an unknown time", f"{found.undated} without a time", expected="0", hint=hint)
    if found.truncated:
        hint = "the log has lines longer than 16 KiB, which may contain denied requests"
        ctx.unknown("requests: lines too long", f"{found.truncated} too long", expected="0", hint=hint)
    _report_not_understood(ctx, found, limits)
    for (service, status), count in found.by_service.top(100):
        ctx.measure("api_denied_24h", count / days, "", service=printable(service)[:60], status=str(status))
    if not cause:  # else the number is not known, and must not become the typical one
        ctx.measure("api_denied_total_24h", per_day)


def _missing(found: DeniedRequests, limits: RequestLimits) -> str:
    """Why the number of denied requests is not known: the first service with too many lines not understood."""
    for service, tally in (*found.tallies.items(), ("other services", found.tally_of_others)):
        what = f"lines with 401 or 403 of {printable(service)[:60]}"
        share = limits.not_understood_percent / 100
        if cause := tally.missing(what, at_most_share=share, at_least=limits.admin_fail):
            return cause
    return ""


def _check(ctx: Context, not_understood: str, name: str, observed: float, **limits: Any) -> None:
    """Check a number of what was understood in a log. With a cause why it is too low it is unknown, unless it fails
    anyway."""
    criterion = Criterion(name, observed, **limits)
    if not_understood and criterion.status is not CheckStatus.FAIL:
        criterion = replace(criterion, unknown=f"{not_understood}; so far {observed:g}")
    ctx.report([criterion])


def _report_admin(ctx: Context, found: DeniedRequests, limits: RequestLimits, cause: str) -> None:
    what = "requests: denied on administrators' paths"
    admin = [item for item in found.by_request.top(1000) if found.of_admin(item[0][2])][:5]
    if found.admin < limits.admin_fail <= found.admin + found.without_path:
        ctx.unknown(
            what,
            f"{found.admin}, and {found.without_path} without a path",
            expected=f"at most {limits.admin_fail - 1}",
            hint="configure the service to log the path in the line with the status",
        )
        return
    _check(
        ctx,
        cause,
        what,
        found.admin,
        at_most=limits.admin_fail - 1,
        hint=f"keys are being guessed, or a client has an old key: {_request_list(admin)}" if admin else "",
    )


def _report_not_understood(ctx: Context, found: DeniedRequests, limits: RequestLimits) -> None:
    """Check that the lines with 401 or 403 of each service are understood, and those of all others together.

    Fewer lines than the lowest limit for denied requests could not change an outcome.
    """
    what = "requests: lines not understood"
    others = ReadTally()

    def criterion_of(name: str, tally: ReadTally) -> Criterion:
        return tally.criterion(
            name,
            "lines with 401 or 403",
            at_most_share=limits.not_understood_percent / 100,
            at_least=limits.admin_fail,
            hint="denied requests may be among them: name the field with the status in `status_fields`, or log in JSON",
        )

    not_understood = []
    for service, tally in (*found.tallies.items(), ("other services", found.tally_of_others)):
        criterion = criterion_of(f"{what} of {printable(service)[:60]}", tally)
        if criterion.status is CheckStatus.OK:
            others.merge(tally)
        else:
            not_understood.append(criterion)
    ctx.report(not_understood[:_NAMED])
    if len(not_understood) > _NAMED:
        ctx.unknown(what, f"and those of {len(not_understood) - _NAMED} more services", expected="0")
        return
    rest = criterion_of(what, others)
    if not not_understood or rest.status is not CheckStatus.OK:
        ctx.report([rest])


def report_activity(
    ctx: Context, found: DeniedRequests, services: Sequence[str], now: datetime, limits: RequestLimits
) -> None:
    """Check that logs are current, those of each of `services` too, and that all could be read."""
    what = "requests: last line of the logs"
    hint = "check that the services run, and write the logs that are read here"
    if found.newest is None or now - found.newest > limits.silent:
        since = "no line" if found.newest is None else f"silent since {instant(found.newest)}"
        ctx.unknown(what, f"empty: {since}", hint=hint)
    else:
        ctx.check(what, max(timedelta(), now - found.newest), at_most=limits.silent)
    for service in services:
        if service not in found.active_services:
            ctx.unknown(f"requests: {service}", "silent: no line", expected="lines", hint=hint)
    if found.unread:
        errors = printable(name_first(found.unread))
        ctx.unknown("requests: logs that could not be read", f"{len(found.unread)}", expected="0", hint=errors)


def _request_list(items: Sequence[tuple[tuple[str, int, str, str], int]]) -> str:
    return "; ".join(
        f"{printable(service)} {status} {printable(path)} from {printable(remote) or 'unknown'}: {count}"
        for (service, status, path, remote), count in items
    )


def _hint(advice: str, items: Sequence[Success]) -> str:
    if not items:
        return ""
    logins = [
        f"{printable(item.user)} from {printable(item.source)} by {printable(item.method)} at {instant(item.at)}"
        + (f" after {item.failures} failures" if item.failures else "")
        for item in items
    ]
    return f"{advice}: {name_first(logins)}"


def _within(hour: int, first: int, last: int) -> bool:
    return first <= hour < last if first <= last else hour >= first or hour < last
