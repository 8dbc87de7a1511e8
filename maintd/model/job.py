"""Jobs as they are described to people and to the calendar, without running them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from maintd.model.base import Model
from maintd.model.entry import LockMode
from maintd.model.target import Targets
from maintd.units import Duration


class ParamDescription(Model):
    """One parameter of a job, as `maintd jobs show` and shell completion list it."""

    name: str
    type: str  # as people write it: duration, size, path, one of a|b, list of text, …
    required: bool
    default: Any = None
    description: str = ""
    choices: tuple[str, ...] = ()


class JobDescription(Model):
    """A job's documentation, params and declared properties."""

    name: str
    path: Path
    summary: str  # first line of the module's docstring
    doc: str
    runbook: str = ""
    timeout: Duration
    repeatable: bool
    mutates: bool
    admin_params: bool = False  # they name programs, so only an admin may give them with a trigger
    only_in_window: bool = False  # refused outside the window of an entry
    locks: dict[str, LockMode] = {}
    needs: tuple[str, ...] = ()  # kinds of target that it requires
    budget: dict[str, int] = {}  # most changes per action, and most bytes, of one attempt
    history: int = 60  # how many earlier points of each measure the job can read
    fresh: bool = False  # import it in each attempt, since its import has side effects
    reads_calendar: bool = False  # it is given the steps of the active calendar
    reads_findings: bool = False  # it is given the open findings of its step
    reads_unfinished: bool = False  # it is given the runs that have not ended, with what they have handed over
    reads_tokens: bool = False  # it is given the tokens of the API, without the tokens themselves
    reads_measures_of: tuple[str, ...] = ()  # jobs whose measures, of any entry, it is given
    watches: tuple[str, ...] = ()  # values of other runs without which there is nothing to do
    history_of: Literal["entry", "job"] = "entry"  # measures of the same entry only, or of the job in any entry
    params: tuple[ParamDescription, ...] = ()
    params_schema: dict[str, Any] = {}
    imports: tuple[str, ...] = ()  # modules that the fork server can preload for it

    def kinds_missing(self, targets: Targets) -> list[str]:
        """Those of `needs` that have no target: without it, a step with this job is skipped.

        Raises KeyError for a kind that does not exist.
        """
        return [need for need in self.needs if not any(targets.of(kind) for kind in need.split(" or "))]


class BrokenJob(Model):
    """A job module that cannot be used; entries with it cannot run."""

    name: str
    path: Path
    error: str  # file:line: what is wrong
