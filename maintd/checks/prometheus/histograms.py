"""Quantiles of Prometheus histograms; a quantile above the highest finite bucket is marked as a lower bound."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Buckets = Mapping[float, float]
"""Cumulative counts by upper bound; the last bound is infinity."""


@dataclass(frozen=True)
class Quantile:
    """A quantile. `at_least`: it is above the highest finite bound, which is `value`."""

    value: float
    at_least: bool = False


def quantile(buckets: Buckets, part: float) -> Quantile | None:
    """Interpolate a quantile linearly within its bucket, as `histogram_quantile` does; None without observations.

    part: the quantile, 0 to 1.
    Source: prometheus/promql/quantile.go.
    """
    bounds = sorted(buckets)
    whole = buckets[bounds[-1]] if bounds else 0.0
    if not whole > 0 or not math.isinf(bounds[-1]):
        return None
    rank = part * whole
    below, count_below, highest = 0.0, 0.0, 0.0  # rounding errors of rates may make a higher bucket smaller
    for bound in bounds:
        count = max(buckets[bound], highest)
        if count >= rank:
            if math.isinf(bound):
                return Quantile(below, at_least=True)
            if count == count_below:
                return Quantile(bound)
            return Quantile(below + (bound - below) * (rank - count_below) / (count - count_below))
        below, count_below, highest = bound, count, count
    return Quantile(below, at_least=True)


def added(several: Iterable[Buckets]) -> dict[float, float]:
    """Return the sum of histograms with the same bounds."""
    total: dict[float, float] = {}
    for buckets in several:
        for bound, count in buckets.items():
            total[bound] = total.get(bound, 0.0) + count
    return total
