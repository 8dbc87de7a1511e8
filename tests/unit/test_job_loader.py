"""Job modules are compiled from their source, whatever a cached .pyc claims."""

from __future__ import annotations

import os
import py_compile
import subprocess
import sys
from pathlib import Path

import pytest

from maintd.errors import JobError
from maintd.job.description import load_job
from maintd.job.loader import open_job

JOB = '"""A job."""\n{imports}from maintd.job import job\nVALUE = {value}\n@job({traits})\ndef run(ctx, params): ...\n'


def write(path: Path, value: str, imports: str = "", traits: str = "") -> None:
    path.write_text(JOB.format(value=value, imports=imports, traits=traits), encoding="utf-8")


def value_in_new_process(path: Path) -> str:
    code = "import sys; from pathlib import Path; from maintd.job.loader import open_job\n"
    code += "print(open_job(Path(sys.argv[1]))[0].__globals__['VALUE'])"
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.parametrize("edited", ["job", "module beside it"])
def test_an_edit_that_keeps_time_and_size_runs_the_new_code(tmp_path: Path, edited: str) -> None:
    path, beside = tmp_path / "edited_job.py", tmp_path / "beside_edited_job.py"
    imports = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import beside_edited_job\n"
    write(path, "beside_edited_job.VALUE" if edited != "job" else "1", imports)
    beside.write_text("VALUE = 1\n", encoding="utf-8")
    changed = path if edited == "job" else beside
    before = changed.stat()
    py_compile.compile(str(changed))

    changed.write_text(changed.read_text(encoding="utf-8").replace("VALUE = 1", "VALUE = 2"), encoding="utf-8")
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert value_in_new_process(path) == "2"


def test_opening_a_job_twice_reads_the_file_twice(tmp_path: Path) -> None:
    path = tmp_path / "read_twice.py"
    write(path, "1")
    assert open_job(path)[0].__globals__["VALUE"] == 1

    write(path, "2")

    assert open_job(path)[0].__globals__["VALUE"] == 2


@pytest.mark.parametrize(("traits", "fresh"), [("", False), ("fresh=True", True)])
def test_the_description_shows_whether_each_attempt_imports_the_module(
    tmp_path: Path, traits: str, fresh: bool
) -> None:
    path = tmp_path / "maybe_fresh.py"
    write(path, "1", traits=traits)

    assert load_job(path).description.fresh is fresh


@pytest.mark.parametrize(
    ("definition", "problem"),
    [
        ("def run(ctx): ...", "too many positional arguments"),
        ("def run(): ...", "too many positional arguments"),
        ("def run(ctx, params, more): ...", "missing a required argument: 'more'"),
        ("def run(ctx, params, *, more): ...", "missing a required argument: 'more'"),
        ("def run(ctx, *, params): ...", "too many positional arguments"),
        ("async def run(ctx, params): ...", "run is a coroutine or a generator, whose call runs nothing of it"),
        ("def run(ctx, params): yield 1", "run is a coroutine or a generator, whose call runs nothing of it"),
    ],
)
def test_a_job_that_cannot_be_called_is_found_when_it_is_described(
    tmp_path: Path, definition: str, problem: str
) -> None:
    path = tmp_path / "uncallable.py"
    path.write_text(f'"""A job."""\nfrom maintd.job import job\n\n@job()\n{definition}\n', encoding="utf-8")

    with pytest.raises(JobError) as found:
        load_job(path)

    assert problem in found.value.message
    assert found.value.message.startswith(f"{path}:4: run ")
    assert found.value.hint is not None and "def run(ctx: Context, params: Params)" in found.value.hint


@pytest.mark.parametrize(
    "definition", ["def run(ctx, params, more=1): ...", "def run(*given): ...", "def run(context, wanted): ..."]
)
def test_a_job_may_name_its_arguments_as_it_likes(tmp_path: Path, definition: str) -> None:
    path = tmp_path / "callable_job.py"
    path.write_text(f'"""A job."""\nfrom maintd.job import job\n@job()\n{definition}\n', encoding="utf-8")

    assert load_job(path).description.name == "callable_job"
