"""Counting what strangers choose the names of: bounded, and whole in its sum."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
MOST_KEYS = 50_000  # of one tally: about 10 MB


class Tally(Generic[K]):
    """Counts by key. Keys that come after the first `MOST_KEYS` are only counted together, as `others`."""

    def __init__(self, most: int = MOST_KEYS) -> None:
        self._counts: dict[K, int] = {}
        self._most = most
        self.others = 0

    def add(self, key: K, times: int = 1) -> None:
        """Count; a negative number takes back."""
        if key in self._counts or len(self._counts) < self._most:
            self._counts[key] = self._counts.get(key, 0) + times
        else:
            self.others += times

    def top(self, count: int) -> list[tuple[K, int]]:
        """The largest, those of the same count in the order of their keys' text."""
        kept = [(key, number) for key, number in self._counts.items() if number > 0]
        return sorted(kept, key=lambda item: (-item[1], str(item[0])))[:count]

    def of(self, key: K) -> int:
        """How often so far."""
        return self._counts.get(key, 0)

    @property
    def distinct(self) -> int:
        """How many keys, of those kept."""
        return sum(1 for number in self._counts.values() if number > 0)

    @property
    def total(self) -> int:
        """All that was counted."""
        return sum(self._counts.values()) + self.others
