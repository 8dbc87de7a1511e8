"""What the template loads in advance, and that it stays a process that may fork."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from maintd.catalogue import Catalogue
from maintd.execution.warm import Warm
from maintd.job import imports_of


@pytest.fixture
def shipped_imports() -> set[str]:
    return {name for job in Catalogue().jobs.values() for name in getattr(job, "imports", ())}


@pytest.fixture
def warm(tmp_path: Path, shipped_imports: set[str]) -> Iterator[Warm]:
    template = Warm(tmp_path, timedelta(seconds=1), lambda: shipped_imports)
    template.start()
    yield template
    template.stop()


def _maps(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")


def test_has_loaded_what_the_shipped_jobs_import_and_has_one_thread(warm: Warm) -> None:
    deadline = time.monotonic() + 30
    while not warm.is_ready and time.monotonic() < deadline:
        time.sleep(0.01)
    assert warm.is_ready
    assert warm.pid is not None
    assert "psycopg" in _maps(warm.pid)
    assert "numpy" in _maps(warm.pid)
    assert len(list(Path(f"/proc/{warm.pid}/task").iterdir())) == 1
    environ = Path(f"/proc/{warm.pid}/environ").read_bytes()
    assert b"OPENBLAS" not in environ


def test_a_template_for_jobs_that_need_nothing_is_small(tmp_path: Path) -> None:
    template = Warm(tmp_path, timedelta(seconds=1), lambda: ("json", "no_such_module"))
    template.start()
    try:
        deadline = time.monotonic() + 30
        while not template.is_ready and time.monotonic() < deadline:
            time.sleep(0.01)
        assert template.is_ready
        assert template.pid is not None
        assert "psycopg" not in _maps(template.pid)
    finally:
        template.stop()


def test_imports_are_those_of_the_top_level_from_known_packages(tmp_path: Path) -> None:
    path = tmp_path / "one.py"
    path.write_text(
        '"""One."""\n'
        "from __future__ import annotations\n"
        "import json, pandas\n"
        "import os.path\n"
        "from maintd.targets import docker, shell\n"
        "from collections.abc import *\n"
        "from . import beside\n"
        "from unknown_package import thing\n"
        "def run():\n    import redis\n"
    )
    assert imports_of(path) == (
        "__future__", "__future__.annotations", "json", "os.path", "maintd.targets", "maintd.targets.docker",
        "maintd.targets.shell", "collections.abc",
    )  # fmt: skip
    path.write_text("def (:\n")
    assert imports_of(path) == ()
    assert imports_of(tmp_path / "none.py") == ()
