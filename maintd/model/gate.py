"""A run that waits at a gate: what is asked, of whom, and what of its checklist is done."""

from __future__ import annotations

from enum import StrEnum

from maintd.model.access import Role
from maintd.model.base import Model
from maintd.units import Instant


class ItemState(StrEnum):
    """Whether an item of a checklist is done."""

    OPEN = "open"  # not ticked yet
    TICKED = "ticked"  # by a person
    PROVED = "proved"  # maintd has observed it
    NOT_PROVED = "not_proved"  # maintd has not observed it; no person can tick it


class GateItem(Model):
    """An item of a checklist. `evidence` is what was observed, or who ticked it."""

    number: int  # from 1
    text: str
    state: ItemState
    by_proof: bool = False  # evaluated by maintd, never ticked by a person
    evidence: str = ""
    by: str = ""
    at: Instant | None = None

    @property
    def done(self) -> bool:
        """Whether the gate can be passed as far as this item is concerned."""
        return self.state in (ItemState.TICKED, ItemState.PROVED)


class WaitingGate(Model):
    """The gate where a run waits. Proofs are as they were when this was read; they are evaluated again at the end."""

    run_id: int
    entry: str
    title: str
    gate: str  # the name of the step
    ask: str = ""
    role: Role  # or one with more rights
    not_requester: bool = False
    requested_by: str = ""
    earlier_requesters: tuple[str, ...] = ()  # of the runs that it resumes, the last one first, without repetitions
    why: str = ""  # of the run
    dry_run: bool = False
    emergency: str = ""  # of the run, see `RunSummary`
    since: Instant
    until: Instant
    items: tuple[GateItem, ...] = ()
    next_step: str = ""  # a command to type

    @property
    def missing(self) -> tuple[GateItem, ...]:
        """The items that are not done yet."""
        return tuple(item for item in self.items if not item.done)

    @property
    def whom(self) -> str:
        """`an operator`, `an approver other than ada`."""
        article = "a" if self.role is Role.VIEWER else "an"
        others = " and ".join(dict.fromkeys((self.requested_by or "the requester", *self.earlier_requesters)))
        return f"{article} {self.role}" + (f" other than {others}" if self.not_requester else "")


class GateList(Model):
    """The gates where runs wait."""

    gates: tuple[WaitingGate, ...]
