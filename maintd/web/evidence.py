"""What ended runs found, kept between scrapes: it never changes, and a scrape shall not read it again each time."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

from maintd.model.evidence import CheckStatus, Measure
from maintd.model.run import Run
from maintd.operations import OperatorService


class Evidence(NamedTuple):
    """Of the last attempt of each step of a run: checks by status, and measures with the job that made them."""

    findings: dict[CheckStatus, int]
    measures: tuple[tuple[str, Measure], ...]


class EvidenceCache:
    """Evidence by run. Thread-safe: two scrapes at once at worst read a run twice."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of_run: dict[int, Evidence] = {}

    def of(self, service: OperatorService, run_ids: Collection[int]) -> dict[int, Evidence]:
        """For these runs, which have ended; others are forgotten. A run that was pruned meanwhile is left out."""
        with self._lock:
            known = {run_id: self._of_run[run_id] for run_id in run_ids if run_id in self._of_run}
        for run_id in run_ids:
            if run_id not in known:
                run = service.store.history.run(run_id)
                if run is not None:
                    known[run_id] = evidence_of(run)
        with self._lock:
            self._of_run = known
        return known


def evidence_of(run: Run) -> Evidence:
    """What a run found."""
    last = [(step.job, step.attempts[-1]) for step in run.steps if step.attempts]
    found = Counter(check.status for _, attempt in last for check in attempt.checks)
    return Evidence(
        findings={status: found[status] for status in CheckStatus},
        measures=tuple((job, measure) for job, attempt in last for measure in attempt.measures),
    )
