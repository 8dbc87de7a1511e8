"""The registry of jobs: what it finds, when it imports a module, and what it does with one that cannot be used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from support.servers.base import wait_for

from maintd.calendar.prebuild import prebuild
from maintd.errors import JobError
from maintd.job.description_cache import IMPORTED_BY_JOBS, DescriptionCache, cache_key, computed_by, source_digest
from maintd.job.registry import JobRegistry, shipped
from maintd.model.job import BrokenJob, JobDescription

JOB = '''"""Count things."""
from pathlib import Path
from maintd.job import JobParams, job

with (Path(__file__).parent / "imported.txt").open("a") as file:
    file.write(Path(__file__).stem + "\\n")


class Params(JobParams):
    most: int = 1


@job()
def run(ctx, params): ...
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An operator's folder with the job `tally`, which writes down each of its imports."""
    made = tmp_path / "jobs"
    made.mkdir()
    (made / "tally.py").write_text(JOB, encoding="utf-8")
    return made


def imported(folder: Path) -> list[str]:
    file = folder / "imported.txt"
    return file.read_text(encoding="utf-8").split() if file.exists() else []


def error_of(registry: JobRegistry, name: str) -> str:
    job = registry.jobs[name]
    assert isinstance(job, BrokenJob)
    return job.error


def test_a_job_is_imported_when_it_is_looked_up_and_not_before(folder: Path) -> None:
    (folder / "other.py").write_text(JOB, encoding="utf-8")
    registry = JobRegistry((folder,))

    assert {"tally", "other", "vacuum"} <= set(registry.jobs)
    assert "tally" in registry.jobs
    assert imported(folder) == []
    job = registry.jobs["tally"]

    assert isinstance(job, JobDescription)
    assert (job.name, job.path, job.summary) == ("tally", folder / "tally.py", "Count things.")
    assert imported(folder) == ["tally"]


def test_a_description_is_kept_between_starts_until_the_module_changes(folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    assert JobRegistry((folder,), kept).validate("tally", {"most": "x"})[0].location == ("most",)

    again = JobRegistry((folder,), kept)
    assert again.jobs["tally"] == JobRegistry((folder,), kept).jobs["tally"]
    assert again.validate("tally", {"most": "x"})[0].location == ("most",)
    assert imported(folder) == ["tally"]

    (folder / "tally.py").write_text(JOB.replace("Count things", "Count others"), encoding="utf-8")
    assert again.refresh()
    job = again.jobs["tally"]
    assert isinstance(job, JobDescription)
    assert job.summary == "Count others."
    assert imported(folder) == ["tally", "tally"]


def test_a_module_that_was_only_touched_is_not_imported_again(folder: Path, tmp_path: Path) -> None:
    assert JobRegistry((folder,), tmp_path / "kept.json").jobs["tally"]
    (folder / "tally.py").touch()

    assert JobRegistry((folder,), tmp_path / "kept.json").jobs["tally"]

    assert imported(folder) == ["tally"]


def test_a_change_of_a_private_module_of_the_folder_describes_its_jobs_again(folder: Path, tmp_path: Path) -> None:
    registry = JobRegistry((folder,), tmp_path / "kept.json")
    assert registry.jobs["tally"]
    (folder / "_shared.py").write_text("LIMIT = 3\n", encoding="utf-8")

    assert registry.refresh()
    assert registry.jobs["tally"]
    assert "_shared" not in registry.jobs

    assert imported(folder) == ["tally", "tally"]


@pytest.mark.parametrize("computed", ["another maintd", None, 7])
def test_answers_of_other_code_are_not_used(tmp_path: Path, computed: object) -> None:
    file = tmp_path / "kept.json"
    cache = DescriptionCache(file)
    cache.put("key", {"job": {}})
    cache.save()
    assert DescriptionCache(file).get("key") == {"job": {}}

    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, "computed_by": computed}), encoding="utf-8")

    assert DescriptionCache(file).get("key") is None
    assert DescriptionCache(None, file).get("key") is None


def test_what_the_build_writes_answers_for_the_shipped_jobs_and_their_calendar(tmp_path: Path) -> None:
    file = tmp_path / "share" / "prebuilt.json"

    prebuild(file)

    cache = DescriptionCache(None, file)
    for path in shipped("jobs").glob("[a-z]*.py"):
        answer = cache.get(cache_key("describe", path.stem, source_digest(path)))
        assert answer["job"]["name"] == path.stem
    collect = shipped("jobs") / "capacity_report.py"
    params = {"report": False}  # of the shipped calendar
    assert cache.get(cache_key("validate", "capacity_report", source_digest(collect), params)) == {"problems": []}


def test_all_that_shipped_jobs_import_of_maintd_counts_for_the_cache() -> None:
    code = (
        "import sys; from pathlib import Path; from maintd.job.description import load_job\n"
        "for path in sys.argv[1:]: load_job(Path(path))\n"
        "print(*sorted(name for name in sys.modules if name.startswith('maintd.')))\n"
    )
    argv = [sys.executable, "-c", code, *map(str, shipped("jobs").glob("[a-z]*.py"))]

    modules = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()

    packages = {name.split(".")[1] for name in modules if name.count(".") > 1}
    assert packages <= set(IMPORTED_BY_JOBS)
    assert len(computed_by()) == 64


# --- modules that cannot be used ---


def test_links_in_a_loop_are_the_error_of_that_one_job(folder: Path) -> None:
    (folder / "loop.py").symlink_to("loop.py")
    registry = JobRegistry((folder,))

    assert error_of(registry, "loop") == f"{folder}/loop.py: cannot be read: Too many levels of symbolic links"
    assert isinstance(registry.jobs["tally"], JobDescription)
    assert not registry.refresh()


@pytest.mark.parametrize("kind", ["folder", "pipe", "dangling link"])
def test_what_is_not_a_file_is_the_error_of_that_one_job(folder: Path, kind: str) -> None:
    odd = folder / "odd.py"
    if kind == "folder":
        odd.mkdir()
    elif kind == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to("nowhere.py")
    registry = JobRegistry((folder,))

    assert "cannot be read: " in error_of(registry, "odd")
    assert isinstance(registry.jobs["tally"], JobDescription)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("import os\nos._exit(0)\n", "importing it ends the process"),
        ("def run(:\n", ":1: invalid syntax"),
        ("1 / 0\n", ":1: cannot be imported: ZeroDivisionError"),
        ("", "has no function `run` decorated with @job"),
    ],
)
def test_a_module_that_cannot_be_imported_is_broken_alone(folder: Path, text: str, error: str) -> None:
    (folder / "bad.py").write_text(text, encoding="utf-8")
    registry = JobRegistry((folder,))

    with registry.one_process():
        assert error in error_of(registry, "bad")
        assert isinstance(registry.jobs["tally"], JobDescription)
    assert [job.name for job in registry.broken] == ["bad"]


def test_two_modules_of_one_name_are_refused_and_named(folder: Path) -> None:
    (folder / "vacuum.py").write_text(JOB, encoding="utf-8")

    error = error_of(JobRegistry((folder,)), "vacuum")

    assert error.startswith("two modules are called vacuum: ")
    assert f"{folder}/vacuum.py" in error


def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="is not a folder of job modules; correct MAINTD_JOBS_PATH"):
        JobRegistry((tmp_path / "none",)).jobs  # noqa: B018 - the folder is read here


# --- in the background ---


def test_other_jobs_are_described_in_the_background_and_broken_ones_are_logged(folder: Path) -> None:
    (folder / "bad.py").write_text("1 / 0\n", encoding="utf-8")
    registry = JobRegistry((folder,))
    assert registry.refresh()
    assert registry.broken == []

    with capture_logs() as logs:
        registry.describe_in_background()
        wait_for(lambda: registry.broken, "the broken job is found", seconds=60)
        wait_for(lambda: imported(folder) == ["tally"], "all jobs are described", seconds=60)

    assert [(line["event"], line["job"]) for line in logs] == [("job_broken", "bad")]


def test_a_module_that_hangs_delays_neither_a_look_up_nor_the_end(folder: Path) -> None:
    (folder / "a_hanging.py").write_text(JOB + "import time\ntime.sleep(600)\n", encoding="utf-8")
    registry = JobRegistry((folder,))
    assert registry.refresh()

    registry.describe_in_background()
    wait_for(lambda: imported(folder) == ["a_hanging"], "the import has begun", seconds=60)
    job = registry.jobs["tally"]
    registry.close()

    assert isinstance(job, JobDescription)
