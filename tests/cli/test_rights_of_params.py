"""A token gives no more than its role, also where params of a trigger would name a program."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.servers.maintd import RunningDaemon, maintd_daemon

pytestmark = pytest.mark.slow

CALENDAR = """
timezone: UTC
entries:
  good:
    steps: [{command: {argv: ["true"]}}]
"""


def token(daemon: RunningDaemon, name: str, role: str, *more: str) -> Path:
    done = daemon.maintd("token", "create", name, "--role", role, "--expires", "1d", *more)
    assert done.code == 0, done.err
    path = daemon.cwd / f"{name}.token"
    path.write_text(next(word for word in done.out.split() if word.startswith("maintd_")))
    path.chmod(0o600)
    return path


def test_params_that_name_a_program_need_an_admin_with_all_entries(tmp_path: Path) -> None:
    with maintd_daemon(tmp_path, CALENDAR) as daemon:
        program = ("-p", 'argv=["id"]')

        def trigger(file: Path, *words: str) -> tuple[int, str]:
            done = daemon.maintd("--url", daemon.page, "--token-file", file, "trigger", *words)
            return done.code, done.err

        operator = token(daemon, "ops", "operator")
        limited = token(daemon, "few", "admin", "--entries", "good")
        admin = token(daemon, "root", "admin")

        assert trigger(operator, "good")[0] == 0
        for refused in (operator, limited):
            code, text = trigger(refused, "good", *program)
            assert (code, "name programs that run with the rights of maintd" in text) == (4, True), text
        assert trigger(operator, "command", *program)[0] == 4
        assert trigger(admin, "good", *program)[0] == 0
        assert daemon.maintd("trigger", "good", *program).code == 0, "the socket is the admin's"
