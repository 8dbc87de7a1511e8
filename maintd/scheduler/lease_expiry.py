"""Mark runs as lost when the process that supervised them is gone. They are never started again automatically."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from maintd.model.run import RunSummary
from maintd.store import Store


def mark_expired_lost(store: Store, now: datetime, supervised: Collection[int] = ()) -> list[RunSummary]:
    """Mark runs whose lease has expired as lost; return those that this call marked.

    `supervised` are ids of runs that this process supervises: after a suspend their leases have expired too, but they
    are not lost.
    """
    lost = []
    for run in store.runs.expired(now):
        if run.id in supervised:
            continue
        reason = f"node {run.node} stopped renewing the lease; what the run did after that is unknown"
        if store.runs.mark_lost(run.id, run.fence, reason, now, if_expired=True):
            lost.append(run)
    return lost


def mark_interrupted_lost(store: Store, node: str, incarnation: str, now: datetime) -> list[RunSummary]:
    """Mark runs that an earlier process of this node had claimed as lost; return those that this call marked."""
    reason = "the daemon ended during the run; its processes were stopped, what they had done is unknown"
    return [
        run
        for run in store.runs.claimed_by_earlier_process(node, incarnation)
        if store.runs.mark_lost(run.id, run.fence, reason, now)
    ]
