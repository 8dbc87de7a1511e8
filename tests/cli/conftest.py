from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.servers.maintd import JOBS, Shell


@pytest.fixture(scope="session")
def remembered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cached descriptions of the shipped and the small jobs: importing them all takes seconds."""
    folder = tmp_path_factory.mktemp("remembered")
    (folder / "schedules.yaml").write_text(
        "timezone: UTC\nentries:\n"
        "  a: {title: A, steps: [greet: {whom: ana}]}\n  b: {title: B, steps: [greet, greet: {whom: Zoë}]}\n"
    )
    environ = {"MAINTD_STATE_DIR": str(folder), "MAINTD_JOBS_PATH": str(JOBS)}
    assert Shell(folder, environ).maintd("validate").code == 0
    return folder / "job_descriptions.json"


@pytest.fixture
def shell(tmp_path: Path, remembered: Path) -> Shell:
    """An empty folder with a state directory in it, and no daemon anywhere."""
    state = tmp_path / "state"
    state.mkdir()
    shutil.copy(remembered, state)
    return Shell(tmp_path, {"MAINTD_STATE_DIR": str(state), "MAINTD_LISTEN": ""})
