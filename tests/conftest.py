"""Real servers as fixtures, the temporary folder and the Hypothesis profile of the whole suite.

Fixtures named `…_server` live as long as the session. A test that stops a server starts one of its own.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support.clock import now_within_a_day
from support.scheduling import FileScheduling, longest_files_first
from support.servers import docker, maintd, postgres, prometheus, redis
from support.servers.base import free_port as _free_port
from xdist.remote import Producer

# A slow machine is not a failure: no deadline per example, no limit on how long generating inputs takes.
settings.register_profile("maintd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("maintd")

KEEP = "MAINTD_TESTS_KEEP"
"""A variable: if it is set, the temporary folder of the session is not deleted."""


SESSION = "pytest-session"
"""A file in the temporary folder of a session, locked by it: without the lock, the session was killed."""


MAX_FAILURE_TEXT = 2000
"""Characters of a failure that are printed at once; the summary has all."""


def delete_abandoned_folders(above: Path) -> None:
    """Delete the temporary folders of killed sessions: those of this user with an unlocked SESSION in them."""
    for path in above.glob(f"maintd-*/{SESSION}"):
        with suppress(OSError), os.fdopen(os.open(path, os.O_RDWR | os.O_NOFOLLOW)) as file:
            if os.fstat(file.fileno()).st_uid == path.parent.lstat().st_uid == os.geteuid():
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.parent, ignore_errors=True)


def pytest_configure(config: pytest.Config) -> None:
    """Have one temporary folder for everything that the session and its processes write, deleted at its end.

    The servers of the tests run as other users, so each of them can enter it. Workers of xdist inherit it.
    """
    # Bytecode is kept: else each of the thousands of processes of a session compiles all modules of maintd anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    if os.environ.get("PYTEST_XDIST_WORKER") is not None:
        return
    usual = Path(tempfile.gettempdir()).resolve()
    is_public = all(path.stat().st_mode & 0o001 for path in (usual, *usual.parents))
    above = usual if is_public else Path("/tmp")
    delete_abandoned_folders(above)
    folder = Path(tempfile.mkdtemp(prefix="maintd-", dir=above))
    session = (folder / SESSION).open("w")
    fcntl.flock(session, fcntl.LOCK_EX)
    folder.chmod(0o1777)
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    if config.option.basetemp is None:
        config.option.basetemp = str(folder / "t")  # paths of Unix sockets are short

    def delete() -> None:
        if KEEP in os.environ:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
        session.close()

    config.add_cleanup(delete)


@pytest.hookimpl(trylast=True)  # after they were shuffled
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    longest_files_first(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FileScheduling | None:
    return FileScheduling(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Name a test when it fails, not only in the summary: a session that is stopped from outside prints no summary."""
    if report.failed and os.environ.get("PYTEST_XDIST_WORKER") is None:
        print(f"\nFAILED ({report.when}) {report.nodeid}\n{str(report.longrepr)[-MAX_FAILURE_TEXT:]}", flush=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line per cause what this machine does not have, for tests that were skipped or that do without it."""
    skipped = Counter(
        report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.stats.get("skipped", [])
    )
    for needed, count in skipped.most_common():
        terminalreporter.write_line(f"{count} skipped, which CI would fail: this machine {needed}")
    for report in terminalreporter.stats.get("passed", []):
        for name, value in getattr(report, "user_properties", ()):
            if name == "without" and report.when == "call":
                terminalreporter.write_line(f"{report.nodeid} passed without {value}")


@pytest.fixture
def own_now(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set NOW of the test's module to the time of the test, in whole seconds, with a minute left of the day.

    For modules with `NOW = now_within_a_day()`: at import it is the time of the session's begin.
    """
    monkeypatch.setattr(request.module, "NOW", now_within_a_day().replace(microsecond=0))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.PostgresServer]:
    with postgres.postgres() as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[postgres.PostgresServer]:
    """A Postgres server that the test may stop."""
    with postgres.postgres() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[redis.RedisServer]:
    with redis.redis() as server:
        yield server


@pytest.fixture(scope="session")
def prometheus_server() -> Iterator[prometheus.WebServer]:
    """Prometheus without history; a test that needs some starts its own: `prometheus.prometheus(openmetrics=…)`."""
    with prometheus.prometheus() as server:
        yield server


@pytest.fixture(scope="session")
def alertmanager_server() -> Iterator[prometheus.WebServer]:
    with prometheus.alertmanager() as server:
        yield server


@pytest.fixture(scope="session")
def docker_server() -> Iterator[docker.DockerEngine]:
    with docker.docker_engine() as engine:
        yield engine


@pytest.fixture
def free_port() -> int:
    """A loopback port that nothing listens on."""
    return _free_port()


@pytest.fixture(scope="session")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[maintd.RunningDaemon]:
    """`maintd serve` on SQLite with `support.servers.maintd.CALENDAR`; tests leave its entries idle and unpaused."""
    with maintd.maintd_daemon(tmp_path_factory.mktemp("daemon")) as running:
        yield running
