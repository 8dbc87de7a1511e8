"""Review who tried to get in, and which requests were denied, by the logs' own fields.

Logins, sudo and su: from systemd's journal, or from auth.log with its rotated files. Denied requests (401, 403): from
the services' logs, by the field that holds the status, never by the digits in a line; read from a folder of logs, from
Loki, or from the Docker engine. A log that is missing, silent or cut says nothing: it is unknown, or a failure; never
"no attempts". Nothing is changed.

A run reviews the last day, or all since the last run that read everything when that is longer ago. The time of each
line decides, not a place in a file: so a restart, a rotation or a missed day loses nothing.

Runbook: Daily Maintenance, Morning Health Check, 4 Security Log Review
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator

from maintd.checks.logs import auth_log, containers, folder, journal, loki
from maintd.checks.logs import evaluate as judging
from maintd.checks.logs.access_log import STATUS_FIELDS, Denials
from maintd.checks.logs.evaluate import LoginLimits, RequestLimits, printable
from maintd.checks.logs.logins import LoginReview
from maintd.checks.logs.loki import SELECTOR
from maintd.clients import host
from maintd.job import Context, Duration, JobParams, TargetError, job
from maintd.job.references import resolved
from maintd.reports.formatting import instant, markdown

SHOWN = 20
# A log that cannot be read shows nothing; whether something is wrong with what it is about is not known.
NOT_OBSERVED = frozenset(
    {
        "denied",
        "not_configured",
        "empty",
        "malformed",
        "partial",
        "failed",
        "refused",
        "timed_out",
        "unreachable",
    }
)


class Params(JobParams):
    logins: bool = True
    """Whether logins are reviewed."""
    requests: bool = True
    """Whether denied requests are reviewed."""
    host: str | None = None
    """Host target whose logs of logins are read; none named: the only one, or `main`."""
    journal: Path | None = None
    """A folder or a file of journals; none given: the host's own, when there is a journalctl to read it by."""
    auth_log: Path | None = None
    """A log of logins; none given: the host's auth.log or secure, when there is no journal."""
    timezone: str | None = None
    """In which a log without zones is written; none given: the host's own."""
    folder: str | None = None
    """Folder target of the services' logs. The first is read of: folder, loki, docker; two would count lines twice."""
    loki: str | None = None
    """HTTP target of Loki."""
    loki_selector: str = SELECTOR
    """Which streams of Loki are the services'."""
    docker: tuple[str, ...] = ()
    """Docker targets whose containers' logs are read; none named: all."""
    services: tuple[str, ...] = ()
    """Services that never are silent for a day."""
    status_fields: tuple[str, ...] = Field(STATUS_FIELDS, min_length=1)
    """Fields of a JSON line that may hold the status; a dotted path goes into objects."""
    admin_paths: tuple[str, ...] = ("/admin",)
    """Paths of administrators, with all below them."""
    window: Duration = Field(timedelta(days=1), ge=timedelta(hours=1))
    """How far back a run looks at least."""
    longest: Duration = timedelta(days=7)
    """How far back it looks at most, after a time without runs."""
    login_limits: LoginLimits = LoginLimits()
    """When attempts to get in need somebody."""
    request_limits: RequestLimits = RequestLimits()
    """When denied requests need somebody."""

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                ZoneInfo(value)
            except (OSError, ValueError) as error:
                raise ValueError(f'"{value}" is no time zone') from error
        return value


@job(timeout="15m", repeatable=True)
def run(ctx: Context, params: Params) -> None:
    if params.logins:
        with ctx.phase("review logins"):
            _review_logins(ctx, params)
    if params.requests:
        with ctx.phase("review denied requests"):
            _review_requests(ctx, params)


def _review_logins(ctx: Context, params: Params) -> None:
    now = ctx.now()
    since = _since(ctx, params, "logins", now)
    try:
        review, whole = _read_logins(ctx, params, since, now)
    except TargetError as error:
        ctx.report_error("logins: log", error, expected="readable", not_observed=NOT_OBSERVED)
        return
    earlier = ctx.series("login_source")
    known = {(point.labels["user"], point.labels["source"], point.labels["key"]) for point in earlier}
    judging.judge_logins(
        ctx, review, since, known if ctx.series("reviewed_until", source="logins") else None, params.login_limits
    )
    ctx.save("logins.md", _told_logins(review, since))
    if whole:
        ctx.measure("reviewed_until", now.timestamp(), "s", source="logins")


def _read_logins(ctx: Context, params: Params, since: datetime, now: datetime) -> tuple[LoginReview, bool]:
    """What the host's log says, and whether all of it could be read."""
    root = host.connect(ctx.target("host", params.host)).target.root
    named = params.journal is not None or params.auth_log is not None
    places = [params.journal] if params.journal else [] if named else journal.find(root)
    path = params.auth_log or (None if named else auth_log.find(root))
    if places and (journal.available() or path is None):
        try:
            return _read_journal(ctx, params, places, since, now), True
        except TargetError as error:
            if path is None:
                raise
            ctx.log(f"the journal cannot be read, so {path} is: {error}")
    if path is None:
        raise TargetError(
            f"neither a journal nor an auth.log below {root}",
            "mount the host's /var/log and set targets.host.root, or set the param journal or auth_log",
            cause="not_configured",
        )
    review = LoginReview(now)
    zone = ZoneInfo(params.timezone) if params.timezone else auth_log.zone_of(root)
    found = auth_log.read(path, since, review, zone)
    ctx.check("logins: log", str(path), equals=str(path))
    judging.judge_extents(ctx, str(path), found.extents)
    judging.judge_log(ctx, found.newest, found.lines, found.unparsed, now, params.login_limits)
    if found.unread:
        told = printable("; ".join(found.unread))
        ctx.unknown("logins: files that could not be read", f"{len(found.unread)}", expected="0", hint=told)
    return review, not found.unread


def _read_journal(ctx: Context, params: Params, places: Sequence[Path], since: datetime, now: datetime) -> LoginReview:
    review = LoginReview(now)
    found = journal.read(places, since, review, min(ctx.remaining / 2, timedelta(minutes=5)))
    shown = ", ".join(str(place) for place in places)
    ctx.check("logins: log", shown, equals=shown)
    judging.judge_log(ctx, found.newest, found.lines, found.unparsed, now, params.login_limits)
    return review


def _review_requests(ctx: Context, params: Params) -> None:
    now = ctx.now()
    since = _since(ctx, params, "requests", now)
    found = Denials(since, now, params.status_fields, params.admin_paths)
    try:
        source = _read_requests(ctx, params, found)
    except TargetError as error:
        ctx.report_error("requests: logs", error, expected="readable", not_observed=NOT_OBSERVED)
        return
    ctx.check("requests: logs", source, equals=source)
    usual = [
        point.value
        for point in ctx.series("api_denied_total_24h")
        if now - point.at < timedelta(days=params.request_limits.usual_days)
    ]
    judging.judge_hearing(ctx, found, params.services, now, params.request_limits)
    judging.judge_requests(ctx, found, usual, params.request_limits)
    ctx.save("denied-requests.md", _told_requests(found, source))
    if not found.unread:
        ctx.measure("reviewed_until", now.timestamp(), "s", source="requests")


def _read_requests(ctx: Context, params: Params, found: Denials) -> str:
    """Read from the first source that is there; its name. Raises TargetError."""
    if params.folder is not None:
        folder.read(resolved(ctx.target("folders", params.folder)).path, found)
        return f"folder {params.folder}"
    if params.loki is not None:
        loki.read(ctx.target("http", params.loki), params.loki, params.loki_selector, found)
        return f"loki {params.loki}"
    engines = ctx.chosen("docker", params.docker)
    if not engines:
        raise TargetError(
            "no logs of services are known", "set the param folder or loki, or targets.docker", cause="not_configured"
        )
    for name in ctx.track(list(engines), unit="engine"):
        containers.read(ctx.target("docker", name), name, found)
    return f"docker {', '.join(engines)}"


def _since(ctx: Context, params: Params, source: str, now: datetime) -> datetime:
    """The begin of what is reviewed."""
    last = ctx.last("reviewed_until", None, source=source)
    since = now - params.window
    if last is not None:
        since = min(since, datetime.fromtimestamp(last, UTC))
    if since < now - params.longest:
        ctx.unknown(
            f"{source}: time without a review",
            f"from {instant(since)} until {instant(now - params.longest)}",
            expected=f"at most {params.longest.days} days back",
            hint="look at it by hand, or run once with a larger param longest",
        )
        since = now - params.longest
    return since


def _told_logins(review: LoginReview, since: datetime) -> str:
    failed = [(source, user, method, str(count)) for (source, user, method), count in review.by_attempt.top(SHOWN)]
    got_in = [
        (instant(item.at), item.user, item.source, item.method, str(item.failures))
        for item in review.successes[-SHOWN:]
    ]
    sudo = [(user, str(count)) for user, count in review.sudo_failures()[:SHOWN]]
    sources = review.all_of_source.distinct
    return "\n".join(
        [
            f"# Logins from {instant(since)} until {instant(review.until)}\n",
            f"{review.failures} failures from {sources} sources, {review.success_count} successes\n",
            _table("Failures", ("source", "user", "method", "times"), failed),
            _table("Successes, the latest", ("at", "user", "source", "method", "failures before"), got_in),
            _table("Failures at sudo and su", ("user", "times"), sudo),
        ]
    )


def _told_requests(found: Denials, source: str) -> str:
    rows = [
        (service, str(status), path, remote, str(count))
        for (service, status, path, remote), count in found.by_request.top(SHOWN)
    ]
    return "\n".join(
        [
            f"# Denied requests from {instant(found.since)} until {instant(found.until)}\n",
            f"{found.total} denied, {found.admin} of them on administrators' paths; read from {markdown(source)}\n",
            _table("Most often", ("service", "status", "path", "remote", "times"), rows),
        ]
    )


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown in which whatever strangers wrote is shown as it is."""
    if not rows:
        return f"## {title}\n\nnone\n"
    lines = [f"## {title}\n", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(markdown(printable(cell)) for cell in row)} |" for row in rows]
    return "\n".join([*lines, ""])
