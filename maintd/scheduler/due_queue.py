"""Which of many entries is due first."""

from __future__ import annotations

import heapq
from datetime import datetime


class Timetable:
    """When each of many is next due. Asked for the first of them at each turn, it does not look at all."""

    def __init__(self) -> None:
        self._at: dict[str, datetime] = {}
        self._heap: list[tuple[datetime, str]] = []  # also what was set before, which no longer counts

    def set(self, name: str, at: datetime | None) -> None:
        """When it is due; None: never."""
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
        """The earliest of all."""
        while self._heap and self._at.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def due(self, until: datetime) -> list[str]:
        """Those due up to then, the earliest first; they stay so until something else is set."""
        found: dict[str, datetime] = {}
        while (at := self.first) is not None and at <= until:
            found[heapq.heappop(self._heap)[1]] = at
        for name, at in found.items():
            heapq.heappush(self._heap, (at, name))
        return list(found)
