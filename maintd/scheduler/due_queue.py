"""A priority queue of entries by their next due time."""

from __future__ import annotations

import heapq
from datetime import datetime


class DueQueue:
    """The next due time of each of many names. Reading the first one takes constant time."""

    def __init__(self) -> None:
        self._at: dict[str, datetime] = {}
        self._heap: list[tuple[datetime, str]] = []  # includes superseded items, which `first` drops

    def set(self, name: str, at: datetime | None) -> None:
        """Set a name's due time; None removes the name."""
        if at is None:
            self._at.pop(name, None)
        elif self._at.get(name) != at:
            self._at[name] = at
            heapq.heappush(self._heap, (at, name))
            if len(self._heap) > 2 * len(self._at) + 100:
                self._heap = [(at, name) for name, at in self._at.items()]
                heapq.heapify(self._heap)

    @property
    def first(self) -> datetime | None:
        """The earliest due time."""
        while self._heap and self._at.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def due(self, until: datetime) -> list[str]:
        """Names that are due up to `until`, earliest first. They stay in the queue."""
        found: dict[str, datetime] = {}
        while (at := self.first) is not None and at <= until:
            found[heapq.heappop(self._heap)[1]] = at
        for name, at in found.items():
            heapq.heappush(self._heap, (at, name))
        return list(found)
