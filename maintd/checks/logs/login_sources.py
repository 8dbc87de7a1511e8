"""Reads login events from the host's journal or auth.log, whichever is available."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from maintd.checks.hints import printable
from maintd.checks.logs import auth_log, evaluate, journal
from maintd.checks.logs.evaluate import LoginLimits
from maintd.checks.logs.logins import LoginSummary
from maintd.checks.logs.unfamiliar_logins import LoginForms
from maintd.errors import TargetError
from maintd.job.context import Context


def read_logins(
    ctx: Context,
    root: Path,
    since: datetime,
    now: datetime,
    limits: LoginLimits,
    *,
    journal_path: Path | None,
    auth_log_path: Path | None,
    timezone: str | None,
    forms: LoginForms,
    counted_since: datetime | None = None,
) -> tuple[LoginSummary, bool]:
    """Read and check the log of logins; return its summary and whether all of it could be read.

    counted_since: the end of what earlier reviews have counted. Without paths the journal below `root`
    is read if journalctl is installed, else auth.log. Raises TargetError.
    """
    configured = journal_path is not None or auth_log_path is not None
    path = auth_log_path or (None if configured else auth_log.find(root))
    try:
        places = [journal_path] if journal_path else [] if configured else journal.find(root)
    except TargetError as error:
        if path is None:
            raise
        ctx.log(f"the journal cannot be read, reading {path} instead: {error}")
        places = []
    if places and (journal.available() or path is None):
        try:
            return _read_journal(ctx, places, since, now, limits, forms, counted_since), True
        except TargetError as error:
            if path is None:
                raise
            ctx.log(f"the journal cannot be read, reading {path} instead: {error}")
    if path is None:
        raise TargetError(
            f"neither a journal nor an auth.log below {root}",
            "mount the host's /var/log and set targets.host.root, or set the param journal or auth_log",
            cause="not_configured",
        )
    summary = LoginSummary(now, limits.failures_before_success, counted_since)
    zone = ZoneInfo(timezone) if timezone else auth_log.zone_of(root)
    found = auth_log.read(path, since, summary, zone, forms, root if auth_log_path is None else Path("/"))
    ctx.check("logins: log", str(path), equals=str(path))
    evaluate.report_log_change(ctx, str(path), found.states)
    evaluate.report_log(ctx, found.newest, found.tally, now, limits)
    summary.possible_successes = found.tally.possible_successes
    summary.not_understood = found.tally.missing(
        "lines about logins", at_most_share=limits.unparsed_percent / 100, at_least=limits.failures_warn
    )
    if found.unread:
        errors = printable("; ".join(found.unread))
        ctx.unknown("logins: files that could not be read", f"{len(found.unread)}", expected="0", hint=errors)
    return summary, not found.unread


def _read_journal(
    ctx: Context,
    places: Sequence[Path],
    since: datetime,
    now: datetime,
    limits: LoginLimits,
    forms: LoginForms,
    counted_since: datetime | None,
) -> LoginSummary:
    summary = LoginSummary(now, limits.failures_before_success, counted_since)
    found = journal.read(places, since, summary, min(ctx.remaining / 2, timedelta(minutes=5)), forms)
    log = ", ".join(str(place) for place in places)
    ctx.check("logins: log", log, equals=log)
    evaluate.report_log(ctx, found.newest, found.tally, now, limits)
    summary.possible_successes = found.tally.possible_successes
    summary.not_understood = found.tally.missing(
        "lines about logins", at_most_share=limits.unparsed_percent / 100, at_least=limits.failures_warn
    )
    return summary
