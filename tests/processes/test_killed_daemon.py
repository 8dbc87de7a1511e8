"""A daemon that is killed while it starts: its helpers end without a word, and the next one works."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from support.servers.base import wait_for
from support.servers.maintd import CALENDAR, JOBS, MAINTD, clean_environ, maintd_daemon


@pytest.mark.parametrize("after", ["first line", 0.2, 0.6, 1.0, 1.5])
def test_a_daemon_that_is_killed_leaves_no_traceback(after: str | float, tmp_path: Path) -> None:
    (tmp_path / "schedules.yaml").write_text(CALENDAR)
    environ = {
        "MAINTD_STATE_DIR": str(tmp_path / "state"),
        "MAINTD_CALENDAR": str(tmp_path / "schedules.yaml"),
        "MAINTD_JOBS_PATH": str(JOBS),
        "MAINTD_LISTEN": "",
    }
    log = tmp_path / "killed.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [MAINTD, "serve"], env=clean_environ(**environ), cwd=tmp_path, stdout=out, stderr=subprocess.STDOUT
        )
        if isinstance(after, float):
            time.sleep(after)
        else:
            wait_for(lambda: log.stat().st_size > 0 or process.poll() is not None, "it logs")
        process.kill()
        process.wait()

    with maintd_daemon(tmp_path) as daemon:
        assert daemon.maintd("trigger", "greeting", "--wait").code == 0
    assert "Traceback" not in log.read_text()
