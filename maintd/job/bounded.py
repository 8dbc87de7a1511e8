"""Collections of bounded size that know when they left something out.

What comes from outside (addresses, names, lines) must not fill the memory, so jobs keep a limited number of it. A limit
that was reached is not an observation: a check that depends on such a collection names it in `limited_by`, and is then
unknown instead of ok.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Generic, Protocol, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Bounded(Protocol):
    """A collection that keeps at most `limit` things."""

    @property
    def limit(self) -> int:
        """How many things are kept at most."""
        ...

    @property
    def overflowed(self) -> bool:
        """Whether anything was left out."""
        ...


class BoundedCounter(Generic[K]):
    """Counts by key, for the first `limit` keys; what comes later is counted together as `others`.

    About 200 bytes a key.
    """

    def __init__(self, limit: int = 50_000) -> None:
        self._counts: Counter[K] = Counter()
        self._limit = limit
        self.others = 0
        self._left_out = False

    @property
    def limit(self) -> int:
        """How many keys are counted by themselves."""
        return self._limit

    @property
    def overflowed(self) -> bool:
        """Whether a key was not counted by itself."""
        return self._left_out

    def add(self, key: K, times: int = 1) -> None:
        """Count; a negative number takes back what was counted under the same key."""
        if key in self._counts or len(self._counts) < self._limit:
            self._counts[key] += times
        else:
            self.others += times
            self._left_out = True

    def count(self, key: K) -> int:
        """How often the key was counted by itself; 0 for a key that was left out."""
        return self._counts[key]

    def top(self, number: int) -> list[tuple[K, int]]:
        """The keys with the largest counts above zero; equal counts in the order of the keys' text."""
        kept = [(key, count) for key, count in self._counts.items() if count > 0]
        return sorted(kept, key=lambda item: (-item[1], str(item[0])))[:number]

    @property
    def distinct(self) -> int:
        """How many keys have a count above zero, of those counted by themselves."""
        return sum(1 for count in self._counts.values() if count > 0)

    @property
    def total(self) -> int:
        """The sum of all counts, also of what was left out."""
        return self._counts.total() + self.others


class BoundedList(Generic[T]):
    """The first `limit` items in their order; the others are only counted."""

    def __init__(self, limit: int) -> None:
        self._items: list[T] = []
        self._limit = limit
        self.left_out = 0

    @property
    def limit(self) -> int:
        """How many items are kept at most."""
        return self._limit

    @property
    def overflowed(self) -> bool:
        """Whether an item was left out."""
        return self.left_out > 0

    def append(self, item: T) -> bool:
        """Keep the item if there is room; whether it was kept."""
        if len(self._items) < self._limit:
            self._items.append(item)
            return True
        self.left_out += 1
        return False

    @property
    def total(self) -> int:
        """How many items came, kept or not."""
        return len(self._items) + self.left_out

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> T:
        return self._items[index]


class BoundedDict(Generic[K, T]):
    """Values of the first `limit` keys."""

    def __init__(self, limit: int) -> None:
        self._items: dict[K, T] = {}
        self._limit = limit
        self.left_out = 0

    @property
    def limit(self) -> int:
        """How many keys are kept at most."""
        return self._limit

    @property
    def overflowed(self) -> bool:
        """Whether a key was left out."""
        return self.left_out > 0

    def set(self, key: K, value: T) -> bool:
        """Keep the value if the key is known or there is room; whether it was kept."""
        if key in self._items or len(self._items) < self._limit:
            self._items[key] = value
            return True
        self.left_out += 1
        return False

    def get(self, key: K, default: T | None = None) -> T | None:
        """The value of a key that is kept."""
        return self._items.get(key, default)

    def items(self) -> Iterator[tuple[K, T]]:
        """Keys and values in the order in which the keys came."""
        return iter(self._items.items())

    def __contains__(self, key: object) -> bool:
        return key in self._items

    def __len__(self) -> int:
        return len(self._items)
