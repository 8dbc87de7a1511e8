"""Report a configuration against its approved baseline."""

from __future__ import annotations

from dataclasses import dataclass, field

from maintd.checks.config_review.baselines import Baselines, Record
from maintd.checks.config_review.containers import CONFIG_HASH
from maintd.checks.config_review.snapshot import Difference, Seen, difference
from maintd.checks.hints import command, name_first
from maintd.errors import MaintdError
from maintd.job.context import Context
from maintd.reports.document import Cell, Section, Table, columns

ENTRY = "config-accept"
DRIFT = "as approved"
RULE = "NIST SP 800-53 Rev. 5, CM-2 and CM-3: changes of a baseline configuration are approved"
_SHOWN = 160  # characters of one path in a check
_IN_REPORT = 300


@dataclass
class Reviewed:
    """A subject after its comparison, for the report and the artifact."""

    seen: Seen
    approved: Record | None = None
    drift: Difference = field(default_factory=lambda: Difference({}, {}, {}))
    error: str = ""


def accept_command(digest: str) -> str:
    """How a person accepts exactly what was seen."""
    return command("maintd", "trigger", ENTRY, "-p", f"config_accept.digests={digest}", "-p", "config_accept.why=WHY")


def report(ctx: Context, seen: Seen, baselines: Baselines | None, unusable: str = "") -> Reviewed:
    """Report the parts that were not read, what is wrong by itself, and the drift from the baseline.

    unusable: why there is no comparison, although a folder is configured.
    """
    subject = seen.snapshot.subject
    ctx.report(seen.criteria, subject)
    if seen.snapshot.cut:
        ctx.unknown(f"{subject}: all of it was read", f"{seen.snapshot.cut} values beyond the limit were left out")
    for prefix, cause in seen.unread.items():
        ctx.unknown(f"{subject}: {prefix.rstrip('/')} can be read", cause)
    found = Reviewed(seen)
    name = f"{subject}: {DRIFT}"
    if baselines is None:
        hint = "set targets.folders.config_baselines to a folder that maintd may write"
        cause = "no place for approved baselines is configured"
        if unusable:
            hint, cause = "mend what the check of the baselines names", f"not compared: {unusable}"
        ctx.unknown(name, cause, expected="as approved", hint=hint, rule=RULE)
        return found
    try:
        unread = tuple(sorted(seen.unread))
        baselines.observe(seen.snapshot, ctx.now(), ctx.run_id, unread)
        found.approved = baselines.approved(subject)
    except MaintdError as error:
        found.error = str(error)
        ctx.report_error(name, error, expected="as approved")
        return found
    accept = accept_command(seen.snapshot.digest)
    if found.approved is None:
        hint = f"read it in config.json, then accept it: {accept}"
        ctx.unknown(name, "no approved baseline", expected="as approved", hint=hint, rule=RULE)
        return found
    left_out = (*seen.unread, *found.approved.unread)
    found.drift = difference(found.approved.values, seen.snapshot.values, left_out)
    _report_drift(ctx, name, found, accept)
    if subject.startswith("docker "):
        _report_beside(ctx, subject, found)
    return found


def _report_drift(ctx: Context, name: str, found: Reviewed, accept: str) -> None:
    drift, seen = found.drift, found.seen
    if drift.count:
        counts = f"{len(drift.changed)} changed, {len(drift.added)} added, {len(drift.removed)} removed"
        lines = name_first([line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…" for line in drift.lines()])
        hint = f"undo what was not wanted (all of it is in config.json); accept what was: {accept}"
        ctx.fail(name, f"{counts}: {lines}", expected="as approved", hint=hint, rule=RULE)
    elif seen.unread or seen.snapshot.cut:
        parts = ", ".join(prefix.rstrip("/") for prefix in seen.unread) or "the rest"
        ctx.unknown(name, f"what was read is; not read: {parts}", expected="as approved", rule=RULE)
    elif found.approved is not None and found.approved.unread:
        parts = ", ".join(prefix.rstrip("/") for prefix in found.approved.unread)
        hint = f"accept it again, now that all of it can be read: {accept}"
        ctx.unknown(name, f"the baseline lacks {parts}", expected="as approved", hint=hint, rule=RULE)
    else:
        ctx.passed(name, "as approved", expected="as approved", rule=RULE)


def _report_beside(ctx: Context, subject: str, found: Reviewed) -> None:
    """Containers that differ although compose would make the same: they were changed or replaced beside it."""
    changed = {path.partition("/")[0] for path in found.drift.paths if not path.endswith("/image id")}
    before = found.approved.values if found.approved is not None else {}
    now = found.seen.snapshot.values
    beside = []
    for label in sorted(changed):
        path = f"{label}/labels/{CONFIG_HASH}"
        if path in before and before[path] == now.get(path):
            fields = [item.partition("/")[2] for item in found.drift.paths if item.startswith(f"{label}/")]
            beside.append(f"{label}: {name_first(fields)}")
    ctx.check(
        f"{subject}: nothing was changed beside compose",
        name_first(beside) or "nothing was",
        equals="nothing was",
        hint="docker compose up -d --force-recreate SERVICE undoes it; or write the change into the file",
        rule="Docker Compose: com.docker.compose.config-hash changes with the service's configuration",
    )


def section(found: list[Reviewed], window: str) -> Section:
    """The report's own part: what is approved, and every path that differs."""
    rows = []
    for item in found:
        accepted = item.approved.accepted if item.approved is not None else None
        rows.append(
            (
                Cell(item.seen.snapshot.subject),
                Cell(f"{len(item.seen.snapshot.values):,}", len(item.seen.snapshot.values)),
                Cell(item.seen.snapshot.digest[:12]),
                Cell(f"{accepted.at:%Y-%m-%d} by {accepted.by}: {accepted.why}" if accepted else "never"),
                Cell("–") if item.approved is None else Cell(f"{item.drift.count:,}", item.drift.count),
            )
        )
    tables = [
        Table(
            f"Configuration by subject, {window}",
            columns("Subject", "Values>", "Digest", "Approved", "Differ>"),
            tuple(rows),
            "Nothing was read.",
        )
    ]
    none = "Nothing of what has a baseline." if any(item.approved for item in found) else "Nothing has a baseline yet."
    lines = [(item.seen.snapshot.subject, line) for item in found for line in item.drift.lines()]
    shown = tuple((Cell(subject), Cell(line)) for subject, line in lines[:_IN_REPORT])
    tables.append(Table("What differs from the approved baseline", columns("Subject", "Path"), shown, none))
    more = len(lines) - len(shown)
    notes = (f"{more:,} more are in config.json.",) if more > 0 else ()
    return Section("Configuration", tables=tuple(tables), notes=notes)


def evidence(found: list[Reviewed]) -> list[dict[str, object]]:
    """Plain data about each subject, without secrets."""
    return [
        {
            "subject": item.seen.snapshot.subject,
            "digest": item.seen.snapshot.digest,
            "approved": None if item.approved is None else item.approved.digest,
            "accepted": None
            if item.approved is None or item.approved.accepted is None
            else item.approved.accepted.model_dump(mode="json"),
            "unread": dict(item.seen.unread),
            "added": dict(item.drift.added),
            "removed": dict(item.drift.removed),
            "changed": {path: {"old": old, "new": new} for path, (old, new) in item.drift.changed.items()},
            "values": dict(item.seen.snapshot.values),
        }
        for item in found
    ]
