"""The chain of records: what it consists of, and what its verification found."""

from __future__ import annotations

from enum import StrEnum

from maintd.model.base import Model
from maintd.units import Instant


class RecordKind(StrEnum):
    """What a record of the chain is about."""

    START = "start"  # the first record: runs up to its run_id that ended before have none
    LOST = "lost"  # a run that was lost; a further record follows when evidence or an outcome arrives late
    RUN = "run"  # a run that ended for good; its last record
    NOTE = "note"  # a person's note about a run
    PRUNED = "pruned"  # a pruning: which records lose their run, or its artifacts; its run_id is the newest run


class ChainHead(Model):
    """The head of the chain as of one record: it depends on that record and on all before it."""

    record: int  # counts from 1 without gaps
    head: str  # SHA-256 in hex
    at: Instant


class ChainProblem(Model):
    """A record that does not fit, or a row without its record. `record` is None where a record is missing at the
    end."""

    record: int | None
    run_id: int | None = None
    text: str


class VerifiedPart(Model):
    """A part of the chain after its verification; the first problem ends it.

    `last` is the last verified record, after which the next part begins. `pruned`: records whose run was deleted by
    retention, so that only their digests remain. `artifacts_pruned`: records of which only the list of artifacts was.
    `to_follow`: ended runs that have not been reviewed yet. `before`: ended runs without a record, from before the
    chain began; counted in the last part only, like `to_follow`.
    """

    records: int
    last: int
    final: bool
    head: ChainHead | None = None
    pruned: int = 0
    artifacts_pruned: int = 0
    to_follow: int = 0
    before: int = 0
    problem: ChainProblem | None = None
