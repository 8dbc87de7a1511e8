"""Review login attempts and denied requests.

Logins, sudo and su are read from systemd's journal, or from auth.log with its rotated files. Denied requests (401 and
403) are read from the logs of services, in a folder, Loki or the Docker engine, by the field with the status, never by
digits. A log that is missing or silent is unknown, one that was truncated fails. Read-only.

A run reviews the last day, or everything since the last complete review when that is longer ago. Lines are selected by
their time, not by a position in a file, so a restart, a rotation or a missed day loses nothing.

Runbook: Daily Maintenance, Morning Health Check, 4 Security Log Review
"""

from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator

from maintd.checks.host.mounted import has_folder, not_mounted
from maintd.checks.logs import containers, evaluate, folder, loki
from maintd.checks.logs.access_log import STATUS_FIELDS
from maintd.checks.logs.artifacts import logins_markdown, requests_markdown
from maintd.checks.logs.denied_requests import DeniedRequests
from maintd.checks.logs.evaluate import LoginLimits, RequestLimits, window_start
from maintd.checks.logs.login_sources import read_logins
from maintd.checks.logs.loki import SELECTOR
from maintd.checks.logs.unfamiliar_logins import LoginForms
from maintd.checks.probes import isolate_errors
from maintd.checks.requirements.jobs.security import security_log_review as requirements
from maintd.clients import host
from maintd.job import Context, Duration, JobParams, MaintdError, TargetError, job
from maintd.job.references import resolved


class Params(JobParams):
    logins: bool = True
    """Review logins."""
    requests: bool = True
    """Review denied requests."""
    host: str | None = None
    """Host target whose logins are reviewed; default: the only one, or `main`."""
    journal: Path | None = None
    """Folder or file of the journal; default: the host's, if journalctl is installed."""
    auth_log: Path | None = None
    """Log of logins; default: the host's auth.log or secure, if there is no journal."""
    timezone: str | None = None
    """Time zone of times without a zone; default: the host's."""
    folder: str | None = None
    """Folder target with the logs of services. Only one source is read: folder, else loki, else docker."""
    loki: str | None = None
    """HTTP target of Loki."""
    loki_selector: str = SELECTOR
    """Stream selector for the logs of services in Loki."""
    docker: tuple[str, ...] = ()
    """Docker targets whose container logs are read; default: all."""
    services: tuple[str, ...] = ()
    """Services that log something every day."""
    status_fields: tuple[str, ...] = Field(STATUS_FIELDS, min_length=1)
    """Fields of JSON logs with the status; a dotted path selects a nested field."""
    admin_paths: tuple[str, ...] = ("/admin",)
    """Administrators' paths, with all paths below them."""
    window: Duration = Field(timedelta(days=1), ge=timedelta(hours=1))
    """Time to review, at least."""
    longest: Duration = timedelta(days=7)
    """Time to review, at most, after a time without runs."""
    login_forms: LoginForms = LoginForms()
    """Further forms of messages about logins; a message of unknown form that may be a success is unknown."""
    login_limits: LoginLimits = LoginLimits()
    """When login attempts need attention."""
    request_limits: RequestLimits = RequestLimits()
    """When denied requests need attention."""

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                ZoneInfo(value)
            except (OSError, ValueError) as error:
                raise ValueError(f'"{value}" is not a time zone') from error
        return value


_CHECKS = {"logins": "logins: log", "requests": "requests: logs"}


@job(timeout="15m", repeatable=True, requires=requirements)
def run(ctx: Context, params: Params) -> None:
    unread: dict[str, MaintdError] = {}
    if params.logins:
        with ctx.phase("review logins"), isolate_errors(ctx, "logins: log"):
            review_logins(ctx, params, unread)
    if params.requests:
        with ctx.phase("review denied requests"), isolate_errors(ctx, "requests: logs"):
            review_requests(ctx, params, unread)
    if len(unread) == params.logins + params.requests and all(
        evaluate.was_never_configured(ctx, error, source) for source, error in unread.items()
    ):
        hint = "mount the host's logs, or set targets.docker"
        raise TargetError("there are no logs to review", hint, cause="not_configured")
    for source, error in unread.items():
        evaluate.report_unread(ctx, _CHECKS[source], error, source)


def review_logins(ctx: Context, params: Params, unread: dict[str, MaintdError]) -> None:
    """Read and check the host's login events; an error of the log is added to `unread`."""
    now = ctx.now()
    since = window_start(ctx, "logins", now, params.window, params.longest)
    target = host.connect(ctx.target("host", params.host)).target
    if params.journal is None and params.auth_log is None and not has_folder(target, "var/log"):
        unread["logins"] = not_mounted("its log of logins")
        return
    try:
        summary, complete = read_logins(
            ctx,
            target.root,
            since,
            now,
            params.login_limits,
            journal_path=params.journal,
            auth_log_path=params.auth_log,
            timezone=params.timezone,
            forms=params.login_forms,
            counted_since=evaluate.counted_since(ctx, since),
        )
    except MaintdError as error:
        unread["logins"] = error
        return
    evaluate.report_logins(ctx, summary, since, params.login_limits)
    ctx.save("logins.md", logins_markdown(summary, since))
    if complete:
        evaluate.keep_logins(ctx, summary)
        ctx.measure("reviewed_until", now.timestamp(), "s", source="logins")


def review_requests(ctx: Context, params: Params, unread: dict[str, MaintdError]) -> None:
    """Read and check the denied requests of the services; an error of the logs is added to `unread`."""
    now = ctx.now()
    since = window_start(ctx, "requests", now, params.window, params.longest)
    found = DeniedRequests(since, now, params.status_fields, params.admin_paths)
    try:
        source = read_requests(ctx, params, found)
    except MaintdError as error:
        unread["requests"] = error
        return
    ctx.check("requests: logs", source, equals=source)
    evaluate.report_activity(ctx, found, params.services, now, params.request_limits)
    evaluate.report_requests(ctx, found, now, params.request_limits)
    ctx.save("denied-requests.md", requests_markdown(found, source))
    if not found.unread:
        ctx.measure("reviewed_until", now.timestamp(), "s", source="requests")


def read_requests(ctx: Context, params: Params, found: DeniedRequests) -> str:
    """Read the first source that is configured, and return its name. Raises TargetError."""
    if params.folder is not None:
        folder.read(resolved(ctx.target("folders", params.folder)).path, found)
        return f"folder {params.folder}"
    if params.loki is not None:
        loki.read(ctx.target("http", params.loki), params.loki, params.loki_selector, found)
        return f"loki {params.loki}"
    engines = ctx.chosen("docker", params.docker)
    if not engines:
        raise TargetError(
            "no logs of services are configured",
            "set the param folder or loki, or targets.docker",
            cause="not_configured",
        )
    containers.read_all(engines, found)
    return f"docker {', '.join(engines)}"
