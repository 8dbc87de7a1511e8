"""A cache of the evidence of ended runs. Their evidence never changes, so that a scrape reads only new runs."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

from maintd.model.evidence import CheckStatus, Measure
from maintd.model.run import Run
from maintd.operations import OperatorService


class Evidence(NamedTuple):
    """From the last attempt of each step of a run: checks by status, and measures with the name of their job."""

    findings: dict[CheckStatus, int]
    measures: tuple[tuple[str, Measure], ...]


class EvidenceCache:
    """Evidence by run id. Thread-safe; two scrapes at the same time may read the same run twice."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._evidence: dict[int, Evidence] = {}

    def get(self, service: OperatorService, run_ids: Collection[int]) -> dict[int, Evidence]:
        """The evidence of these runs, which must have ended; others leave the cache. Omits pruned runs."""
        with self._lock:
            known = {run_id: self._evidence[run_id] for run_id in run_ids if run_id in self._evidence}
        for run_id in run_ids:
            if run_id not in known:
                run = service.store.history.run(run_id)
                if run is not None:
                    known[run_id] = evidence_of(run)
        with self._lock:
            self._evidence = known
        return known


def evidence_of(run: Run) -> Evidence:
    """Summarize the evidence of one run."""
    last = [(step.job, step.attempts[-1]) for step in run.steps if step.attempts]
    counts = Counter(check.status for _, attempt in last for check in attempt.checks)
    return Evidence(
        findings={status: counts[status] for status in CheckStatus},
        measures=tuple((job, measure) for job, attempt in last for measure in attempt.measures),
    )
