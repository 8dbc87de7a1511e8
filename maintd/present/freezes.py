"""Freezes as text."""

from __future__ import annotations

from collections.abc import Sequence

from maintd.model.entry import Freeze
from maintd.present.text import utc_minute


def freeze_text(freeze: Freeze) -> str:
    """`frozen by ada until Sun 2026-12-06 02:00 UTC: the year-end closing`."""
    until = "" if freeze.until is None else f" until {utc_minute(freeze.until)}"
    return f"frozen by {freeze.by or 'an operator'}{until}: {freeze.why}"


def freezes_text(freezes: Sequence[Freeze]) -> str:
    """A line for each freeze, and how it ends."""
    if not freezes:
        return "nothing is frozen\n"
    return "\n".join(freeze_line(freeze) for freeze in freezes) + "\n"


def freeze_line(freeze: Freeze) -> str:
    """What is frozen, by whom, until when and why."""
    what = "all entries that change something" if freeze.entries == "*" else freeze.entries
    return f"{what}: {freeze_text(freeze)}"
