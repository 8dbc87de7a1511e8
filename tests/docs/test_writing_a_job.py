"""The example in docs/writing-a-job.md is a job that works, and succeeds only if it observed something."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path

import pytest
from support.job_runs import JobResult, run_job

from maintd.job.decorator import JobTraits, job
from maintd.job.description import load_job
from maintd.model.evidence import CheckStatus

PAGE = (Path(__file__).parents[2] / "docs/writing-a-job.md").read_text(encoding="utf-8")


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The example as a file."""
    found = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    path = tmp_path / "jobs" / "delete_exports.py"
    path.parent.mkdir()
    path.write_text(found[1], encoding="utf-8")
    return path


def _run(example: Path, folder: Path, **more: object) -> JobResult:
    return run_job(example, {"folder": str(folder), **more})


def _export(folder: Path, name: str, days: int) -> Path:
    path = folder / name
    path.write_text("1\n")
    age = timedelta(days=days).total_seconds()
    os.utime(path, (path.stat().st_atime - age, path.stat().st_mtime - age))
    return path


def test_the_example_is_described_with_its_params(example: Path) -> None:
    description = load_job(example).description

    assert [param.name for param in description.params if param.description] == ["folder", "keep", "max_deletes"]
    assert description.mutates


def test_the_example_deletes_old_exports_and_keeps_the_others(example: Path, tmp_path: Path) -> None:
    old, new = _export(tmp_path, "old.csv", 31), _export(tmp_path, "new.csv", 29)
    other = _export(tmp_path, "old.txt", 31)

    result = _run(example, tmp_path)

    assert result.outcome == "succeeded"
    assert (old.exists(), new.exists(), other.exists()) == (False, True, True)
    assert result.measure("exports") == 1


def test_the_example_fails_when_its_folder_is_missing(example: Path, tmp_path: Path) -> None:
    result = _run(example, tmp_path / "missing")

    assert result.outcome == "failed"
    assert result.check("export folder exists").status is CheckStatus.FAIL


def test_the_example_fails_when_it_would_delete_too_much(example: Path, tmp_path: Path) -> None:
    exports = [_export(tmp_path, f"{number}.csv", 40) for number in range(3)]

    result = _run(example, tmp_path, max_deletes=2)

    assert result.outcome == "failed"
    assert sum(path.exists() for path in exports) >= 1


def test_every_argument_of_the_decorator_is_in_the_table() -> None:
    section = PAGE.split("## The decorator\n")[1].split("\n## ")[0]

    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == set(JobTraits.__dataclass_fields__)
    assert set(job.__kwdefaults__ or {}) == set(JobTraits.__dataclass_fields__)
