"""A user without a home, and runs that no store knows."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest

from maintd.cli.control_socket import default_state_dir_text
from maintd.config.settings import default_state_dir
from maintd.executor.foreground import discard_unrecorded

LIMIT = timedelta(days=10)


@pytest.mark.parametrize("uid", [54_321, 65_533, 2_000_000])
def test_a_uid_without_passwd_entry_and_without_home_has_a_state_directory(
    monkeypatch: pytest.MonkeyPatch, uid: int
) -> None:
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(os, "getuid", lambda: uid)

    assert default_state_dir() == Path("/var/lib/maintd") == Path(default_state_dir_text())


def folder(artifacts: Path, name: str, days: float) -> None:
    (artifacts / name / "step/1").mkdir(parents=True)
    at = time.time() - days * 86_400
    os.utime(artifacts / name, (at, at))


def test_artifacts_of_unrecorded_runs_are_deleted_by_age_and_number(tmp_path: Path) -> None:
    for name, days in (("here-old", 11), ("here-a", 9), ("here-b", 2), ("here-c", 1), ("7", 900), ("other", 900)):
        folder(tmp_path, name, days)
    (tmp_path / "here-file").write_text("no folder")
    (tmp_path / "here-link").symlink_to(tmp_path / "7")

    assert sorted(discard_unrecorded(tmp_path, LIMIT, keep=2)) == ["here-a", "here-old"]

    assert {path.name for path in tmp_path.iterdir()} == {"here-b", "here-c", "here-file", "here-link", "7", "other"}
    assert (tmp_path / "7/step/1").is_dir()


def test_a_folder_of_artifacts_that_is_missing_is_no_error(tmp_path: Path) -> None:
    assert discard_unrecorded(tmp_path / "none", LIMIT) == []
