"""A full disk, a read-only disk, a store locked by another process: what is reported, and the hint."""

from __future__ import annotations

import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from support.servers.disks import small_disk
from support.servers.maintd import Shell

pytestmark = pytest.mark.slow


def shell_on(folder: Path, state: Path) -> Shell:
    (folder / "schedules.yaml").write_text("timezone: UTC\nentries: {}\n")
    return Shell(folder, {"MAINTD_STATE_DIR": str(state), "MAINTD_LISTEN": ""})


def test_a_full_disk_is_reported_and_no_run_starts(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "300k") as state:
        (state / "filler").write_bytes(b"")
        with pytest.raises(OSError, match="No space"), (state / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)
        typed = shell_on(tmp_path, state)

        served, upgraded = typed.maintd("serve"), typed.maintd("db", "upgrade")

    assert (served.code, upgraded.code) == (2, 1)
    assert f"state directory {state}: cannot write daemon.pid: No space left on device; free space" in served.err
    assert "the disk is full; free some space" in upgraded.err


def test_a_read_only_state_directory_is_refused_but_can_be_read(tmp_path: Path) -> None:
    with small_disk(tmp_path / "sealed", "8m") as state:
        typed = shell_on(tmp_path, state)
        assert typed.maintd("db", "upgrade").code == 0
        subprocess.run(["mount", "-o", "remount,ro", state], check=True)

        served, pruned, listed = typed.maintd("serve"), typed.maintd("db", "prune"), typed.maintd("history")

    assert served.code == 2
    assert "Read-only file system" in served.err
    assert "make it writable" in served.err
    assert pruned.code == 1
    assert "writable" in pruned.err
    assert listed.code == 0


def test_a_locked_store_names_the_file_and_how_to_find_the_holder(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    typed = shell_on(tmp_path, state)
    assert typed.maintd("db", "upgrade").code == 0

    with closing(sqlite3.connect(state / "maintd.db", isolation_level=None)) as conn:
        conn.execute("BEGIN EXCLUSIVE")
        pruned = typed.maintd("db", "prune")

    assert pruned.code == 1
    assert f"{state}/maintd.db: locked by another process for over 5s; list the processes that use it" in pruned.err
