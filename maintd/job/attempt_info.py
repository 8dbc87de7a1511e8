"""What an attempt of a job is given: its run, its limits, and what is known from earlier steps and runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maintd.model.access import Token
    from maintd.model.run import GateDecision


@dataclass(frozen=True)
class Point:
    """One earlier value of a measure."""

    at: datetime
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class KnownFinding:
    """An open finding of this step. `by`, `why` and `until` are those of its acknowledgement; `by` is empty without
    one."""

    since: datetime
    by: str = ""
    why: str = ""
    until: datetime | None = None

    @property
    def text(self) -> str:
        """`open since 2026-11-21`, then `acknowledged by ada until 2026-12-05: a disk is ordered`."""
        parts = [f"open since {self.since:%Y-%m-%d}"]
        if self.by:
            until = "" if self.until is None else f" until {self.until:%Y-%m-%d}"
            parts.append(f"acknowledged by {self.by}{until}: {self.why}")
        return ", ".join(parts)


@dataclass(frozen=True)
class UnfinishedRun:
    """A run that has not ended, or was lost and is `held`, with what its steps have handed over."""

    run_id: int
    entry: str
    held: bool
    handed: Mapping[str, Any]


@dataclass(frozen=True)
class AttemptInfo:
    """The attempt that a context belongs to. Folders may be text, since a child seldom needs them as paths."""

    run_id: int
    entry: str
    step: str
    attempt: int
    due_at: datetime | None
    deadline_at: datetime
    dry_run: bool
    artifacts_dir: Path | str
    work_dir: Path | str
    budget: Mapping[str, int] = field(default_factory=dict)
    series: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    reports_dir: Path | str | None = None
    findings: Mapping[str, KnownFinding] = field(default_factory=dict)  # by the name of the check
    handed: Mapping[str, Any] = field(default_factory=dict)  # values of earlier steps, by name
    outcomes: Mapping[str, str] = field(default_factory=dict)  # states of earlier steps, by name
    approvals: Mapping[str, str] = field(default_factory=dict)  # by gate of this run that was passed, how
    in_foreground: bool = False  # by `maintd run --here`: a person at a terminal of this machine
    undoes_run: int | None = None  # the run that this one undoes
    unfinished: tuple[UnfinishedRun, ...] | None = None  # None: not known, or not requested
    gate_decisions: Mapping[str, GateDecision] = field(default_factory=dict)  # by gate of this run, the last one
    tokens: tuple[Token, ...] | None = None  # None: not known, or not requested
    series_of: Mapping[str, Mapping[str, Sequence[Point]]] = field(default_factory=dict)  # by job, of any entry
    read_at: datetime | None = None  # when `unfinished` was read
