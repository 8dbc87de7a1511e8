"""The operator service: what status, commands and lookup work on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple, NoReturn

from maintd.calendar import Calendar, load_configured
from maintd.clock import Clock, SystemClock
from maintd.config.settings import Settings
from maintd.errors import DaemonUnavailableError
from maintd.job.description import ParamProblem
from maintd.job.registry import JobRegistry, RegisteredJob
from maintd.model.job import BrokenJob
from maintd.model.target import Targets
from maintd.operations.watchdog import Missing
from maintd.store import Store, open_store, read_store

NO_DAEMON = "no daemon answers, so no runs start; start it with: maintd serve"


class Health(NamedTuple):
    """The health of the daemon.

    `alive`: the planning loop is running. `ready`: it plans and reaches the store, too. `problems` explains what is
    wrong. `lag_seconds` is the time since the last iteration of the loop; None if there is no loop. `reload_refused`:
    the calendar or the jobs as they are on disk are not active. `loaded_at` is when the active calendar was loaded.
    `missing` is what the watchdog found.
    """

    alive: bool
    ready: bool
    problems: tuple[str, ...] = ()
    lag_seconds: float | None = None
    reload_refused: bool = False
    loaded_at: datetime | None = None
    missing: tuple[Missing, ...] = ()


class ReloadResult(NamedTuple):
    """The result of a reload. If not `ok`, the previous calendar stays active; else `problems` are broken jobs."""

    ok: bool
    changes: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class OperatorService:
    """What the CLI, the API and the page work on.

    The callables return what is active now; `wake` notifies the planner and the executor of changed rows.
    """

    store: Store
    settings: Settings
    clock: Clock
    calendar: Callable[[], Calendar]
    jobs: Callable[[], Mapping[str, RegisteredJob]]
    broken_jobs: Callable[[], Sequence[BrokenJob]]  # of those that were described so far
    validate: Callable[[str, Mapping[str, Any]], list[ParamProblem]]
    targets: Callable[[], Targets]
    wake: Callable[[], None]
    reload: Callable[[], ReloadResult]
    health: Callable[[], Health]
    started_at: datetime | None = None  # None if this process is not a daemon


def open_service(settings: Settings, *, write: bool) -> OperatorService:
    """An operator service without a daemon, on the store itself. The caller closes `service.store`.

    Calendar and jobs are read on first use, so that a broken calendar, which raises CalendarError, does not hide the
    history. `wake` and `reload` raise DaemonUnavailableError.
    """
    clock = SystemClock()
    registry = JobRegistry(settings.job_dirs, settings.job_cache_file)

    @cache
    def calendar() -> Calendar:
        with registry.one_process():
            return load_configured(settings, registry.jobs, registry.validate_all)

    def unavailable() -> NoReturn:
        raise DaemonUnavailableError(f"no daemon answers on {settings.socket_path}", "start it with: maintd serve")

    return OperatorService(
        store=open_store(settings.store, clock=clock, migrate=False)
        if write
        else read_store(settings.store, clock=clock),
        settings=settings,
        clock=clock,
        calendar=calendar,
        jobs=lambda: registry.jobs,
        broken_jobs=lambda: registry.broken,
        validate=registry.validate,
        targets=lambda: calendar().targets.merged(settings.targets),
        wake=unavailable,
        reload=unavailable,
        health=lambda: Health(alive=False, ready=False, problems=(NO_DAEMON,)),
    )
