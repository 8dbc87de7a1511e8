"""A real operator service on a real store, with a small calendar, served as the daemon serves it."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from maintd.calendar import Calendar
from maintd.config.settings import Settings
from maintd.job import JobParams
from maintd.job.description import validate_params
from maintd.job.registry import RegisteredJob
from maintd.model.entry import Entry, Rule, ScheduleKind, StepPlan
from maintd.model.evidence import Artifact, Change, Check, CheckStatus, LogLine, Measure, Phase, Progress
from maintd.model.job import BrokenJob, JobDescription, ParamDescription
from maintd.model.run import RunState
from maintd.model.run_updates import AttemptReported, AttemptStarted, RunFinished, StepStarted
from maintd.model.target import Targets
from maintd.operations import Health, OperatorService, ReloadResult
from maintd.store import Store, open_store
from support.clock import ManualClock
from support.stores import claim, evidence, queue

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)

HOSTILE = "<script>alert('x')</script>\"&'</p><img src=x onerror=alert(1)>"
"""Hostile text, as a job, a host or a user could put it into any field."""


RELOADED = ReloadResult(ok=True, changes=("entry probe: every 15 minutes",), problems=())


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


class VacuumParams(JobParams):
    """Params of the job `vacuum`."""

    keep: int = 30
    tables: list[str] = []


def job(name: str, **traits: object) -> JobDescription:
    return JobDescription.model_validate(
        {
            "name": name,
            "path": f"/jobs/{name}.py",
            "summary": f"Do the {name}.",
            "doc": f"Do the {name}.\n\nAnd prove it.",
            "timeout": timedelta(minutes=30),
            "repeatable": True,
            "mutates": True,
            "params": (
                ParamDescription(name="keep", type="number", required=False, default=30, description="How many."),
                ParamDescription(name="tables", type="list of text", required=False, default=[]),
            ),
            **traits,
        }
    )


JOBS: dict[str, RegisteredJob] = {
    "vacuum": job("vacuum", locks={"postgres": "exclusive"}),
    "reindex": job("reindex"),
    "wrecked": BrokenJob(name="wrecked", path=Path("/jobs/wrecked.py"), error="/jobs/wrecked.py:3: invalid syntax"),
}


def entry(name: str, *jobs: str, cron: str | None = "0 4 * * *", **fields: object) -> Entry:
    steps = [StepPlan(name=job, job=job) for job in jobs or ("vacuum",)]
    rule = None if cron is None else Rule(kind=ScheduleKind.CRON, text=cron, timezone="Europe/Berlin")
    return Entry.model_validate(
        {"name": name, "title": name.replace("-", " ").capitalize(), "rule": rule, "steps": steps, **fields}
    )


ENTRIES = (
    entry("nightly-vacuum"),
    entry("weekly-cleanup", "vacuum", "reindex", cron="0 5 * * 0"),
    entry("probe", "reindex", cron="*/15 * * * *"),
    entry("by-hand", cron=None),
    entry("off", enabled=False),
    entry("broken-one", "wrecked"),
)


@dataclass
class Harness:
    """An operator service whose clock, calendar and health the test sets; counts wake-ups."""

    folder: Path
    clock: ManualClock
    store: Store
    settings: Settings
    calendar: Calendar
    health: Health = field(default_factory=lambda: Health(alive=True, ready=True, lag_seconds=0.5))
    jobs: dict[str, RegisteredJob] = field(default_factory=lambda: dict(JOBS))
    woken: int = 0
    reloaded: ReloadResult = RELOADED

    def service(self) -> OperatorService:
        return OperatorService(
            store=self.store,
            settings=self.settings,
            clock=self.clock,
            calendar=lambda: self.calendar,
            jobs=lambda: self.jobs,
            broken_jobs=lambda: [job for job in self.jobs.values() if isinstance(job, BrokenJob)],
            validate=lambda name, params: validate_params(VacuumParams, params),
            targets=lambda: Targets(),
            wake=self.wake,
            reload=lambda: self.reloaded,
            health=lambda: self.health,
            started_at=NOON - timedelta(hours=2),
        )

    def wake(self) -> None:
        self.woken += 1

    def use(self, *entries: Entry, **fields: Any) -> None:
        """Activate a calendar with these entries."""
        self.calendar = replace(self.calendar, entries=entries, **fields)
        self.store.entries.sync(entries, {item.name: "1" for item in entries}, self.clock.now())


@contextmanager
def harness(folder: Path, *, listen: str = "", now: datetime = NOON, store_url: str | None = None) -> Iterator[Harness]:
    """Yield an operator service; its store is a SQLite file in the folder unless `store_url` is given."""
    clock = ManualClock(now)
    settings = Settings(state_dir=folder, listen=listen, node="n1", store_url=store_url, _env_file=None)  # type: ignore[call-arg, arg-type]
    store = open_store(settings.store, clock=clock, migrate=True, state_dir=folder)
    calendar = Calendar(
        path=folder / "schedules.yaml",
        timezone="Europe/Berlin",
        entries=ENTRIES,
        targets=Targets(),
        warnings=(),
        broken={"broken-one": "/jobs/wrecked.py:3: invalid syntax"},
        digest="1",
    )
    try:
        made = Harness(folder, clock, store, settings, calendar)
        made.use(*ENTRIES)
        yield made
    finally:
        store.close()


def run_with(
    store: Store,
    name: str,
    minutes: float,
    state: RunState = RunState.SUCCEEDED,
    *,
    items: tuple[object, ...] = (),
    reason: str = "",
    took: float = 2,
    **columns: object,
) -> int:
    """Add a run with evidence that has ended; return its id."""
    run = claim(store, queue(store, name, minutes, **columns), minutes)
    writes = evidence(*items, minutes=minutes)  # type: ignore[arg-type]
    assert store.runs.apply(
        run.id, run.fence, 1, [*writes, RunFinished(state=state, at=at(minutes + took), reason=reason)]
    )
    return run.id


def running_run(store: Store, name: str, minutes: float, *items: object) -> tuple[int, int]:
    """Add a running run; return its id and fence. Its next update has sequence number 4."""
    run = claim(store, queue(store, name, minutes), minutes, lease=600)
    begun = [
        StepStarted(step=0, at=at(minutes)),
        AttemptStarted(step=0, attempt=1, at=at(minutes), pid=77),
        AttemptReported(step=0, attempt=1, items=items),  # type: ignore[arg-type]
    ]
    assert store.runs.apply(run.id, run.fence, 1, begun)
    return run.id, run.fence


def line(seq: int, text: str, stream: str = "log", minutes: float = 0) -> LogLine:
    return LogLine.model_validate({"seq": seq, "at": at(minutes), "stream": stream, "text": text})


def check(name: str, status: CheckStatus = CheckStatus.OK, observed: object = 3, **fields: object) -> Check:
    return Check.model_validate(
        {"name": name, "observed": observed, "expected": "at most 20", "status": status, **fields}
    )


FULL: tuple[object, ...] = (
    Phase(name="vacuum the largest table"),
    Progress(done=3, total=12, unit="tables"),
    check("dead tuples", CheckStatus.FAIL, 31.25, unit="%", hint="run: maintd trigger vacuum"),
    check("age of the oldest transaction", CheckStatus.WARN, 180_000_000),
    check("free space", CheckStatus.UNKNOWN, None, hint="configure the host target"),
    check("tables seen", CheckStatus.OK, 12),
    Measure(name="size_bytes", value=5_368_709_120.0, unit="B", labels={"table": "orders", "le-vel": "a"}),
    Measure(name="dead_ratio", value=31.25, unit="%"),
    Change(action="vacuum", target="orders", details={"bytes": 1_048_576, "full": False}),
    line(1, "connected to main"),
    line(2, "vacuuming orders", "stdout"),
    line(3, "could not lock orders", "stderr"),
)
"""Evidence of every kind."""


def artifact(folder: Path, name: str, content: bytes, media_type: str, path: str | None = None) -> Artifact:
    """Write an artifact's file; return the artifact."""
    place = path or f"1/vacuum/1/{name}"
    file = folder / "artifacts" / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return Artifact(name=name, path=place, size_bytes=len(content), sha256="0" * 64, media_type=media_type)


@dataclass(frozen=True)
class Answer:
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """An HTTP client on sockets from `connect`; one connection per request, standard library only."""

    def __init__(self, connect: Callable[[], socket.socket], host: str = "localhost") -> None:
        self._connect = connect
        self._host = host

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, None, **headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        return self.ask("POST", path, b"" if body is None else json.dumps(body).encode(), **headers)

    def ask(self, method: str, path: str, body: bytes | None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection(self._host)
        connection.sock = self._connect()
        try:
            sent = {
                "Content-Type": "application/json",
                **{key.replace("_", "-"): value for key, value in headers.items()},
            }
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return Answer(answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()


def on_socket(path: Path) -> Client:
    """Return a client for the control socket."""

    def connect() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(60)
        sock.connect(str(path))
        return sock

    return Client(connect)


def on_port(port: int, host: str = "127.0.0.1") -> Client:
    """Return a client for a TCP port, with `host` in the Host header."""
    return Client(lambda: socket.create_connection(("127.0.0.1", port), timeout=60), host)
