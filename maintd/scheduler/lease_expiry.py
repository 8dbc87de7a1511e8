"""Runs that nobody supervises any more become lost: nobody knows what they did, and none is started again silently."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from maintd.model.run import RunSummary
from maintd.store import Store


def lose_silent(store: Store, now: datetime, own: Collection[int] = ()) -> list[RunSummary]:
    """Runs whose node stopped renewing the lease become lost; those that this call settled are returned.

    `own` are runs that this process holds: after a suspend their leases are over too, and they are not lost.
    """
    lost = []
    for run in store.runs.expired(now):
        if run.id in own:
            continue
        reason = f"node {run.node} stopped renewing the lease; what it did after that is unknown"
        if store.runs.mark_lost(run.id, run.fence, reason, now, if_expired=True):
            lost.append(run)
    return lost


def lose_own_past(store: Store, node: str, incarnation: str, now: datetime) -> list[RunSummary]:
    """Runs that an earlier process of this node had claimed become lost at once; those that this call settled."""
    reason = "the daemon ended while this ran; its processes were stopped, what they had done is unknown"
    return [
        run
        for run in store.runs.claimed_by_earlier_process(node, incarnation)
        if store.runs.mark_lost(run.id, run.fence, reason, now)
    ]
