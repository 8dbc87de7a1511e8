"""The job contract: a module in a jobs folder with `run(ctx, params)`, decorated with `@job`.

Returning is success, raising is failure. A module may have a class `Params(JobParams)` whose fields are the job's
parameters. Nothing is registered; the module's file name is the job's name.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict

from maintd.context import BudgetSpentError, CheckFailedError, Context, Point
from maintd.errors import JobError, TargetError
from maintd.model.evidence import CheckStatus
from maintd.targets.references import resolve_references
from maintd.units import Duration, Size, format_duration, format_size, parse_duration, parse_size

if TYPE_CHECKING:
    from maintd.model.entry import LockMode

__all__ = [
    "BudgetSpentError", "CheckFailedError", "CheckStatus", "Context", "Duration", "JobError", "JobParams", "Point",
    "Size", "TargetError", "format_duration", "format_size", "job", "resolve_references",
]  # fmt: skip

_MARK = "__maintd_job__"
_JOB_NAME = re.compile(r"[a-z][a-z0-9_]*")

JobFunction = Callable[..., None]
F = TypeVar("F", bound=JobFunction)


class JobParams(BaseModel):
    """Base of a job's `Params`. A parameter that is not a field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


@dataclass(frozen=True)
class JobTraits:
    """What the decorator says about a job."""

    timeout: timedelta
    repeatable: bool
    mutates: bool
    locks: Mapping[str, LockMode] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    budget: Mapping[str, int] = field(default_factory=dict)
    history: int = 60
    history_of: Literal["entry", "job"] = "entry"


def job(
    *,
    timeout: str = "30m",
    repeatable: bool = False,
    mutates: bool = False,
    locks: Mapping[str, LockMode] | None = None,
    needs: Sequence[str] = (),
    budget: Mapping[str, int | str] | None = None,
    history: int = 60,
    history_of: Literal["entry", "job"] = "entry",
) -> Callable[[F], F]:
    """Make a function the job of its module.

    timeout: of one attempt. repeatable: may be tried again after a failure. mutates: changes something outside.
    locks: names held while it runs. needs: kinds of target without which the step is skipped as not configured.
    budget: the most changes of each action in one attempt; `bytes` is the most bytes of all together.
    history: how many earlier points of each measure `ctx.series` has. history_of: those of the same entry only, or of
    the job under whatever entry, for measures whose labels say what they are of.
    """
    traits = JobTraits(
        timeout=parse_duration(timeout),
        repeatable=repeatable,
        mutates=mutates,
        locks=dict(locks or {}),
        needs=tuple(needs),
        budget={key: parse_size(value) if isinstance(value, str) else value for key, value in (budget or {}).items()},
        history=history,
        history_of=history_of,
    )

    def mark(function: F) -> F:
        setattr(function, _MARK, traits)
        return function

    return mark


def open_job(path: Path) -> tuple[JobFunction, type[JobParams]]:
    """A job module's `run` and its `Params`. Raises JobError with file:line for whatever is wrong with it."""
    module = open_module(path)
    return module.run, getattr(module, "Params", JobParams)


def traits_of(module: ModuleType) -> JobTraits:
    """What the decorator of an opened job module says."""
    return cast("JobTraits", getattr(module.run, _MARK))


def open_module(path: Path) -> ModuleType:
    """Import a job module from its file and see that it is one. Raises JobError."""
    if not _JOB_NAME.fullmatch(path.stem):
        raise JobError(f"{path}: a job's file name is lower case letters, digits and _", f"rename {path.name}")
    module = _import(path)
    run = getattr(module, "run", None)
    if run is None or getattr(run, _MARK, None) is None:
        raise JobError(f"{path}: has no function `run` decorated with @job", "see: docs/writing-a-job.md")
    params = getattr(module, "Params", JobParams)
    if not (isinstance(params, type) and issubclass(params, JobParams)):
        raise JobError(f"{path}: Params is not a subclass of maintd.job.JobParams")
    return module


def _import(path: Path) -> ModuleType:
    qualified = f"maintd_jobs.{path.stem}"
    spec = importlib.util.spec_from_file_location(qualified, path)
    if spec is None or spec.loader is None:
        raise JobError(f"{path}: is not a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[qualified] = module  # so that its classes can be found by name, as pydantic does for annotations
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise JobError(
            f"{path}:{error.lineno}: {error.msg}", "correct the module; its entries are disabled until then"
        ) from error
    except Exception as error:
        line = next(
            (f.lineno for f in reversed(traceback.extract_tb(error.__traceback__)) if f.filename == str(path)), 0
        )
        raise JobError(f"{path}:{line}: cannot be imported: {type(error).__name__}: {error}") from error
    return module
