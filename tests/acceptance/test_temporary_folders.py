"""Test sessions leave nothing in the temporary directory, also when they are killed, and delete nothing of others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from support.servers.base import wait_for

ROOT = Path(__file__).parents[2]


MINE = ["maintd-backup", "maintd-of-mine", "other"]


def session(above: Path, *more: Path) -> subprocess.Popen[bytes]:
    """A session that only collects the tests of a file and of those given; it has a temporary folder as any other."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")} | {"TMPDIR": str(above)}
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--collect-only",
        "tests/unit/test_tokens.py",
        *more,
    ]
    return subprocess.Popen(argv, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def names(above: Path) -> list[str]:
    return sorted(path.name for path in above.iterdir())


def test_the_folder_of_a_killed_session_is_deleted_by_the_next_one_and_nothing_else_is() -> None:
    with tempfile.TemporaryDirectory(prefix="killed-") as name:
        above = Path(name)
        above.chmod(0o755)  # a session keeps away from a private folder
        for mine in MINE:
            (above / mine).mkdir()
            (above / mine / "file").touch()
        (above / "maintd-backup" / "pytest-session").symlink_to(above / "other" / "file")

        endless = above / "other" / "test_endless.py"
        endless.write_text("import signal\n\nsignal.pause()\n")
        killed = session(above, endless)
        wait_for(lambda: list(above.glob("maintd-????????/pytest-session")), "the session has a folder")
        killed.send_signal(signal.SIGKILL)
        killed.wait(60)
        assert len(names(above)) == len(MINE) + 1
        beside = session(above)
        assert beside.wait(300) == 0

        assert names(above) == MINE
        assert all((above / mine / "file").exists() for mine in MINE)
