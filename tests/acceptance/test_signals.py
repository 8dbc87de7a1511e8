"""Several signals at once: `make` forwards a signal that the terminal has sent to the whole group."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from support.servers.base import wait_for
from support.servers.maintd import maintd_daemon

pytestmark = pytest.mark.slow

ROUNDS = 6


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_several_signals_at_once_stop_the_daemon_like_one(tmp_path: Path, round_: int) -> None:
    # Handled in the signal handler, several signals hung the main thread one time in four.
    with maintd_daemon(tmp_path) as daemon:
        with suppress(ProcessLookupError):
            for number in range(60):
                os.kill(daemon.process.pid, (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)[number % 3])
        wait_for(lambda: daemon.process.poll() is not None, "the daemon ends")
        assert daemon.process.returncode == 0
        assert "daemon_stopped" in daemon.log_text()


def test_sighup_reloads_and_the_daemon_continues(tmp_path: Path) -> None:
    with maintd_daemon(tmp_path) as daemon:
        daemon.calendar.write_text(daemon.calendar.read_text().replace("02:30", "02:40"))
        for _ in range(40):
            os.kill(daemon.process.pid, signal.SIGHUP)
        wait_for(lambda: "02:40" in daemon.maintd("next").out, "the calendar is loaded")
        assert daemon.process.poll() is None
