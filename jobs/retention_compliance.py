"""Check that data is kept as long as it must be, and no longer than it may be, by a policy for each class.

Runbook: Monthly Maintenance, Security Review, 5 Compliance Check

A class is a folder with dated files, backup sets, a table, a Redis stream, Prometheus, Loki, or what maintd keeps. What
is missing fails, what is too old warns; under a legal hold nothing is too old and nothing may be missing. The runbook's
`find -mtime +90` lists files by their modification time, which a copy changes: here the date in the name counts, and a
conflict is named. Nothing is deleted: the hint names the job that does. Not examined: the data of Loki, and journald.
"""

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from maintd.checks.probes import Probe, collect_all, isolate_errors
from maintd.checks.requirements.jobs.security import retention_compliance as requirements
from maintd.checks.retention import evaluate, observed
from maintd.checks.retention.evaluate import Reviewed
from maintd.checks.retention.observed import Observed
from maintd.checks.retention.policy import DataClass
from maintd.job import Context, Duration, JobParams, MaintdError, Size, TargetError, job
from maintd.job.causes import Role
from maintd.reports.review_report import publish_review


class Params(JobParams):
    classes: dict[str, DataClass] = {}
    """The policy by the name of the class."""
    statement_timeout: Duration = timedelta(seconds=30)
    """Limit of each query of a table."""
    scan_at_most: Size = 256 << 20
    """The largest table that is read as a whole, for lack of an index that begins with its column."""
    keep: int = 24
    """How many reports the reports folder keeps."""


@job(timeout="15m", repeatable=True, history=2000, history_of="job", reads_findings=True, requires=requirements)
def run(ctx: Context, params: Params) -> None:
    """Read all classes at once, then compare each with its policy."""
    if not params.classes:
        hint = "set the param classes: a policy for each class of data (docs/retention.md)"
        raise TargetError("no class of data has a policy", hint, cause="not_configured")
    found = list[Reviewed]()
    with ctx.phase("read the oldest and newest data"):
        results = list(collect_all(list(probes(ctx, params))))
    now = ctx.now()
    for probe, facts in results:
        with ctx.phase(f"check {probe.name}"):
            found.append(report(ctx, probe.name, params.classes[probe.name], facts, now))
    ctx.save("retention.json", json.dumps([evidence(one) for one in found], indent=1), "application/json")
    sections = [evaluate.section(one, now) for one in found]
    publish_review(ctx, kind="retention-compliance", title="Retention compliance", sections=sections, keep=params.keep)


def probes(ctx: Context, params: Params) -> Iterator[Probe]:
    """What to read of each class. A target that is not configured is the error of its class."""
    for name, policy in params.classes.items():
        yield Probe("class", name, partial(read, ctx, params, policy), min(ctx.remaining * 0.7, timedelta(minutes=5)))


def read(ctx: Context, params: Params, policy: DataClass) -> Observed:
    """Read one class. Raises TargetError."""
    reads: dict[str, Callable[[], Observed]] = {
        "folder": lambda: observed.read_folder(ctx.target("folders", policy.folder).path, policy.pattern),
        "backup_sets": lambda: observed.read_sets(ctx.target("folders", policy.backup_sets).path),
        "table": lambda: observed.read_table(
            ctx.target("postgres", policy.server),
            f"postgres {policy.server}",
            policy.table or "",
            policy.column,
            params.statement_timeout,
            params.scan_at_most,
        ),
        "stream": lambda: observed.read_stream(
            ctx.target("redis", policy.server), f"redis {policy.server}", policy.stream or ""
        ),
        "prometheus": lambda: observed.read_prometheus(
            ctx.target("prometheus", policy.prometheus), f"prometheus {policy.prometheus}"
        ),
        "loki": lambda: observed.read_loki(ctx.target("http", policy.loki), str(policy.loki)),
        "reports": lambda: read_reports(ctx, policy),
        "history": lambda: read_history(ctx),
    }
    return reads[policy.kind]()


def read_reports(ctx: Context, policy: DataClass) -> Observed:
    """The reports that maintd has written, by the date in their name."""
    if ctx.reports_dir is None:
        raise TargetError("there is no reports folder", "set MAINTD_REPORTS_DIR", cause="not_configured")
    return observed.read_folder(ctx.reports_dir, policy.pattern)


def read_history(ctx: Context) -> Observed:
    """What the store has of this job's earlier runs."""
    points = ctx.series(evaluate.VIOLATIONS)
    if not points:
        raise TargetError("no earlier run of this job is recorded", "it is known from its second run on", cause="empty")
    return Observed(len(points), points[0].at, points[-1].at)


def report(ctx: Context, name: str, policy: DataClass, facts: Any, now: datetime) -> Reviewed:
    """Report one class, or why it was not read."""
    found = Reviewed(name, policy)
    with isolate_errors(ctx, f"{name}: can be read", expected="its oldest data", role=Role.SOURCE):
        if isinstance(facts, MaintdError):
            found.outcome.append(f"unknown: {facts.message}")
            raise facts
        evaluate.report_class(ctx, found, facts, now)
    return found


def evidence(found: Reviewed) -> dict[str, Any]:
    """Plain data about one class."""
    seen = found.seen
    return {
        "class": found.name,
        "policy": found.policy.model_dump(mode="json", exclude_defaults=True),
        "outcome": found.outcome,
        "violations": found.violations,
        "items": None if seen is None else seen.count,
        "oldest_at": None if seen is None or seen.oldest_at is None else seen.oldest_at.isoformat(),
        "newest_at": None if seen is None or seen.newest_at is None else seen.newest_at.isoformat(),
        "conflicts": [] if seen is None else [item.name for item in seen.items if item.conflicts][:1000],
    }
