"""An entry of the calendar: its schedule, steps and policy, and its state in the store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date as Day  # noqa: N812 - "date" is a field below
from datetime import timedelta
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from maintd.model.base import Model
from maintd.units import Duration, Instant


class ScheduleKind(StrEnum):
    """The notation of a schedule."""

    PHRASE = "phrase"  # every sunday at 02:00
    CRON = "cron"
    ONCALENDAR = "oncalendar"
    EVERY = "every"  # multiples of a duration since 1970-01-01T00:00Z
    AT = "at"  # once


class Rule(Model):
    """A schedule as written in the calendar. `maintd.schedule` compiles it; the store keeps it as JSON."""

    kind: ScheduleKind
    text: str
    timezone: str
    jitter: Duration = timedelta(0)  # upper limit of the start delay, derived from a hash of entry and due time


MANUAL = "manual only"
"""The schedule of an entry without a rule, in English."""


class CatchUp(StrEnum):
    """What happens to due times that passed while maintd was down."""

    LATEST = "latest"  # the last one runs, the others are coalesced into it
    ALL = "all"  # each one runs
    NONE = "none"  # none runs; each is recorded as missed


class Overlap(StrEnum):
    """What happens when an entry is due while its earlier run is unfinished."""

    SKIP = "skip"
    QUEUE = "queue"


class OnFailure(StrEnum):
    """Whether the steps after a failed step run."""

    STOP = "stop"
    CONTINUE = "continue"


LockMode = Literal["shared", "exclusive"]


class After(Model):
    """A dependency: `entry` must have succeeded, finishing at most `within` before this entry's start."""

    entry: str
    within: Duration


class Blackout(Model):
    """A time in which no run of the entry starts. Exactly one of date, first+last, holidays or cron+lasting is set.
    Dates are in the entry's time zone, both ends included."""

    name: str = ""
    date: Day | None = None
    first: Day | None = None
    last: Day | None = None
    holidays: str | None = None  # a calendar of the holidays library: DE, US, US-NY, XNYS
    cron: str | None = None
    lasting: Duration | None = None


class Policy(Model):
    """How the runs of an entry are executed. Each run keeps a copy, so an edit changes no queued or running run."""

    timeout: Duration = timedelta(hours=1)  # of the whole run
    retries: int = Field(default=0, ge=0, le=20)  # additional attempts per step, for repeatable jobs only
    retry_backoff: Duration = timedelta(seconds=30)  # before the first retry, doubled for each further, at most 15 min
    on_failure: OnFailure = OnFailure.STOP
    overlap: Overlap = Overlap.SKIP
    catch_up: CatchUp = CatchUp.LATEST
    catch_up_window: Duration = timedelta(hours=12)
    misfire: Duration | None = None  # a run that has not started this long after its due time is skipped
    lock_wait: Duration = timedelta(minutes=10)
    after: After | None = None
    blackout: tuple[Blackout, ...] = ()


class StepPlan(Model):
    """One step of an entry. `name` is the job's name, with -2, -3 where an entry has several steps with one job."""

    name: str
    job: str
    params: dict[str, Any] = {}
    overlaid: dict[str, str] = {}  # params from the overlay of the calendar, with `file:line`
    locks: dict[str, LockMode] = {}  # those of the job and those of the calendar
    timeout: Duration | None = None  # of one attempt; None: the job's
    retries: int | None = None  # None: the policy's
    on_failure: OnFailure | None = None
    always: bool = False  # runs at the end, whatever the outcome of earlier steps
    mutates: bool = True
    repeatable: bool = False


def overlay_texts(steps: Sequence[StepPlan], keys: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """What is from the overlay, with its place: `vacuum: threshold=0.5 (schedules.local.yaml:4)`.

    `keys` are those of the entry. Secrets in params must be references already.
    """
    found = [f"{key} ({place})" for key, place in (keys or {}).items()]
    for step in steps:
        for param, place in step.overlaid.items():
            value = step.params.get(param)
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            found.append(f"{step.name}: {param}={text} ({place})")
    return tuple(found)


class Entry(Model):
    """One named item of the calendar, validated."""

    name: str
    title: str
    runbook: str = ""
    rule: Rule | None = None  # None: manual runs only
    steps: tuple[StepPlan, ...]
    policy: Policy = Policy()
    enabled: bool = True
    formerly: str | None = None  # its earlier name: history and planning continue
    line: int = 0  # in the calendar file
    overlaid: dict[str, str] = {}  # keys from the overlay of the calendar, with `file:line`

    @property
    def jobs(self) -> tuple[str, ...]:
        """Names of the steps' jobs in order, each once."""
        return tuple(dict.fromkeys(step.job for step in self.steps))

    @property
    def overlay(self) -> tuple[str, ...]:
        """What is from the overlay, see `overlay_texts`."""
        return overlay_texts(self.steps, self.overlaid)


class Pause(Model):
    """An operator paused an entry: its due times in [since, until) are recorded as skipped."""

    entry: str
    why: str
    by: str
    since: Instant
    until: Instant | None = None


class EntryState(Model):
    """An entry as the store knows it."""

    name: str
    title: str
    rule: Rule | None
    policy: Policy = Policy()
    fingerprint: str  # hash of rule, policy and steps; a different one means that the calendar was edited
    planned_through: Instant  # every due time up to here has its row
    first_seen_at: Instant
    active: bool  # in the calendar that was loaded last, and enabled
    pause: Pause | None = None
