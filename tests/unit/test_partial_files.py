"""A file that cannot be completed leaves no part of it behind."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from maintd.job.attempt_info import AttemptInfo
from maintd.job.context import Context
from maintd.job.description_cache import DescriptionCache
from maintd.model.target import Targets


@contextmanager
def files_end_after(size: int) -> Iterator[None]:
    """Have the kernel refuse to write files of this process beyond a size, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 10, 4096])
def test_descriptions_that_cannot_be_written_leave_no_file(size: int, tmp_path: Path) -> None:
    cache = DescriptionCache(tmp_path / "job_descriptions.json")
    cache.put("key", {"job": {"text": "x" * 100_000}})

    with files_end_after(size):
        cache.save()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["save", "keep"])
@pytest.mark.parametrize("size", [0, 10, 4096])
def test_an_artifact_that_cannot_be_written_leaves_no_file(size: int, call: str, tmp_path: Path) -> None:
    info = AttemptInfo(
        run_id=1,
        entry="probe",
        step="probe",
        attempt=1,
        due_at=None,
        deadline_at=datetime(2026, 3, 1, tzinfo=UTC),
        dry_run=False,
        artifacts_dir=tmp_path / "own",
        work_dir=tmp_path / "work",
        series={},
    )
    context = Context(info, Targets, lambda report: None, print)

    (tmp_path / "source").write_text("x" * 100_000)

    with files_end_after(size), pytest.raises(OSError, match="File too large"):
        if call == "save":
            context.save("report.txt", "x" * 100_000)
        else:
            context.keep(tmp_path / "source")

    assert list((tmp_path / "own").iterdir()) == []
