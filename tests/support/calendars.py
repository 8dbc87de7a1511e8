"""Jobs for calendars in tests, as real modules in a folder, and parsing of a calendar with them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from textwrap import dedent
from typing import Any

from maintd.calendar import Calendar, parse_calendar
from maintd.errors import CalendarError, JobError
from maintd.job.description import LoadedJob, ParamProblem, load_job, validate_params
from maintd.model.job import BrokenJob, JobDescription

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)  # a Monday

_MODULES = {
    "vacuum": '''
        """Vacuum the databases."""
        from maintd.job import Context, Duration, JobParams, job
        from datetime import timedelta

        class Params(JobParams):
            full: bool = False
            """Rewrite tables."""
            patience: Duration = timedelta(minutes=5)
            """How long to wait for a table."""
            tables: tuple[str, ...] = ()

        @job(timeout="1h", repeatable=True, mutates=True, locks={"postgres": "exclusive"})
        def run(ctx: Context, params: Params) -> None: ...
    ''',
    "verify": '''
        """Read the newest backup."""
        from maintd.job import Context, JobParams, job

        class Params(JobParams):
            root: str
            """Where backups are."""

        @job(timeout="10m", locks={"postgres": "shared"})
        def run(ctx: Context, params: Params) -> None: ...
    ''',
    "look": '''
        """Look around."""
        from maintd.job import Context, JobParams, job

        @job()
        def run(ctx: Context, params: JobParams) -> None: ...
    ''',
    "torn": "def run(:\n",
}


@cache
def loaded() -> dict[str, LoadedJob | BrokenJob]:
    """Import the jobs, once."""
    found: dict[str, LoadedJob | BrokenJob] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, text in _MODULES.items():
            path = Path(folder) / f"{name}.py"
            path.write_text(dedent(text), encoding="utf-8")
            try:
                found[name] = load_job(path)
            except JobError as error:
                found[name] = BrokenJob(name=name, path=path, error=str(error).replace(f"{folder}/", ""))
    return found


def jobs() -> dict[str, JobDescription | BrokenJob]:
    """Return the jobs by name, as the registry does."""
    return {name: job if isinstance(job, BrokenJob) else job.description for name, job in loaded().items()}


def validate_all(wanted: Sequence[tuple[str, Mapping[str, Any]]]) -> list[list[ParamProblem]]:
    """Return the problems of each job's params; none for a broken job."""
    found = [(loaded()[job], params) for job, params in wanted]
    return [[] if isinstance(job, BrokenJob) else validate_params(job.params, params) for job, params in found]


def read(text: str) -> Calendar:
    """Parse a calendar; without a leading `timezone:` the time zone is UTC."""
    text = dedent(text).lstrip("\n")
    if not text.startswith("timezone:"):
        text = f"timezone: UTC\n{text}"
    return parse_calendar(text, "schedules.yaml", jobs(), validate_all, NOW)


def problems(text: str) -> list[str]:
    """Return the errors of a calendar; an empty list for a valid one."""
    try:
        read(text)
    except CalendarError as error:
        return list(error.problems)
    return []
