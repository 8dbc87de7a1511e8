"""Markdown summaries of login events and denied requests, saved as artifacts of the run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from maintd.checks.hints import printable
from maintd.checks.logs.denied_requests import DeniedRequests
from maintd.checks.logs.logins import LoginSummary
from maintd.reports.formatting import instant, markdown

_ROWS = 20


def logins_markdown(summary: LoginSummary, since: datetime) -> str:
    """The most frequent failures, the latest successes, and failures at sudo and su."""
    failed = [(source, user, method, str(count)) for (source, user, method), count in summary.by_attempt.top(_ROWS)]
    succeeded = [(instant(item.at), item.user, item.source, item.method, str(item.failures)) for item in summary.latest]
    sudo = [(user, str(count)) for user, count in summary.sudo_failures()[:_ROWS]]
    sources = f"{'more than ' if summary.by_source.overflowed else ''}{summary.by_source.distinct}"
    return "\n".join(
        [
            f"# Logins from {instant(since)} until {instant(summary.until)}\n",
            f"{summary.failures} failures from {sources} sources, {summary.success_count} successes\n",
            _table("Failures", ("source", "user", "method", "times"), failed),
            _table("Latest successes", ("at", "user", "source", "method", "failures before"), succeeded),
            _table("Failures at sudo and su", ("user", "times"), sudo),
        ]
    )


def requests_markdown(found: DeniedRequests, source: str) -> str:
    """The most frequent denied requests. source: where the logs were read."""
    rows = [
        (service, str(status), path, remote, str(count))
        for (service, status, path, remote), count in found.by_request.top(_ROWS)
    ]
    return "\n".join(
        [
            f"# Denied requests from {instant(found.since)} until {instant(found.until)}\n",
            f"{found.total} denied, {found.admin} of them on administrators' paths; read from {markdown(source)}\n",
            _table("Most frequent", ("service", "status", "path", "remote", "times"), rows),
        ]
    )


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Make a Markdown table; every cell is escaped."""
    if not rows:
        return f"## {title}\n\nnone\n"
    lines = [f"## {title}\n", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(markdown(printable(cell)) for cell in row)} |" for row in rows]
    return "\n".join([*lines, ""])
