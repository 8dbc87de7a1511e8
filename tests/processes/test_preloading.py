"""What the template loads in advance, and that it stays a process that may fork."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from support.nodes import node
from support.servers.base import wait_for

from maintd.executor import template
from maintd.executor.fork_client import Warm
from maintd.executor.means import imports_of
from maintd.job.description import imports_of as imports_of_module
from maintd.job.description import load_job
from maintd.job.registry import JobRegistry


@contextmanager
def ready(folder: Path, modules: Iterable[str]) -> Iterator[int]:
    """A template that has loaded these; its pid."""
    warm = Warm(folder, timedelta(seconds=1), lambda: modules)
    warm.start()
    try:
        wait_for(lambda: warm.is_ready, "the template is ready", 30)
        assert warm.pid is not None
        yield warm.pid
    finally:
        warm.stop()


def libraries_of(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")


def test_with_all_that_shipped_jobs_import_it_has_one_thread(tmp_path: Path) -> None:
    jobs = JobRegistry().jobs
    with ready(tmp_path, imports_of(jobs, jobs)) as pid:
        assert "psycopg" in libraries_of(pid)
        assert "numpy" in libraries_of(pid)  # whose BLAS would start a thread for each processor
        assert len(list(Path(f"/proc/{pid}/task").iterdir())) == 1


def test_for_jobs_that_need_nothing_it_loads_nothing(tmp_path: Path) -> None:
    with ready(tmp_path, ()) as pid:
        assert "psycopg" not in libraries_of(pid)


def test_a_module_that_is_missing_or_broken_is_left_to_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_one.py").write_text("1 / 0\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with ready(tmp_path, ("no_such_module", "broken_one", "redis")) as pid:
        assert "redis" in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")


def test_settings_for_the_loading_are_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)

    template._load(["json"])

    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert "OPENBLAS_NUM_THREADS" not in os.environ


def test_an_attempt_finds_loaded_what_its_job_imports(tmp_path: Path) -> None:
    with node(tmp_path) as made:
        job = made.job('ctx.check("loaded", "graphlib" in LOADED, equals=True)', name="early")
        path = made.jobs[job].path
        early = "import sys\nLOADED = set(sys.modules)\nimport graphlib\nimport time\n"
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
