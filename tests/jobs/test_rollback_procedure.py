"""The shipped entry for a rollback of data, by a real daemon: what the gate shows, who decides, and a killed daemon."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support.rollbacks import BACKED_UP, NAME, Origin, Site, damage, origin_of_backup, rollback_site
from support.servers.base import wait_for
from support.servers.maintd import RunningDaemon, Shell, maintd_daemon
from support.servers.redis import RedisServer

from maintd.client import Client
from maintd.model.run import Run

pytestmark = [pytest.mark.server]

ENTRY = "emergency-data-rollback"
SHIPPED = Path(__file__).parents[2] / "schedules.yaml"
LEASE = {"MAINTD_LEASE": "2s", "MAINTD_HEARTBEAT": "300ms"}


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with origin_of_backup() as made:
        yield made


@pytest.fixture
def site(origin: Origin, redis_server: RedisServer) -> Iterator[Site]:
    with rollback_site(origin, redis_server) as made:
        made.service.set(halted=False)
        damage(made)
        yield made


def calendar(site: Site) -> str:
    """The shipped entry, with a short check of the stability."""
    entry = yaml.safe_load(SHIPPED.read_text())["entries"][ENTRY]
    quick = {"lasts": "1s", "every": "500ms", "requests": None, "health": {"include": ["postgres"]}}
    entry["steps"] = [{"stability_check": quick} if step == "stability_check" else step for step in entry["steps"]]
    entry["always"][0]["params"]["pause"] = "1s"
    return yaml.safe_dump({"timezone": "UTC", "targets": site.targets, "entries": {ENTRY: entry}}, sort_keys=False)


def run_of(daemon: RunningDaemon, number: int) -> Run:
    return Client(daemon.socket).run(number)


def started(daemon: RunningDaemon) -> int:
    """A run that waits at its gate."""
    number: int = daemon.maintd("trigger", ENTRY, "--why", "wrong prices", "--json").json["id"]
    ended(daemon, number, "waiting")
    return number


def ended(daemon: RunningDaemon, number: int, *states: str) -> Run:
    def found() -> Run | None:
        run = run_of(daemon, number)
        assert run.state in (*states, "queued", "running"), run.reason
        return run if run.state in states else None

    run: Run = wait_for(found, f"run {number} is {states}", seconds=300, every=0.3)
    return run


def approve(daemon: RunningDaemon, number: int) -> None:
    for item in ("2", "3"):
        assert daemon.maintd("approve", str(number), "--item", item).code == 0
    # Who requested it is the only user here.
    done = daemon.maintd("approve", str(number), "--emergency", "--why", "alone at night")
    assert done.code == 0, done.err


def test_data_are_rolled_back_after_a_person_saw_the_loss_and_approved(site: Site, tmp_path: Path) -> None:
    with maintd_daemon(tmp_path, calendar(site)) as daemon:
        number = started(daemon)
        halted = site.service.halted
        gate = daemon.maintd("gates").out
        refused = daemon.maintd("approve", str(number), "--item", "1")

        approve(daemon, number)
        run = ended(daemon, number, "succeeded", "warned", "unknown", "failed")

    assert halted
    assert "public.audit_events: 23 rows fewer" in " ".join(gate.split())
    assert refused.code != 0, "what is observed is not ticked"
    assert run.state == "warned", run.reason
    assert site.rows() == BACKED_UP
    assert len([name for name in site.databases() if name.startswith(f"{NAME}_damaged_")]) == 1
    assert not site.service.halted, "verified, so it trades again"


def test_a_rejection_changes_nothing_and_trading_stays_halted(site: Site, tmp_path: Path) -> None:
    before = site.rows()
    with maintd_daemon(tmp_path, calendar(site)) as daemon:
        number = started(daemon)
        assert daemon.maintd("reject", str(number), "--why", "a migration back will do").code == 0
        run = ended(daemon, number, "failed", "cancelled")

    assert "rejected" in run.reason
    assert (site.databases(), site.rows()) == ([NAME], before)
    assert site.service.halted


def test_a_rollback_that_fails_leaves_trading_halted(site: Site, tmp_path: Path) -> None:
    before = site.rows()
    with maintd_daemon(tmp_path, calendar(site)) as daemon:
        number = started(daemon)
        site.do("INSERT INTO audit_events (type) VALUES ('after the loss was stated')")
        approve(daemon, number)
        run = ended(daemon, number, "failed")

    assert "rollback" in run.reason
    assert (site.databases(), site.rows()) == ([NAME], before + 1)
    assert site.service.halted


@pytest.mark.slow
def test_without_a_daemon_the_loss_is_typed_at_the_terminal(site: Site, tmp_path: Path) -> None:
    site.service.set(halted=True)
    (tmp_path / "schedules.yaml").write_text(calendar(site))
    environ = {"MAINTD_STATE_DIR": str(tmp_path / "state"), "MAINTD_CALENDAR": str(tmp_path / "schedules.yaml")}
    shell = Shell(tmp_path, environ)
    words = ("run", "rollback", "--here", "--no-store", "-p", "level=data", "--why", "the daemon is down")

    refused = shell.maintd(*words)
    text = f"lose what was written to {NAME} since {next(site.sets.glob('set-*')).name}"
    done = shell.maintd(*words, "-p", f"accept_loss={text}")

    assert refused.code == 1
    assert f'accept_loss="{text}"' in " ".join((refused.out + refused.err).split())
    assert done.code == 0, done.out + done.err
    assert site.rows() == BACKED_UP


@pytest.mark.slow
def test_a_killed_daemon_leaves_a_run_that_is_resumed_with_its_approval(site: Site, tmp_path: Path) -> None:
    text = calendar(site)
    with maintd_daemon(tmp_path, text, **LEASE) as daemon:
        number = started(daemon)
        approve(daemon, number)
        wait_for(lambda: f"{NAME}_maintd_new" in site.databases(), "the new database is made", seconds=300, every=0.05)
        os.kill(daemon.process.pid, signal.SIGKILL)
        daemon.process.wait()
    (tmp_path / "daemon.log").unlink()

    with maintd_daemon(tmp_path, text, **LEASE) as daemon:
        ended(daemon, number, "lost")
        still_halted = site.service.halted
        resumed = daemon.maintd("resume", str(number), "--redo", "rollback", "--why", "seen: not swapped", "--json")
        assert resumed.code == 0, resumed.err
        run = ended(daemon, resumed.json["id"], "succeeded", "warned", "unknown", "failed")

    assert still_halted
    assert run.state == "warned", run.reason
    assert site.rows() == BACKED_UP
    assert [name for name in site.databases() if name.endswith("_maintd_new")] == []
