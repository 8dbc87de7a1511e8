"""The daily digest: what ran, what was found, and what is not over yet."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy.engine import Connection

from maintd.model.finding import GoneReason
from maintd.model.notice import Incident, NoticeKind, NotifyConfig
from maintd.model.records import ChainHead
from maintd.notify import messages
from maintd.notify.incident_writer import IncidentWriter, notices_of
from maintd.notify.messages import Around, Text
from maintd.operations.period import summary_of
from maintd.present import utc_minute
from maintd.present.notices import subject_text
from maintd.schedule import compile_rule, due_between
from maintd.store import Store
from maintd.store.notices import add_notices, open_incidents
from maintd.store.period import FindingSummary, PeriodSummary, finding_summary
from maintd.store.records import chain_head
from maintd.units import plural, utc_text

LATEST_DIGEST = timedelta(hours=6)
"""A digest that could not be made for so long is left out."""


def make_digest(store: Store, writer: IncidentWriter, config: NotifyConfig, now: datetime) -> int:
    """Write the digest that is due to the channels that have not got it; return the number of new notices."""
    if config.digest is None:
        return 0
    due = due_between(compile_rule(config.digest.rule), now - LATEST_DIGEST, now).times
    if not due:
        return 0
    at = due[-1]
    key = f"digest:{utc_text(at)}"
    missing = [name for name in config.digest.to if store.notices.notice(f"{key}:{name}") is None]
    if not missing:
        return 0

    def transaction(conn: Connection) -> int:
        since = at - timedelta(days=1)
        summary, findings = summary_of(conn, config, since, at, now), finding_summary(conn, since, at)
        text = digest_text(summary, findings, open_incidents(conn), at, writer.around(conn), chain_head(conn))
        new = notices_of(config, NoticeKind.DIGEST, missing, key, text, None, now, critical=True)
        return add_notices(conn, [notice.model_copy(update={"critical": False}) for notice in new], now)

    return store.write(transaction)


def digest_text(
    summary: PeriodSummary,
    findings: FindingSummary,
    opened: Sequence[Incident],
    at: datetime,
    around: Around,
    head: ChainHead | None = None,
) -> Text:
    """`23 ran, 21 ok, 1 warned, 1 failed, 0 late, 0 missed`, the findings, and what is not over yet; and the head of
    the chain of records, so that it is kept outside the store."""
    counts = [f"{summary.ran:,} ran", f"{summary.ok:,} ok", f"{summary.warned:,} warned"]
    counts += [f"{summary.unknown:,} unknown"] if summary.unknown else []
    counts += [f"{summary.failed:,} failed"]
    counts += [f"{summary.cancelled:,} cancelled"] if summary.cancelled else []
    counts += [f"{summary.late:,} late", f"{summary.missed:,} missed"]
    title = ", ".join(counts)
    lines = [f"The day until {utc_minute(at)}: {title}."]
    lines.append(f"Findings: {findings.new:,} new, {findings.old:,} old, {gone_text(findings)}.")
    if opened:
        lines += ["", f"{plural(len(opened), 'open incident')}:"]
        lines += [
            f"  {subject_text(incident.subject)}, {incident.kind.replace('_', ' ')} since "
            f"{utc_minute(incident.opened_at)}: {incident.why.splitlines()[0] if incident.why else ''}"
            for incident in opened[: messages.MOST_LINES]
        ]
    lines += ["", "type    maintd status"]
    if around.page:
        lines.append(f"page    {around.page}/")
    details = {"entry": None, "page": around.page or None, "until": utc_text(at), "summary": summary._asdict()}
    details["findings"] = findings._asdict()
    if head is not None:
        lines.append(f"head    record {head.record}, {head.head}")
        details["chain"] = {"record": head.record, "head": head.head}
    return Text(title, "\n".join(lines), details)


def gone_text(findings: FindingSummary) -> str:
    """`3 gone: 1 passed, 2 no longer reported`; only one that passed was observed to be over."""
    reasons = [
        f"{count:,} {reason.text}"
        for reason, count in zip(
            GoneReason, (findings.passed, findings.not_reported, findings.not_in_calendar), strict=True
        )
        if count
    ]
    return f"{findings.gone:,} gone" + (f": {', '.join(reasons)}" if reasons else "")
