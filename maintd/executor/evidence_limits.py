"""How much evidence one attempt may leave in the store; the rest is left out, and counted."""

from __future__ import annotations

from collections import Counter

from maintd.model.evidence import Artifact, Change, Check, Measure, Report

MAX_ITEMS: dict[type, int] = {Check: 5_000, Measure: 10_000, Change: 50_000, Artifact: 200}
"""Per attempt. The largest shipped job, on a database of 5,000 tables, leaves about 1,000 checks and 2,000 measures."""

MAX_MEASURE_NAMES = 200
"""Distinct names of measures per attempt: each is a series that is kept, shown and read back."""

MAX_ITEM_BYTES = 64 * 1024
"""Of one item as the child sent it."""

MAX_BYTES = 16 * 1024 * 1024
"""Of all items of an attempt together; log lines have the limit of the setting `log_limit`."""

MAX_ARTIFACT_BYTES = 4 * 1024 * 1024 * 1024
"""Of all files of an attempt together."""

LONGEST_TEXT = 2_000
"""Characters kept of each text of a check that is larger than MAX_ITEM_BYTES."""


class EvidenceLimits:
    """Counts the evidence of one attempt, and what of it was left out."""

    def __init__(self) -> None:
        self._kept: Counter[type] = Counter()
        self._left_out: Counter[str] = Counter()
        self._bytes = 0
        self._artifact_bytes = 0
        self._names: set[str] = set()

    def admit(self, item: Report, size_bytes: int) -> Report | None:
        """Return the item, a check with shortened texts, or None when it is over a limit."""
        kind = type(item)
        if kind not in MAX_ITEMS:
            return item
        too_long = isinstance(item, Check) and size_bytes > MAX_ITEM_BYTES
        if isinstance(item, Check) and too_long:
            item, size_bytes = shortened(item, LONGEST_TEXT), 5 * LONGEST_TEXT
        if self._is_over(item, size_bytes):
            self._left_out[_PLURAL[kind]] += 1
            return None
        if too_long:
            self._left_out["parts of checks"] += 1
        self._kept[kind] += 1
        self._bytes += size_bytes
        if isinstance(item, Measure):
            self._names.add(item.name)
        if isinstance(item, Artifact):
            self._artifact_bytes += item.size_bytes
        return item

    def _is_over(self, item: Report, size_bytes: int) -> bool:
        if size_bytes > MAX_ITEM_BYTES or self._bytes + size_bytes > MAX_BYTES:
            return True
        if self._kept[type(item)] >= MAX_ITEMS[type(item)]:
            return True
        if isinstance(item, Measure):
            return item.name not in self._names and len(self._names) >= MAX_MEASURE_NAMES
        return isinstance(item, Artifact) and self._artifact_bytes + item.size_bytes > MAX_ARTIFACT_BYTES

    @property
    def left_out(self) -> str:
        """What was left out, as a clause: `12 measures and 1 artifact were left out`; empty when nothing was."""
        if not self._left_out:
            return ""
        parts = [f"{count:,} {kind}" for kind, count in sorted(self._left_out.items())]
        return f"evidence over the limits of an attempt was left out: {', '.join(parts)}"


_PLURAL: dict[type, str] = {Check: "checks", Measure: "measures", Change: "changes", Artifact: "artifacts"}


def shortened(check: Check, longest: int) -> Check:
    """The check with each text of more than `longest` characters cut."""
    values = ((name, getattr(check, name)) for name in ("name", "observed", "expected", "unit", "hint", "rule"))
    cut = {name: f"{value[:longest]}…" for name, value in values if isinstance(value, str) and len(value) > longest}
    return check.model_copy(update=cut) if cut else check
