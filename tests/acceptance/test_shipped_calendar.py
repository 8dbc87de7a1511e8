"""The shipped calendar on a stack of real servers: green when all is in order, and each fault is named first.

Where no Docker engine can be started, its jobs are left out as not configured, and the summary of the tests states it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import yaml
from redis import Redis
from support.http_services import Reply
from support.job_runs import JOBS, run_job
from support.servers.base import wait_for
from support.servers.maintd import RunningDaemon, maintd_daemon
from support.stack import PROJECT, RULES, SHIPPED, Stack, has_alertmanager, restore, stack

from maintd.job.attempt_info import Point
from maintd.model.evidence import CheckStatus

pytestmark = [pytest.mark.slow, pytest.mark.server]

DAYS = 31
MORNING, BACKUPS = "morning-health-check", "daily-backup-verification"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest.fixture(scope="module")
def daemon(made: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    with maintd_daemon(tmp_path_factory.mktemp("daemon"), made.calendar()) as running:
        yield running


@pytest.fixture
def sound(made: Stack) -> Iterator[Stack]:
    restore(made)
    yield made
    restore(made)


def attention(daemon: RunningDaemon) -> list[dict[str, Any]]:
    report = daemon.maintd("status", "--json").json
    assert report["problems"] == []
    return [entry for entry in report["entries"] if entry["severity"] in ("error", "unknown")]


def not_green(shown: str) -> list[str]:
    """The checks of a shown run that failed or are unknown."""
    return [line for line in shown.splitlines() if re.match(r" +[✗?] ", line)]


def test_on_its_first_day_every_entry_is_green(
    sound: Stack, daemon: RunningDaemon, record_property: Callable[[str, object], None]
) -> None:
    if sound.without:
        record_property("without", sound.without)
    names = [name for name, entry in yaml.safe_load(SHIPPED.read_text())["entries"].items() if is_unattended(entry)]

    results = {name: daemon.maintd("trigger", name, "--wait") for name in names}

    assert {name: not_green(result.out) for name, result in results.items() if result.code} == {}
    assert attention(daemon) == []
    assert daemon.maintd("status").code == 0


def due_on(day: int) -> list[str]:
    """The entries of one day of a made month, which begins on a Monday and ends with the monthly report."""
    weekly = ["weekly-cleanup", "weekly-performance-analysis"] if day % 7 == 6 else []
    daily = [MORNING, "daily-backup", BACKUPS, "capacity-collection", "noon-examination"]
    drill = ["weekly-restore-drill"] if day == 5 else []  # once is enough: a Postgres is made and started each time
    reviews = ["security-review", "infrastructure-review"] if day == 5 else []  # the first Saturday
    reviews += ["performance-optimization"] if day == 12 else []
    return [*daily, *drill, *weekly, *reviews, *(["capacity-planning"] if day == DAYS - 1 else [])]


@dataclass(frozen=True)
class Due:
    """A step of an entry on one day."""

    day: int
    job: str
    params: dict[str, Any]


def queues(calendar: dict[str, Any], left_out: Collection[str]) -> list[list[Due]]:
    """All steps of a made month, in queues that do not depend on each other: one per job, and one for the clean-up."""
    found: dict[str, list[Due]] = {}
    cleanup = {job for job, _ in map(step_of, calendar["entries"]["weekly-cleanup"]["steps"])} - {"backup_verify"}
    for day in range(DAYS):
        for entry in due_on(day):
            for job, params in map(step_of, calendar["entries"][entry]["steps"]):
                if job == "doctor":
                    params = {**params, "calendar": {"steps": examined(calendar)}}
                if job not in left_out:
                    # Nothing reads sets while they are made and deleted: by their locks, in a daemon.
                    of_sets = job in ("backup", "backup_verify", "restore_drill")
                    queue = "clean-up" if job in cleanup else "backups" if of_sets else job
                    found.setdefault(queue, []).append(Due(day, job, params))
    return list(found.values())


def examined(calendar: dict[str, Any]) -> list[dict[str, str]]:
    """The steps of the calendar, as maintd hands them to a job that examines them."""
    return [
        {"entry": entry, "step": job, "job": job, "path": str(JOBS / f"{job}.py"), "params": json.dumps(params)}
        for entry, plan in calendar["entries"].items()
        if is_unattended(plan)
        for job, params in map(step_of, plan["steps"])
    ]


def is_unattended(plan: dict[str, Any]) -> bool:
    """Whether an entry runs by itself: what has a gate, or is run by hand, also has targets that are not here."""
    return "schedule" in plan and not any(isinstance(step, dict) and "gate" in step for step in plan["steps"])


def step_of(step: Any) -> tuple[str, dict[str, Any]]:
    """The job and the params of a step of the calendar."""
    return (step, {}) if isinstance(step, str) else next((job, params or {}) for job, params in step.items())


def run_in_order(queue: list[Due], targets: dict[str, Any], folder: Path) -> list[str]:
    """Run the steps on the measures of the days before; only the clock of the measures is made. What is not green."""
    points: dict[tuple[str, str], list[tuple[int, float, dict[str, str]]]] = {}
    bad: list[str] = []
    for number, due in enumerate(queue):
        now = datetime.now(UTC)
        series = {
            name: [Point(now - timedelta(days=due.day - at), value, labels) for at, value, labels in found]
            for (of, name), found in points.items()
            if of == due.job
        }
        result = run_job(due.job, due.params, targets, series=series, folder=folder / f"{number}-{due.job}")
        for measure in result.measures:
            points.setdefault((due.job, measure.name), []).append((due.day, measure.value, dict(measure.labels)))
        bad += [
            f"day {due.day}: {due.job}: {check.name}: {check.observed}, expected {check.expected}: {check.hint}"
            for check in result.checks
            if check.status is CheckStatus.FAIL or (check.status is CheckStatus.UNKNOWN and not check.optional)
        ]
        bad += [f"day {due.day}: {due.job}: {result.traceback}"] if result.error is not None else []
    return bad


def test_it_stays_green_while_its_history_grows_for_a_month(sound: Stack, tmp_path: Path) -> None:
    calendar = yaml.safe_load(sound.calendar())
    left_out = () if sound.engine else ("docker_cleanup", "image_updates")
    scheduled = {name for name, entry in calendar["entries"].items() if is_unattended(entry)}
    assert {entry for day in range(DAYS) for entry in due_on(day)} == scheduled

    # Jobs wait for servers and for their samples most of the time. Processes, as for jobs of the daemon.
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        bad = list(
            pool.map(partial(run_in_order, targets=calendar["targets"], folder=tmp_path), queues(calendar, left_out))
        )

    assert not any(bad), "\n".join(line for lines in bad for line in lines)


# --- faults -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """What is made wrong in a stack, what `maintd status` names first, and how it is undone beyond `restore`."""

    name: str
    make: Callable[[Stack], object]
    first: str
    entry: str = MORNING
    undo: Callable[[Stack], object] = lambda _: None
    settles: bool = False  # what it leaves in logs and metrics is gone only after a further run
    engine: bool = False  # it needs a Docker engine


def log_lines(count: int, text: str) -> Callable[[Stack], None]:
    def write(made: Stack) -> None:
        at = datetime.now(UTC) - timedelta(minutes=20)
        stamp = f"{at:%b} {at.day:2d} {at:%H:%M:%S}"
        with made.auth_log.open("a") as file:
            file.writelines(f"{stamp} host sshd[{7000 + number}]: {text}\n" for number in range(count))

    return write


def denied_requests(made: Stack) -> None:
    at = f"{datetime.now(UTC) - timedelta(minutes=20):%Y-%m-%dT%H:%M:%S.000Z}"
    body = f'{{"level":"info","service":"orchestrator","msg":"http_request","time":"{at}","method":"POST",'
    body += '"path":"/admin/orchestrate/halt","status":401,"remote":"::ffff:10.9.9.9"}\n'
    with made.service_log.open("a") as file:
        file.write(body * 300)


def damaged_backup(made: Stack) -> None:
    newest = max(made.backups.glob("config-*.tar.gz"))
    data, times = bytearray(newest.read_bytes()), newest.stat()
    data[len(data) // 2] ^= 0xFF
    newest.write_bytes(data)
    os.utime(newest, (times.st_atime, times.st_mtime))


def old_backups(made: Stack) -> None:
    for path in made.backups.glob("config-*"):
        os.utime(path, (time.time() - 5 * 86400,) * 2)
        path.rename(path.with_name(path.name.replace(f"-{datetime.now(UTC):%Y}", "-2020")))


def no_backups(made: Stack) -> None:
    for path in made.backups.rglob("*"):
        if path.is_file():
            path.unlink()


def broken_rules(made: Stack) -> None:
    made.rules.write_text("groups: [")
    with suppress(httpx.HTTPStatusError):  # the refusal is the fault
        made.metrics.reload()


def alert_rules(expr: str) -> Callable[[Stack], None]:
    def write(made: Stack) -> None:
        made.rules.write_text(RULES.replace("vector(0) > 1", expr))
        made.metrics.reload()
        wait_for(lambda: has_alertmanager(made.metrics), "Prometheus has its Alertmanager again")

    return write


def stopped(server: str) -> Callable[[Stack], None]:
    return lambda made: os.kill(getattr(made, server).pid, signal.SIGSTOP)


def continued(server: str) -> Callable[[Stack], None]:
    return lambda made: os.kill(getattr(made, server).pid, signal.SIGCONT)


def lagging_group(made: Stack) -> None:
    client = made.cache.client()
    client.xgroup_create("exec.orders", "agents", "0")
    for _ in range(1200):
        client.xadd("exec.orders", {"data": "{}"})
    client.close()


def without_lag(made: Stack) -> None:
    client = made.cache.client()
    client.xgroup_destroy("exec.orders", "agents")
    client.xtrim("exec.orders", maxlen=2)
    client.close()


def page(path: str, reply: Reply) -> Callable[[Stack], None]:
    def serve(made: Stack) -> None:
        made.pages[path] = reply

    return serve


def hang() -> Reply:
    time.sleep(5)
    return Reply(b"{}")


def other_clock(made: Stack) -> None:
    made.health()
    late = formatdate(time.time() - 3600, usegmt=True)
    made.pages["/health"] = replace(made.pages["/health"], headers={"Date": late})


def not_scraped(made: Stack) -> None:
    made.pages["/metrics"] = Reply(b"", 500)
    url = f"{made.metrics.url}/api/v1/query"
    wait_for(lambda: httpx.get(url, params={"query": "up == 0"}, timeout=9).json()["data"]["result"], "a failed scrape")


def with_a_password(made: Stack) -> None:
    client = made.cache.client()
    client.config_set("requirepass", "changed")
    client.close()


def without_a_password(made: Stack) -> None:
    client = Redis.from_url(made.cache.url, password="changed")
    client.config_set("requirepass", "")
    client.close()


def accepting(connections: bool) -> Callable[[Stack], None]:
    def change(made: Stack) -> None:
        with psycopg.connect(made.database.url("postgres"), autocommit=True) as conn:
            conn.execute(f"ALTER DATABASE trading ALLOW_CONNECTIONS {connections}".encode())

    return change


def stopped_container(made: Stack) -> None:
    assert made.engine is not None
    with closing(made.engine.client()) as client:
        client.containers.get(f"{PROJECT}-risk-manager-1").stop()


def started_container(made: Stack) -> None:
    assert made.engine is not None
    with closing(made.engine.client()) as client:
        client.containers.get(f"{PROJECT}-risk-manager-1").start()


LOGIN = Reply(b"<!DOCTYPE html><title>Sign in</title><input type=password>", content_type="text/html")
ROOT = "Accepted password for root from 203.0.113.9 port 40022 ssh2"
FAILED = "Failed password for root from 203.0.113.9 port 40022 ssh2"

FAULTS = (
    Fault(
        "Postgres is down",
        lambda s: s.database.stop("immediate"),
        "postgres main: answers",
        undo=lambda s: s.database.start(),
    ),
    Fault("the database of a service is in error", lambda s: s.health(db="error"), "http orchestrator: db"),
    Fault("a service answers 500", page("/health", Reply(b"{}", 500)), "http orchestrator: answers"),
    Fault("a login page answers", page("/health", LOGIN), "http orchestrator: body"),
    Fault("a service hangs", lambda s: s.pages.__setitem__("/health", hang), "http orchestrator: answers"),
    Fault("a field is missing", page("/health", Reply(b'{"redis":"ok"}')), "http orchestrator: db"),
    Fault("a figure is no number", lambda s: s.figures(realized="NaN"), "figures: realized"),
    Fault("figures of another day", lambda s: s.figures(date="2020-01-01"), "figures: day"),
    Fault("trading is halted", lambda s: s.figures(halted=True), "figures: halted"),
    Fault("a loss", lambda s: s.figures(percent=-3), "figures: result of the day"),
    Fault("figures that differ from the database", lambda s: s.figures(realized=99), "reconciled: realized"),
    Fault(
        "a table is missing",
        lambda s: s.sql("ALTER TABLE audit_events RENAME TO gone"),
        "source missing: no table audit_events",
        undo=lambda s: s.sql("ALTER TABLE gone RENAME TO audit_events"),
    ),
    Fault("a consumer lags", lagging_group, "lag", undo=without_lag),
    Fault("Redis hangs", stopped("cache"), "redis main: answers", undo=continued("cache")),
    Fault("Prometheus hangs", stopped("metrics"), "prometheus main: answers", undo=continued("metrics")),
    Fault("Alertmanager hangs", stopped("alerts"), "alertmanager main: answers", undo=continued("alerts")),
    Fault("a rule file is broken", broken_rules, "reload", undo=alert_rules("vector(0) > 1")),
    Fault("failed logins", log_lines(600, FAILED), "fail", settles=True),
    Fault("a root login by password", log_lines(1, ROOT), "root", settles=True),
    Fault("denied requests of an administrator's path", denied_requests, "denied", settles=True),
    Fault("a damaged backup", damaged_backup, "config-", BACKUPS),
    Fault("a backup is old", old_backups, "config-", BACKUPS),
    Fault("no backups", no_backups, "backup", BACKUPS),
    Fault("the clock of a service is late", other_clock, "http orchestrator: clock offset"),
    Fault("a service is not scraped", not_scraped, "prometheus main: targets down", settles=True),
    Fault("Redis has another password", with_a_password, "redis main: answers", undo=without_a_password),
    Fault("a database is closed", accepting(False), "postgres main: answers", undo=accepting(True)),
    Fault(
        "a container has stopped",
        stopped_container,
        "docker main: risk-manager state",
        undo=started_container,
        engine=True,
    ),
    Fault("the Docker engine hangs", stopped("engine"), "docker main: answers", undo=continued("engine"), engine=True),
)


def settle(daemon: RunningDaemon, entry: str) -> None:
    """Run an entry until it is green: a log that was restored is shorter than the run before had seen."""
    for _ in range(3):
        ended = daemon.maintd("trigger", entry, "--wait")
        if ended.code == 0:
            return
    raise AssertionError(f"{entry} stays red:\n" + "\n".join(not_green(ended.out)))


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_each_fault_is_what_the_status_names_first(sound: Stack, daemon: RunningDaemon, fault: Fault) -> None:
    if fault.engine and sound.engine is None:
        return  # the first day states that there is none
    if fault.entry != MORNING and attention(daemon):
        settle(daemon, MORNING)  # left by an earlier fault
    fault.make(sound)
    try:
        ended = daemon.maintd("trigger", fault.entry, "--wait")
        entries = attention(daemon)
    finally:
        fault.undo(sound)
        restore(sound)
        if fault.settles or fault.entry != MORNING:
            settle(daemon, fault.entry)

    assert ended.code == 1
    assert [entry["entry"] for entry in entries] == [fault.entry], entries
    assert fault.first in entries[0]["why"].split("; ")[0], entries[0]["why"]
