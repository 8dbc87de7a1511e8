"""What a child is told of the attempt that it is to make."""

from __future__ import annotations

import pickle
from datetime import datetime

import structlog

from maintd.errors import StoreError
from maintd.executor.child_protocol import AttemptOrder
from maintd.executor.means import Means
from maintd.job.context import AttemptInfo, Point
from maintd.model.job import JobDescription
from maintd.model.run import Run
from maintd.units import utc_text

log = structlog.get_logger()


def order_for(
    run: Run, index: int, job: JobDescription, means: Means, *, attempt: int, deadline_at: datetime, folder: str
) -> AttemptOrder:
    """For an attempt at one step of a run. `folder` is the run's own below the artifacts and the work folder."""
    plan, settings = run.plan[index], means.settings
    environ = {
        "MAINTD_RUN_ID": str(run.id),
        "MAINTD_ENTRY": run.entry,
        "MAINTD_STEP": plan.name,
        "MAINTD_ATTEMPT": str(attempt),
    }
    if run.due_at is not None:
        environ["MAINTD_DUE_AT"] = utc_text(run.due_at)
    standing = AttemptInfo(
        run_id=run.id,
        entry=run.entry,
        step=plan.name,
        attempt=attempt,
        due_at=run.due_at,
        deadline_at=deadline_at,
        dry_run=run.dry_run,
        artifacts_dir=settings.artifacts_dir.absolute().joinpath(folder, plan.name, str(attempt)),
        work_dir=settings.state_dir.absolute().joinpath("work", f"{folder}.{index}.{attempt}"),
        budget=job.budget,
        series=_series(run, plan.name, job, means),
        reports_dir=settings.reports_dir,
    )
    return AttemptOrder(job.path, plan.params, standing, pickle.dumps(means.targets()), environ)


def _series(run: Run, step: str, job: JobDescription, means: Means) -> dict[str, tuple[Point, ...]]:
    try:
        return means.series(run.entry, job)
    except StoreError as error:
        log.warning("earlier_measures_unknown", run=run.id, step=step, error=str(error))
        return {}
