"""Entries, jobs and runs by the names and numbers that an operator types."""

from __future__ import annotations

from maintd.calendar import entry_for_job
from maintd.errors import ForbiddenError, RefusedError, UnknownNameError
from maintd.job.registry import RegisteredJob
from maintd.model.access import Caller
from maintd.model.entry import Entry
from maintd.model.job import BrokenJob
from maintd.model.run import Run
from maintd.operations.service import OperatorService
from maintd.terminal import quotable

LARGEST_ID = 2**63 - 1
"""Ids are 64-bit integers in both databases; SQLite's driver raises on larger ones."""


def known_names(service: OperatorService) -> list[str]:
    """Every name that `find_entry` accepts, entries first."""
    return list(dict.fromkeys([*(entry.name for entry in service.calendar().entries), *service.jobs()]))


def find_entry(service: OperatorService, name: str) -> Entry:
    """The entry with this name, else an entry with one step for the job with this name.

    Raises UnknownNameError with a similar name, RefusedError if the job is broken.
    """
    calendar = service.calendar()
    for entry in calendar.entries:
        if entry.name == name:
            return entry
    job = service.jobs().get(name)
    if job is None:
        raise UnknownNameError("entry or job", name, known_names(service))
    if isinstance(job, BrokenJob):
        raise RefusedError(f'job "{name}" is broken: {job.error}', "fix the module, then run: maintd reload")
    return entry_for_job(job, {})


def find_job(service: OperatorService, name: str) -> RegisteredJob:
    """The job with this name, which may be broken. Raises UnknownNameError."""
    job = service.jobs().get(name)
    if job is None:
        raise UnknownNameError("job", name, service.jobs())
    return job


def find_run(service: OperatorService, run_id: int) -> Run:
    """The run with all its evidence. Raises UnknownNameError."""
    run = service.store.history.run(run_id) if 0 < run_id <= LARGEST_ID else None
    if run is None:
        raise UnknownNameError("run", str(run_id))
    return run


def require_in_scope(service: OperatorService, caller: Caller, area: str) -> None:
    """Raise ForbiddenError if the caller's token is limited to entries of which none is this one, or has this job.

    An empty answer would look like one about what was asked for.
    """
    if caller.covers(area):
        return
    if not any(area in entry.jobs and caller.covers(entry.name) for entry in service.calendar().entries):
        raise ForbiddenError(
            f'"{quotable(area[:80])}" is out of the scope of token "{caller.token}"',
            f"it is for: {', '.join(caller.entries)}",
        )
