"""A session ends, and has run every test, although one of its workers crashes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

CONFTEST = """
from support.scheduling import FileScheduling

def pytest_xdist_make_scheduler(config, log):
    return FileScheduling(config, log)
"""


CRASHES_ONCE = """
import os
from pathlib import Path

def test_crash():
    try:
        Path("crashed").touch(exist_ok=False)
    except FileExistsError:
        return
    os._exit(1)
"""


@pytest.mark.slow
def test_a_session_whose_worker_crashes_runs_all_files_and_ends(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for number in range(12):
        (tmp_path / f"test_{number:02}.py").write_text("def test_one(): pass\n\ndef test_two(): pass\n")
    (tmp_path / "test_08.py").write_text(CRASHES_ONCE)
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    argv = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", "-q", "-p", "no:cacheprovider"]

    ended = subprocess.run(
        [*argv, "--rootdir", str(tmp_path), "-p", "no:randomly", str(tmp_path)],
        cwd=tmp_path,
        env=environ | {"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert "crashed while running 'test_08.py::test_crash'" in ended.stdout
    assert "1 failed, 23 passed" in ended.stdout
