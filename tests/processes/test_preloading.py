"""What the template imports before it forks: libraries and job modules, without any difference to the attempts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from support.nodes import Node, is_alive, node
from support.servers.base import wait_for

from maintd.executor import fork_client, preloading
from maintd.executor.fork_client import ForkClient, Preload
from maintd.executor.run_context import imports_of
from maintd.job.description import imports_of as imports_of_module
from maintd.job.description import load_job
from maintd.job.registry import JobRegistry
from maintd.model.job import JobDescription
from maintd.model.run import RunState

SEEN = """
    with open(params.into, "a") as file:
        file.write(f"{os.getppid()} {VALUE}\\n")
"""


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Node]:
    with node(tmp_path, warm_before="1h") as made:
        yield made


def write(
    here: Node, name: str, value: str, *, body: str = SEEN, top: str = "", traits: str = "", folder: Path | None = None
) -> str:
    """Write a job of the calendar whose module has VALUE, evaluated while it is imported; its name."""
    path = (folder or here.jobs_dir) / f"{name}.py"
    path.parent.mkdir(exist_ok=True)
    source = (
        '"""A job of a test."""\n\nimport os, sys, threading, time\nfrom maintd.job import Context, JobParams, job\n'
    )
    source += f"{top}\nVALUE = {value}\n\n\nclass Params(JobParams):\n    into: str = ''\n\n\n"
    source += f'@job(timeout="1m", {traits})\ndef run(ctx: Context, params: Params) -> None:\n{body}\n'
    path.write_text(source, encoding="utf-8")
    here.jobs[name] = load_job(path).description
    here.calendar_jobs.add(name)
    return name


def template(here: Node) -> int:
    """Wait until the template is ready; its pid."""
    here.executor.expect(None)
    here.executor.expect(here.store.now())
    wait_for(lambda: here.executor.template_ready, "the template is ready", 60)
    assert here.executor.template_pid is not None
    return here.executor.template_pid


def seen(here: Node, name: str, times: int = 1) -> list[tuple[int, str]]:
    """What so many runs, one after the other, wrote: their parent and VALUE."""
    into = here.folder / f"{name}.seen"
    into.unlink(missing_ok=True)
    for _ in range(times):
        run = here.ended(here.queue(here.step(name, {"into": str(into)})), 60)
        assert run.state is RunState.SUCCEEDED, run.reason
    lines = [line.split(" ", 1) for line in into.read_text().splitlines()]
    return [(int(parent), value) for parent, value in lines]


def values(here: Node, name: str, times: int = 1) -> set[str]:
    return {value for _, value in seen(here, name, times)}


# --- the modules of jobs ---


def test_a_job_of_the_calendar_is_imported_once_in_the_template(here: Node) -> None:
    name = write(here, "once", "os.getpid()")
    pid = template(here)

    assert seen(here, name, 3) == [(pid, str(pid))] * 3


def test_a_fresh_job_is_imported_in_each_attempt(here: Node) -> None:
    name = write(here, "anew", "os.getpid()", traits="fresh=True")
    pid = template(here)

    found = seen(here, name, 3)

    assert {parent for parent, _ in found} == {pid}
    assert len({value for _, value in found} - {str(pid)}) == 3


def test_no_attempt_finds_what_another_left_in_the_module(here: Node) -> None:
    name = write(here, "grows", "[]", body="    VALUE.append(len(VALUE))\n" + SEEN)
    template(here)

    assert values(here, name, 3) == {"[0]"}


@pytest.mark.parametrize("keeps_time", [False, True])
def test_an_edited_job_is_live_at_its_next_run(here: Node, keeps_time: bool) -> None:
    name = write(here, "edited", "111")
    path = here.jobs[name].path
    first = template(here)
    assert values(here, name) == {"111"}
    before = path.stat()

    write(here, name, "222")
    if keeps_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_size == before.st_size

    assert values(here, name, 2) == {"222"}
    second = template(here)
    assert second != first
    assert seen(here, name) == [(second, "222")]
    wait_for(lambda: not is_alive(first), "the first template ends")


def test_a_module_beside_the_job_that_is_edited_counts_too(here: Node) -> None:
    beside = here.jobs_dir / "beside_the_job.py"
    beside.write_text("VALUE = 'old'\n")
    top = f"sys.path.insert(0, {str(here.jobs_dir)!r}); import beside_the_job"
    name = write(here, "helped", "beside_the_job.VALUE", top=top)
    template(here)
    assert values(here, name) == {"old"}

    beside.write_text("VALUE = 'new'\n")

    assert values(here, name) == {"new"}


def test_jobs_of_two_folders_have_modules_of_one_name(here: Node) -> None:
    names = []
    for which in ("first", "second"):
        folder = here.folder / which
        top = f"sys.path.insert(0, {str(folder)!r}); import of_one_name"
        folder.mkdir()
        (folder / "of_one_name.py").write_text(f"VALUE = {which!r}\n")
        names.append(write(here, f"of_{which}", "of_one_name.VALUE", top=top, folder=folder))
    template(here)

    assert [values(here, name) for name in names] == [{"first"}, {"second"}]


def test_an_attempt_under_way_is_not_disturbed_by_an_edit(here: Node) -> None:
    body = """
    open(params.into, "w").write("x")
    while not os.path.exists(params.into + ".go"):
        time.sleep(0.01)
"""
    name, into = write(here, "under_way", "1", body=body), here.folder / "under_way"
    first = template(here)
    run_id = here.queue(here.step(name, {"into": str(into)}))
    wait_for(into.exists, "it runs")

    write(here, name, "2")
    assert values(here, name) == {"2"}
    assert template(here) != first
    assert is_alive(first)
    Path(f"{into}.go").touch()

    assert here.ended(run_id).state is RunState.SUCCEEDED
    wait_for(lambda: not is_alive(first), "the first template ends with its last attempt")


def test_a_job_that_is_new_in_the_calendar_is_preloaded_by_the_next_template(here: Node) -> None:
    write(here, "known", "1")
    first = template(here)

    name = write(here, "new_one", "os.getpid()")
    wait_for(lambda: template(here) != first, "another template")

    second = template(here)
    assert seen(here, name) == [(second, str(second))]


# --- modules that must not break the others ---


def edit(here: Node, name: str, more: str) -> None:
    """Add to a job's module what its description does not know."""
    path = here.jobs[name].path
    path.write_text(path.read_text() + more + "\n")


BREAKS = {
    "raises": "raise RuntimeError('not today')",
    "calls sys.exit": "sys.exit('not today')",
    "ends the process": "os._exit(3)",
    "kills the process": "import signal; os.kill(os.getpid(), signal.SIGKILL)",
    "hangs": "time.sleep(3600)",
    "starts a thread": "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
    "leaves a file open": "KEPT = open(os.devnull)",
}


@pytest.mark.slow
@pytest.mark.parametrize("how", BREAKS)
def test_a_module_that_cannot_be_preloaded_breaks_no_other_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    with node(tmp_path, warm_before="1h") as here:
        bad, good = write(here, "a_bad_one", "1"), write(here, "good_one", "os.getpid()")
        condition = f"if os.environ.get('MAINTD_ENTRY') is None:\n    {BREAKS[how]}\n"
        edit(here, bad, condition)  # only while it is preloaded: an attempt has an entry
        here.queue(here.step(bad))

        run = here.ended(here.queue(here.step(good, {"into": str(tmp_path / "seen")})), 60)

        assert run.state is RunState.SUCCEEDED, run.reason
        pid = template(here)
        assert seen(here, good) == [(pid, str(pid))]
        assert seen(here, bad, 2) == [(pid, "1")] * 2


def test_a_module_that_raises_fails_its_own_run_with_the_reason(here: Node) -> None:
    name = write(here, "broken", "1")
    edit(here, name, "raise RuntimeError('not today')")
    template(here)

    run = here.ended(here.queue(here.step(name)))

    assert run.state is RunState.FAILED
    assert "not today" in run.reason
    assert f"{here.jobs[name].path}:" in run.reason


def test_a_module_that_was_not_preloaded_is_tried_again_after_an_edit(here: Node) -> None:
    name = write(here, "mended", "os.getpid()")
    source = here.jobs[name].path.read_text()
    edit(here, name, "if os.environ.get('MAINTD_ENTRY') is None: os._exit(3)")
    pid = template(here)
    assert seen(here, name)[0] != (pid, str(pid))

    here.jobs[name].path.write_text(source)
    wait_for(lambda: template(here) != pid, "another template")

    pid = template(here)
    assert seen(here, name) == [(pid, str(pid))]


@pytest.mark.slow
def test_after_several_bad_modules_no_module_is_preloaded(here: Node) -> None:
    names = [write(here, f"bad_{number}", "1") for number in range(fork_client.FAILED_PRELOADS + 3)]
    for name in names:
        edit(here, name, "if os.environ.get('MAINTD_ENTRY') is None: os._exit(3)")

    assert all(values(here, name) == {"1"} for name in names)


def test_a_template_that_is_killed_while_it_imports_costs_no_run(here: Node) -> None:
    name = write(here, "slow_import", "1", top="if os.environ.get('MAINTD_ENTRY') is None: time.sleep(2)")
    here.executor.expect(here.store.now())
    pid = wait_for(lambda: here.executor.template_pid, "a template")
    run_id = here.queue(here.step(name, {"into": str(here.folder / "x")}))
    time.sleep(0.5)

    os.kill(pid, signal.SIGKILL)

    assert here.ended(run_id, 60).state is RunState.SUCCEEDED


# --- libraries ---


@contextmanager
def ready(folder: Path, preload: Preload) -> Iterator[int]:
    """A template that has imported these; its pid."""
    client = ForkClient(folder, timedelta(seconds=1), lambda: preload)
    client.start()
    try:
        wait_for(lambda: client.is_ready, "the template is ready", 60)
        assert client.pid is not None
        yield client.pid
    finally:
        client.stop()


def preload_of(imports: Iterable[str]) -> Preload:
    return Preload(imports=frozenset(imports))


def libraries_of(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")


def test_with_all_shipped_jobs_the_template_has_one_thread(tmp_path: Path) -> None:
    jobs = JobRegistry().jobs
    paths = frozenset(job.path for job in jobs.values() if isinstance(job, JobDescription))
    with ready(tmp_path, Preload(imports_of(jobs, jobs), paths)) as pid:
        assert "psycopg" in libraries_of(pid)
        assert "numpy" in libraries_of(pid)  # whose BLAS would start a thread for each processor
        assert psutil.Process(pid).num_threads() == 1


PRELOAD = """
import json, sys
from pathlib import Path
from maintd.executor.preloading import preload_jobs, single_threaded_blas

imported = []
single_threaded_blas()  # threads of a library of linear algebra would end the process
preloaded = preload_jobs(map(Path, sys.argv[1:]), imported.append)
print(json.dumps([list(preloaded), list(map(str, imported))]))
"""
"""A process of its own: `preload_jobs` ends its process when a thread or a descriptor is left behind."""


def test_the_shipped_jobs_can_all_be_preloaded() -> None:
    paths = [str(job.path) for job in JobRegistry().jobs.values() if isinstance(job, JobDescription)]

    done = subprocess.run([sys.executable, "-c", PRELOAD, *paths], capture_output=True, text=True, check=True)

    assert len(paths) >= 15
    assert json.loads(done.stdout) == [paths, paths]


def test_for_jobs_that_need_nothing_the_template_imports_nothing(tmp_path: Path) -> None:
    with ready(tmp_path, Preload()) as pid:
        assert "psycopg" not in libraries_of(pid)


def test_a_library_that_is_missing_or_broken_is_left_to_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_one.py").write_text("1 / 0\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with ready(tmp_path, preload_of(("no_such_module", "broken_one", "psycopg"))) as pid:
        assert "psycopg" in libraries_of(pid)


def test_settings_for_the_imports_are_removed_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)

    restore = preloading.single_threaded_blas()
    assert os.environ["OPENBLAS_NUM_THREADS"] == "1"
    restore()

    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert "OPENBLAS_NUM_THREADS" not in os.environ


def test_an_attempt_finds_the_libraries_of_its_job_imported(tmp_path: Path) -> None:
    with node(tmp_path) as made:
        job = made.job('ctx.check("imported", "graphlib" in EARLY, equals=True)', name="early")
        path = made.jobs[job].path
        early = "import sys\nEARLY = set(sys.modules)\nimport graphlib\nimport time\n"
        path.write_text(path.read_text(encoding="utf-8").replace("import time\n", early, 1), encoding="utf-8")
        made.jobs[job] = load_job(path).description

        run = made.ended(made.queue(made.step(job, {})))

        assert run.state == "succeeded", run.reason


def test_imports_are_those_of_the_top_level_from_known_packages(tmp_path: Path) -> None:
    path = tmp_path / "one.py"
    path.write_text(
        '"""One."""\n'
        "import json, pandas\n"
        "import os.path\n"
        "from maintd.clients import docker, shell\n"
        "from collections.abc import *\n"
        "from . import beside\n"
        "from unknown_package import thing\n"
        "def run():\n    import redis\n",
        encoding="utf-8",
    )
    assert imports_of_module(path) == (
        "json",
        "os.path",
        "maintd.clients",
        "maintd.clients.docker",
        "maintd.clients.shell",
        "collections.abc",
    )
    path.write_text("def (:\n", encoding="utf-8")
    assert imports_of_module(path) == ()
    assert imports_of_module(tmp_path / "none.py") == ()
