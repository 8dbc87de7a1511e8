"""A counter with a bounded number of keys, for keys that come from untrusted input."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
MAX_KEYS = 50_000  # of one counter: about 10 MB


class BoundedCounter(Generic[K]):
    """Counts by key. Once there are `most` keys, further ones are counted together as `others`."""

    def __init__(self, most: int = MAX_KEYS) -> None:
        self._counts: dict[K, int] = {}
        self._most = most
        self.others = 0

    def add(self, key: K, times: int = 1) -> None:
        """Add to a key's count; `times` may be negative."""
        if key in self._counts or len(self._counts) < self._most:
            self._counts[key] = self._counts.get(key, 0) + times
        else:
            self.others += times

    def top(self, count: int) -> list[tuple[K, int]]:
        """Return the largest counts with their keys, equal ones sorted by key."""
        kept = [(key, number) for key, number in self._counts.items() if number > 0]
        return sorted(kept, key=lambda item: (-item[1], str(item[0])))[:count]

    def get(self, key: K) -> int:
        """Return the count of a key."""
        return self._counts.get(key, 0)

    @property
    def distinct(self) -> int:
        """The number of keys with a positive count, without `others`."""
        return sum(1 for number in self._counts.values() if number > 0)

    @property
    def total(self) -> int:
        """The sum of all counts, with `others`."""
        return sum(self._counts.values()) + self.others
