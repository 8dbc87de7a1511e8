"""Describe the shipped jobs and validate the shipped calendar in advance: `python -m maintd.calendar.prebuild FILE`.

The build of a wheel runs it (see deploy/build_backend.py), and `make` for a source tree. A daemon that finds the file
imports no job module at its first start (see `maintd.job.description_cache`).
"""

from __future__ import annotations

import sys
from pathlib import Path

from maintd.calendar.loading import FILE_NAME, load_calendar
from maintd.errors import JobError, MaintdError
from maintd.job.registry import JobRegistry, shipped
from maintd.model.job import BrokenJob


def prebuild(file: Path) -> None:
    """Write the file. Raises MaintdError if a shipped job cannot be used or the shipped calendar has an error."""
    file.unlink(missing_ok=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    registry = JobRegistry(cache_file=file, use_prebuilt=False)
    with registry.one_process():
        broken = [job.error for job in registry.jobs.values() if isinstance(job, BrokenJob)]
        if broken:
            raise JobError("\n".join(broken), "correct the modules")
        load_calendar(shipped(FILE_NAME), registry.jobs, registry.validate_all)
    if not file.exists():
        raise JobError(f"{file} cannot be written")


if __name__ == "__main__":
    try:
        prebuild(Path(sys.argv[1]))
    except MaintdError as error:
        sys.exit(f"prebuild: {error}")
