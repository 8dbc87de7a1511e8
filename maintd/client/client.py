"""The client: a method for each operation of the API."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode

from maintd.client.address import Address, parse_address
from maintd.client.errors import api_error
from maintd.client.tokens import check_token
from maintd.client.transport import API_HEADER, Answer, Transport
from maintd.errors import DaemonUnavailableError, MaintdError, StoreUnavailableError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from maintd.client.sse import ServerEvent
    from maintd.model.access import CreatedToken, ListedToken, Role
    from maintd.model.changelog import ChangeLog, Checklist
    from maintd.model.entry import Freeze, Pause
    from maintd.model.finding import FindingDetail, FindingList, ListedFinding
    from maintd.model.gate import WaitingGate
    from maintd.model.job import BrokenJob, JobDescription
    from maintd.model.notice import Incident, Mute, Notice
    from maintd.model.records import VerifiedPart
    from maintd.model.responses import (
        HealthResponse,
        LogEntry,
        LogPage,
        NoticeList,
        ReloadResponse,
        SeriesPage,
        StreamPosition,
        Summary,
        Version,
    )
    from maintd.model.run import Note, Run, RunEvent, RunsPage, RunSummary
    from maintd.model.status import AuditEvent, DueList, EntryDetail, EntryStatus, StartTime, StatusReport

    M = TypeVar("M", bound=BaseModel)

API = "/api/v1"
TIMEOUT = 45.0
"""Seconds that a request has by default; the longest answer, to a reload, may take 30."""

RETRIES = 2
PAUSES = (0.2, 1.0, 3.0)  # seconds before the first, the second, … repetition without Retry-After
LONGEST_PAUSE = 30.0  # seconds; what Retry-After may ask for
RECONNECT_SECONDS = 60.0
"""How long a stream waits for a daemon that does not answer, such as one that is being restarted."""
RECONNECT_PAUSE = 0.5  # seconds before a stream is opened again

_RETRIED = frozenset({429, 502, 503, 504})


class _Received(Exception):  # noqa: N818 - not an error
    """Ends a method at its answer, before the method parses it."""

    def __init__(self, json: Any) -> None:
        super().__init__()
        self.json = json


class Client:
    """A client of one daemon. Threads may share it; it holds no connection between requests.

    `address` is a URL (`https://maintd.example:8420`, also with the path of a reverse proxy) or the path of the control
    socket. `token` is needed for all but reading from the same machine. `ca_file` has the certificates of the
    authorities to trust instead of the system's. `verify=False` accepts every certificate: others on the network can
    then read the token. `timeout` is in seconds and for a whole request.

    A GET, and a `trigger` with an idempotency key, is sent again up to `retries` times if no daemon answers or the
    answer is 429, 502, 503 or 504, after the seconds of `Retry-After` (at most 30) or 0.2, 1 and 3 s. Other requests
    are sent once. Redirects are not followed. Proxies of the environment are not used.

    Methods return the frozen types of `maintd.model`; fields of a newer daemon that this version does not know are left
    out. `get` and `post` return JSON as it is. Times are aware datetimes in UTC, durations timedeltas.

    Every method raises DaemonUnavailableError if no maintd answers, UnauthorizedError without a valid token,
    ForbiddenError if the role lacks the right, UnknownNameError for an unknown name, UsageError for a value that is not
    valid, StoreError while the daemon cannot use its store. Each has `code`, `message` and `hint`.
    """

    def __init__(
        self,
        address: str | os.PathLike[str],
        *,
        token: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        verify: bool = True,
        timeout: float = TIMEOUT,
        retries: int = RETRIES,
    ) -> None:
        self.address: Address = parse_address(address)
        self.timeout = timeout
        self._retries = retries
        self._plain = False
        self._transport = Transport(
            self.address,
            timeout=timeout,
            token=None if token is None else check_token(token, "the value"),
            ca_file=None if ca_file is None else os.fspath(ca_file),
            verify=verify,
        )

    # --- any request ---

    def get(self, path: str, **query: Any) -> Any:
        """The JSON that a GET of a quoted path below /api/v1 returns. Query arguments that are None are left out."""
        return self._json(self.request("GET", _target(path, query)))

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON that a POST returns. Fields of the body that are None are left out."""
        sent = {name: value for name, value in body.items() if value is not None}
        repeatable = path == "/runs" and bool(sent.get("idempotency_key"))
        return self._json(self.request("POST", _target(path, {}), json.dumps(sent).encode(), repeatable=repeatable))

    def json_of(self, call: Callable[[Client], object]) -> Any:
        """The JSON that a method receives, as it is: `client.json_of(lambda client: client.runs(limit=5))`.

        It has fields that this version does not know too. The types of `maintd.model`, which take longer to import than
        a request takes, are not needed.
        """
        plain: Client = object.__new__(type(self))
        plain.__dict__.update(self.__dict__, _plain=True)
        try:
            call(plain)
        except _Received as received:
            return received.json
        raise TypeError("the method sends no request whose answer is JSON")

    def request(self, method: str, target: str, body: bytes | None = None, *, repeatable: bool = False) -> Answer:
        """The answer of maintd to any request, whatever its status. `target` is a quoted path with its query.

        A GET, and what is `repeatable`, is sent again as the class describes.
        """
        pauses = list(PAUSES[: self._retries]) if repeatable or method == "GET" else []
        pauses += [PAUSES[-1]] * (self._retries - len(PAUSES)) if pauses else []
        while True:
            try:
                answer = self._transport.send(method, target, body, {}, self.timeout)
                self._require_maintd(answer, target)
            except DaemonUnavailableError:
                if not pauses:
                    raise
                time.sleep(pauses.pop(0))
                continue
            if answer.status not in _RETRIED or not pauses or target.startswith(("/healthz", "/readyz")):
                return answer
            pause = pauses.pop(0)
            time.sleep(min(max(_seconds(answer.headers.get("retry-after"), pause), 0.0), LONGEST_PAUSE))

    def stream(self, path: str, last_id: str | None = None) -> Iterator[ServerEvent]:
        """The events of a stream below /api/v1; opened again after the last event when its connection ends.

        Raises DaemonUnavailableError when no daemon answers for 60 s.
        """
        from maintd.client.sse import server_events

        lost_at: float | None = None
        while True:
            headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
            lost: MaintdError | None = None
            try:
                with self._transport.stream(API + path, headers) as (answer, lines):
                    self._require_maintd(answer, path)
                    if answer.status != 200:
                        self._json(answer)
                    for event in server_events(lines):
                        lost_at = None
                        last_id = event.id or last_id
                        yield event
            except (DaemonUnavailableError, StoreUnavailableError) as error:
                lost = error
            now = time.monotonic()
            lost_at = now if lost_at is None else lost_at
            if lost is not None and now - lost_at > RECONNECT_SECONDS:
                raise lost
            time.sleep(RECONNECT_PAUSE)

    def _require_maintd(self, answer: Answer, target: str) -> None:
        """Raise DaemonUnavailableError unless the answer is one of maintd."""
        if API_HEADER.lower() in answer.headers or _is_error(answer.body):
            return
        kind = answer.headers.get("content-type", "no content type").partition(";")[0]
        what = f"{answer.status} with {kind}"
        if "location" in answer.headers:
            what = f"{answer.status}, a redirect to {answer.headers['location'][:200]}"
        raise DaemonUnavailableError(
            f"no maintd answers on {self.address}: {target.partition('?')[0]} is answered by another server or a "
            f"proxy ({what})",
            "check the URL; a proxy must pass on the answers of maintd with their headers",
        )

    def _json(self, answer: Answer) -> Any:
        try:
            found = json.loads(answer.body)
        except (ValueError, RecursionError) as error:
            raise MaintdError(
                f"the daemon on {self.address} answered {answer.status} without JSON",
                "compare the versions with: maintd version",
            ) from error
        if answer.status >= 400:
            raise api_error(found if isinstance(found, dict) else {}, answer.status)
        if self._plain:
            raise _Received(found)
        return found

    def _parsed(self, kind: type[M], found: Any) -> M:
        from pydantic import ValidationError

        try:
            return kind.model_validate(found, extra="ignore")
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise MaintdError(
                f"the daemon on {self.address} answered a {kind.__name__} that this version cannot read: "
                f"{where}: {first['msg']}",
                "compare the versions with: maintd version",
            ) from error

    # --- the daemon ---

    def version(self) -> Version:
        """Version, node, process and start of the daemon that answers."""
        found = self.get("/version")
        from maintd.model.responses import Version

        return self._parsed(Version, found)

    def health(self) -> HealthResponse:
        """Liveness: `ok` is true while the scheduler's loop runs. Needs no token; without one, `problems` is empty."""
        return self._probe("/healthz")

    def readiness(self) -> HealthResponse:
        """Readiness: `ok` is true while maintd plans runs and reaches its store. Needs no token."""
        return self._probe("/readyz")

    def _probe(self, target: str) -> HealthResponse:
        from maintd.model.responses import HealthResponse

        return self._parsed(HealthResponse, self._probed(target)[1])

    def is_ready(self) -> bool:
        """Whether maintd plans runs and reaches its store; without the libraries that types need."""
        return self._probed("/readyz")[0] == 200

    def _probed(self, target: str) -> tuple[int, Any]:
        answer = self.request("GET", target)
        if answer.status not in (200, 503) or _is_error(answer.body):
            self._json(answer._replace(status=max(answer.status, 400)))
        return answer.status, self._json(answer._replace(status=200))

    def status(self) -> StatusReport:
        """The status of the daemon and of all entries, as `maintd status` shows it."""
        found = self.get("/status")
        from maintd.model.status import StatusReport

        return self._parsed(StatusReport, found)

    def status_text(self, *, width: int = 80, colour: bool = False) -> str:
        """The status as text for a terminal of `width` columns, 20 to 500."""
        return self._text("/text/status", width=width, colour=str(colour).lower())

    def metrics(self) -> str:
        """The metrics in Prometheus' text format."""
        return self._text("/metrics")

    def _text(self, path: str, **query: Any) -> str:
        answer = self.request("GET", path + (f"?{urlencode(query)}" if query else ""))
        if answer.status != 200:
            self._json(answer)
        return answer.body.decode("utf-8", "replace")

    def settings(self) -> dict[str, Any]:
        """The daemon's settings by name, secrets masked."""
        found: dict[str, Any] = self.get("/settings")
        return found

    def events(self, *, limit: int = 50) -> tuple[AuditEvent, ...]:
        """The last audit events, newest first; `limit` is 1 to 1000."""
        found = self.get("/events", limit=limit)
        from maintd.model.responses import EventList

        return self._parsed(EventList, found).events

    def reload(self, *, why: str = "", by: str = "") -> ReloadResponse:
        """Reload calendar and jobs. With errors in the calendar, `ok` is false and the loaded one stays active."""
        found = self.post("/reload", {"why": why, "by": by})
        from maintd.model.responses import ReloadResponse

        return self._parsed(ReloadResponse, found)

    # --- entries and jobs ---

    def entries(self) -> tuple[EntryStatus, ...]:
        """The entries of the calendar, in its order, each with its last outcome and next due time."""
        found = self.get("/entries")
        from maintd.model.responses import EntryList

        return self._parsed(EntryList, found).entries

    def series(
        self,
        name: str,
        *,
        entry: str | None = None,
        job: str | None = None,
        since: datetime | str | None = None,
        after: int | None = None,
        limit: int = 1000,
    ) -> SeriesPage:
        """Points of a measure, oldest first; `limit` is 1 to 5000. The next page has its `next_after` as `after`."""
        query = {"name": name, "entry": entry, "job": job, "since": _moment(since), "after": after, "limit": limit}
        found = self.get("/series", **query)
        from maintd.model.responses import SeriesPage

        return self._parsed(SeriesPage, found)

    def entry(self, name: str) -> EntryDetail:
        """The status of an entry, or of a job by its name, with its last ten runs."""
        found = self.get(f"/entries/{_quoted(name)}")
        from maintd.model.status import EntryDetail

        return self._parsed(EntryDetail, found)

    def start_time(self, name: str, at: str) -> StartTime:
        """When a run starts that is requested for a weekday and a time, as `sat 01:00`, in the entry's time zone."""
        found = self.get(f"/entries/{_quoted(name)}/start-time", at=at)
        from maintd.model.status import StartTime

        return self._parsed(StartTime, found)

    def due(self, *, days: int = 7) -> DueList:
        """The due times of the next days, oldest first; `days` is 1 to 3660."""
        found = self.get("/due", days=days)
        from maintd.model.status import DueList

        return self._parsed(DueList, found)

    def jobs(self) -> tuple[JobDescription | BrokenJob, ...]:
        """All jobs; one that cannot be imported is a BrokenJob with its error."""
        found = self.get("/jobs")
        from maintd.model.responses import JobList

        return self._parsed(JobList, found).jobs

    def job(self, name: str) -> JobDescription | BrokenJob:
        """A job with its params."""
        from maintd.model.responses import JobList

        return self._parsed(JobList, {"jobs": [self.get(f"/jobs/{_quoted(name)}")]}).jobs[0]

    def pause(self, name: str, why: str, *, until: datetime | None = None, by: str = "") -> Pause:
        """Pause an entry until a time or until `unpause`; its due times are recorded as skipped."""
        body = {"why": why, "until": _time(until), "by": by}
        found = self.post(f"/entries/{_quoted(name)}/pause", body)
        from maintd.model.entry import Pause

        return self._parsed(Pause, found)

    def unpause(self, name: str, *, why: str = "", by: str = "") -> bool:
        """End the pause of an entry; whether it was paused."""
        return bool(self.post(f"/entries/{_quoted(name)}/unpause", {"why": why, "by": by})["unpaused"])

    # --- runs ---

    def runs(
        self,
        *,
        entry: str | None = None,
        job: str | None = None,
        states: Iterable[str] = (),
        since: datetime | str | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> RunsPage:
        """A page of runs, newest first; `limit` is 1 to 1000. The next page has its `next_before` as `before`.

        `states` are values of `model.run.RunState`; `since` is a time, or a duration before now such as `7d`.
        """
        wanted = {"entry": entry, "job": job, "state": tuple(states), "since": _moment(since)}
        found = self.get("/runs", **wanted, before=before, limit=limit)
        from maintd.model.run import RunsPage

        return self._parsed(RunsPage, found)

    def iter_runs(
        self,
        *,
        entry: str | None = None,
        job: str | None = None,
        states: Iterable[str] = (),
        since: datetime | str | None = None,
        page_size: int = 200,
    ) -> Iterator[RunSummary]:
        """All runs that match, newest first; a page is requested when it is needed."""
        wanted, before = tuple(states), None
        while True:
            page = self.runs(entry=entry, job=job, states=wanted, since=since, before=before, limit=page_size)
            yield from page.runs
            before = page.next_before
            if before is None:
                return

    def run(self, run_id: int) -> Run:
        """A run with its steps, attempts, checks, measures, changes and artifacts."""
        found = self.get(f"/runs/{run_id:d}")
        from maintd.model.run import Run

        return self._parsed(Run, found)

    def trigger(
        self,
        name: str,
        params: Mapping[str, Any] | None = None,
        *,
        at: datetime | None = None,
        why: str = "",
        dry_run: bool = False,
        emergency: bool = False,
        idempotency_key: str | None = None,
        by: str = "",
    ) -> RunSummary:
        """Queue a run of an entry, or of a job by its name, now or at a time.

        With `emergency` also during a freeze; `why` is then required, and the run keeps that it was one.

        With an idempotency key that was used before, the run that has it is returned, and none is queued.
        """
        body = {
            "name": name,
            "params": dict(params or {}),
            "at": _time(at),
            "why": why,
            "dry_run": dry_run,
            "emergency": emergency or None,
            "idempotency_key": idempotency_key,
            "by": by,
        }
        found = self.post("/runs", body)
        from maintd.model.run import RunSummary

        return self._parsed(RunSummary, found)

    def cancel(self, run_id: int, *, why: str = "", by: str = "") -> RunSummary:
        """Cancel a queued run, or request that a running one stops: it is still `running` until it did."""
        found = self.post(f"/runs/{run_id:d}/cancel", {"why": why, "by": by})
        from maintd.model.run import RunSummary

        return self._parsed(RunSummary, found)

    def gates(self) -> tuple[WaitingGate, ...]:
        """The gates where runs wait; the one whose time is over first is the first."""
        found = self.get("/gates")
        from maintd.model.gate import GateList

        return self._parsed(GateList, found).gates

    def gate(self, run_id: int) -> WaitingGate:
        """The gate where a run waits, with its checklist as it is now."""
        found = self.get(f"/runs/{run_id:d}/gate")
        from maintd.model.gate import WaitingGate

        return self._parsed(WaitingGate, found)

    def tick(self, run_id: int, items: Sequence[int], *, gate: str = "", note: str = "", by: str = "") -> WaitingGate:
        """Tick items of the checklist of the gate where a run waits; it goes on waiting."""
        found = self.post(f"/runs/{run_id:d}/gate/tick", {"items": list(items), "gate": gate, "note": note, "by": by})
        from maintd.model.gate import WaitingGate

        return self._parsed(WaitingGate, found)

    def approve(
        self, run_id: int, *, gate: str = "", note: str = "", emergency: bool = False, why: str = "", by: str = ""
    ) -> RunSummary:
        """Pass the gate where a run waits. `gate` names the one that is meant, for a run with several.

        With `emergency` and `why`, an admin passes it although they requested the run themselves.
        """
        body = {"gate": gate, "note": note, "emergency": emergency, "why": why, "by": by}
        found = self.post(f"/runs/{run_id:d}/gate/approve", body)
        from maintd.model.run import RunSummary

        return self._parsed(RunSummary, found)

    def reject(self, run_id: int, why: str, *, gate: str = "", by: str = "") -> RunSummary:
        """Reject at the gate where a run waits: it fails, after undo and its `always` steps."""
        found = self.post(f"/runs/{run_id:d}/gate/reject", {"why": why, "gate": gate, "by": by})
        from maintd.model.run import RunSummary

        return self._parsed(RunSummary, found)

    def resume(
        self, run_id: int, *, from_step: str = "", redo: Iterable[str] = (), why: str = "", by: str = ""
    ) -> RunSummary:
        """Resume a run that did not succeed: a new run takes over what succeeded, and runs the rest. Returns it.

        `redo` are steps that run again although that may repeat their effect; it needs `why`.
        """
        from maintd.model.run import RunSummary

        body = {"from_step": from_step, "redo": list(redo), "why": why, "by": by}
        return self._parsed(RunSummary, self.post(f"/runs/{run_id:d}/resume", body))

    def undo(self, run_id: int, why: str, *, redo: Iterable[str] = (), by: str = "") -> RunSummary:
        """Undo a run that did not succeed: a new run runs the undo steps of all that had started. Returns it."""
        from maintd.model.run import RunSummary

        body = {"why": why, "redo": list(redo), "by": by}
        return self._parsed(RunSummary, self.post(f"/runs/{run_id:d}/undo", body))

    def release(self, run_id: int, why: str, *, by: str = "") -> RunSummary:
        """Release a lost run that is held: its locks are free, and its entry can run again. Returns the run."""
        from maintd.model.run import RunSummary

        return self._parsed(RunSummary, self.post(f"/runs/{run_id:d}/release", {"why": why, "by": by}))

    def wait(self, run_id: int, *, timeout: float | None = None, interval: float = 0.5) -> Run:
        """The run when it has ended. Raises TimeoutError if that is not within `timeout` seconds."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            run = self.run(run_id)
            if run.state.final:
                return run
            if until is not None and time.monotonic() > until:
                raise TimeoutError(f"run {run_id} is still {run.state} after {timeout:g} s")
            time.sleep(interval)

    # --- logs and artifacts ---

    def log(
        self,
        run_id: int,
        *,
        after: str | None = None,
        step: str | None = None,
        attempt: int | None = None,
        search: str | None = None,
        limit: int = 1000,
    ) -> LogPage:
        """Lines of a run's log after a cursor; `limit` is 1 to 5000. `final`: no more lines will follow.

        With `search`, lines that contain this text in any case. While `more` is true, only the lines up to the cursor
        were searched.
        """
        query = {"after": after, "step": step, "attempt": attempt, "search": search, "limit": limit}
        found = self.get(f"/runs/{run_id:d}/log", **query)
        from maintd.model.responses import LogPage

        return self._parsed(LogPage, found)

    def iter_log(self, run_id: int, *, step: str | None = None, attempt: int | None = None) -> Iterator[LogEntry]:
        """The lines of a run's log that exist now, oldest first."""
        after = None
        while True:
            page = self.log(run_id, after=after, step=step, attempt=attempt)
            yield from page.lines
            if page.final or not page.lines:
                return
            after = page.cursor

    def follow(self, run_id: int, *, step: str | None = None, after: str | None = None) -> Iterator[LogEntry]:
        """The lines of a run's log, oldest first, and new ones as they come, until the run ends.

        `step` is the name of a step: only its lines. `after` is the cursor of a `LogPage`: only later lines. After a
        lost connection, or a restart of the daemon that takes no longer than 60 s, it continues with the next line.
        """
        from maintd.model.responses import LogEntry

        for event in self.stream(f"/runs/{run_id:d}/log/stream", after):
            if event.type == "end":
                return
            if event.type == "line":
                line = self._parsed(LogEntry, self._event_data(event))
                if step in (None, line.step):
                    yield line

    def follow_events(
        self, *, entry: str | None = None, after: int | None = None
    ) -> Iterator[RunEvent | StreamPosition]:
        """The changes of runs' states as they come, of all entries or one; it does not end by itself.

        `after` is the id of an event: also those since then. Without it the first item is the position where the stream
        begins: what is read after that is not older. A later position means that events were deleted before they were
        read: read again what you show. It reconnects as `follow` does.
        """
        from maintd.model.responses import StreamPosition
        from maintd.model.run import RunEvent

        path = "/events/stream" + (f"?{urlencode({'entry': entry})}" if entry is not None else "")
        for event in self.stream(path, None if after is None else str(after)):
            if event.type == "run":
                yield self._parsed(RunEvent, self._event_data(event))
            elif event.type in ("start", "reset"):
                yield self._parsed(StreamPosition, self._event_data(event))

    def _event_data(self, event: ServerEvent) -> Any:
        try:
            return json.loads(event.data)
        except (ValueError, RecursionError) as error:
            raise MaintdError(f"the stream of {self.address} has an event without JSON") from error

    def log_text(self, run_id: int) -> str:
        """The whole log of a run as text, one line each: time, step, stream and text; at most 64 MB."""
        return self._text(f"{API}/runs/{run_id:d}/log.txt")

    def artifact(self, run_id: int, step: str, attempt: int, name: str) -> bytes:
        """The content of a file that an attempt saved; at most 64 MB."""
        path = f"{API}/runs/{run_id:d}/artifacts/{_quoted(step)}/{attempt:d}/{_quoted(name)}"
        answer = self.request("GET", path)
        if answer.status != 200:
            self._json(answer)
        return answer.body

    # --- findings ---

    def findings(
        self,
        *,
        area: str | None = None,
        since: datetime | str | None = None,
        gone: bool = False,
        acknowledged: bool = False,
    ) -> FindingList:
        """The open findings, the worst first; with `gone` also those that are gone, with `acknowledged` only
        those that are acknowledged. `area` is an entry or a job. `limited`: there are more than the list has."""
        query = {"area": area, "since": _moment(since), "gone": gone, "acknowledged": acknowledged}
        found = self.get("/findings", **query)
        from maintd.model.finding import FindingList

        return self._parsed(FindingList, found)

    def finding(self, key: str) -> FindingDetail:
        """A finding with its acknowledgements. The first digits of a key are enough if no other begins with them."""
        found = self.get(f"/findings/{_quoted(key)}")
        from maintd.model.finding import FindingDetail

        return self._parsed(FindingDetail, found)

    def findings_of_run(self, run_id: int) -> FindingList:
        """The findings that a run reported, as they are now."""
        found = self.get(f"/runs/{run_id:d}/findings")
        from maintd.model.finding import FindingList

        return self._parsed(FindingList, found)

    def acknowledge(self, key: str, why: str, *, until: datetime, by: str = "") -> ListedFinding:
        """Acknowledge a finding for at most 90 days: it needs no attention then, unless it becomes worse or returns."""
        body = {"why": why, "until": _time(until), "by": by}
        found = self.post(f"/findings/{_quoted(key)}/acknowledge", body)
        from maintd.model.finding import ListedFinding

        return self._parsed(ListedFinding, found)

    def withdraw(self, key: str, *, why: str = "", by: str = "") -> ListedFinding:
        """Withdraw the acknowledgement of a finding."""
        found = self.post(f"/findings/{_quoted(key)}/withdraw", {"why": why, "by": by})
        from maintd.model.finding import ListedFinding

        return self._parsed(ListedFinding, found)

    def summary(self, *, since: datetime | str = "1d", until: datetime | str | None = None) -> Summary:
        """The runs of a period by how they ended, and its findings: new, old, gone."""
        found = self.get("/summary", since=_moment(since), until=_moment(until))
        from maintd.model.responses import Summary

        return self._parsed(Summary, found)

    # --- change log ---

    def changelog(
        self,
        *,
        entry: str | None = None,
        since: datetime | str | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> ChangeLog:
        """A page of the runs that changed or tried to change something, newest first; `limit` is 1 to 200."""
        query = {"entry": entry, "since": _moment(since), "before": before, "limit": limit}
        found = self.get("/changelog", **query)
        from maintd.model.changelog import ChangeLog

        return self._parsed(ChangeLog, found)

    def verify_changelog(
        self, *, after: int = 0, limit: int = 500, heads: Mapping[int, str] | None = None
    ) -> VerifiedPart:
        """Verify a part of the chain of records; the next one begins after `last`, until one is `final` or has a
        problem. `heads` are SHA-256 in hex, by record."""
        head = [f"{record}:{text}" for record, text in (heads or {}).items()]
        found = self.get("/changelog/verify", after=after, limit=limit, head=head)
        from maintd.model.records import VerifiedPart

        return self._parsed(VerifiedPart, found)

    def add_note(self, run_id: int, text: str, *, by: str = "") -> Note:
        """Add a note about a run; it cannot be edited."""
        found = self.post(f"/runs/{run_id:d}/notes", {"text": text, "by": by})
        from maintd.model.run import Note

        return self._parsed(Note, found)

    def checklist(self, run_id: int) -> Checklist:
        """The checklist of a run: each box with its evidence, its person, or what is missing."""
        found = self.get(f"/runs/{run_id:d}/checklist")
        from maintd.model.changelog import Checklist

        return self._parsed(Checklist, found)

    # --- notices ---

    def notices(
        self, *, states: Iterable[str] = (), channel: str | None = None, before: int | None = None, limit: int = 50
    ) -> NoticeList:
        """A page of notices, newest first; `states` are values of `model.notice.NoticeState`, `limit` is 1 to 500."""
        query = {"state": tuple(states), "channel": channel, "before": before, "limit": limit}
        found = self.get("/notices", **query)
        from maintd.model.responses import NoticeList

        return self._parsed(NoticeList, found)

    def notice(self, notice_id: int) -> Notice:
        """A notice, with what became of its delivery."""
        found = self.get(f"/notices/{notice_id:d}")
        from maintd.model.notice import Notice

        return self._parsed(Notice, found)

    def incidents(self, *, open_only: bool = False, limit: int = 50) -> tuple[Incident, ...]:
        """Incidents, newest first, or with `open_only` those that are not over, oldest first; `limit` is 1 to 500."""
        found = self.get("/incidents", open_only=open_only, limit=limit)
        from maintd.model.responses import IncidentList

        return self._parsed(IncidentList, found).incidents

    def test_channel(self, channel: str, *, by: str = "") -> Notice:
        """Send a test to a channel. The notice that is returned is `sent` or `failed` soon: see `notice`."""
        found = self.post("/notices/test", {"channel": channel, "by": by})
        from maintd.model.notice import Notice

        return self._parsed(Notice, found)

    def mutes(self) -> tuple[Mute, ...]:
        """The mutes that are active, oldest first."""
        found = self.get("/mutes")
        from maintd.model.responses import MuteList

        return self._parsed(MuteList, found).mutes

    def mute(self, entries: str, why: str, *, until: datetime, by: str = "") -> Mute:
        """Silence the notices of entries, a name or a pattern, for at most 90 days; runs are recorded as always."""
        body = {"entries": entries, "why": why, "until": _time(until), "by": by}
        found = self.post("/mutes", body)
        from maintd.model.notice import Mute

        return self._parsed(Mute, found)

    def unmute(self, entries: str, *, why: str = "", by: str = "") -> bool:
        """End a mute, by the name or pattern that it was written with; whether there was one."""
        return bool(self.post("/mutes/end", {"entries": entries, "why": why, "by": by})["unmuted"])

    # --- freezes ---

    def freezes(self) -> tuple[Freeze, ...]:
        """The freezes that are active: those by command, of the calendar and of the freeze file."""
        found = self.get("/freezes")
        from maintd.model.responses import FreezeList

        return self._parsed(FreezeList, found).freezes

    def freeze(self, why: str, *, until: datetime, entries: str = "*", by: str = "") -> Freeze:
        """Start no run of entries that change something, by a name or a pattern, for at most 90 days."""
        found = self.post("/freezes", {"entries": entries, "why": why, "until": _time(until), "by": by})
        from maintd.model.entry import Freeze

        return self._parsed(Freeze, found)

    def unfreeze(self, *, entries: str = "*", why: str = "", by: str = "") -> bool:
        """End a freeze by command, by the name or pattern that it was written with; whether there was one."""
        return bool(self.post("/freezes/end", {"entries": entries, "why": why, "by": by})["unfrozen"])

    # --- tokens ---

    def tokens(self) -> tuple[ListedToken, ...]:
        """All tokens with role, expiry and last use, also expired and revoked ones."""
        found = self.get("/tokens")
        from maintd.model.responses import TokenList

        return self._parsed(TokenList, found).tokens

    def create_token(
        self,
        name: str,
        role: Role | str,
        *,
        expires_at: datetime | None = None,
        person: str = "",
        entries: Iterable[str] = (),
        why: str = "",
        by: str = "",
    ) -> CreatedToken:
        """Create a token, which only this answer has; it expires after 90 days by default, 366 at most.

        `person` is who holds it; without one it is a program's. `entries` are patterns such as `backup-*` of the
        entries that it is limited to.
        """
        body = {"name": name, "role": str(role), "expires_at": _time(expires_at), "entries": list(entries)}
        body |= {"person": person, "why": why, "by": by}
        found = self.post("/tokens", body)
        from maintd.model.access import CreatedToken

        return self._parsed(CreatedToken, found)

    def revoke_token(self, name: str, *, why: str = "", by: str = "") -> ListedToken:
        """Revoke a token: no request with it is accepted from then on."""
        found = self.post(f"/tokens/{_quoted(name)}/revoke", {"why": why, "by": by})
        from maintd.model.access import ListedToken

        return self._parsed(ListedToken, found)

    def openapi(self) -> dict[str, Any]:
        """The API as an OpenAPI 3.1 document."""
        found: dict[str, Any] = self.get("/openapi.json")
        return found


def _target(path: str, query: Mapping[str, Any]) -> str:
    given = {name: value for name, value in query.items() if value is not None and value != ()}
    given = {name: str(value).lower() if isinstance(value, bool) else value for name, value in given.items()}
    return f"{API}{path}?{urlencode(given, doseq=True)}" if given else f"{API}{path}"


def _quoted(name: str) -> str:
    return quote(name, safe="")


def _time(at: datetime | None) -> str | None:
    """A time as the API takes it. Raises UsageError without a UTC offset: it would mean another time elsewhere."""
    if at is None:
        return None
    if at.tzinfo is None:
        from maintd.errors import UsageError

        raise UsageError(f"the time {at.isoformat()} has no UTC offset", "use datetime.now(UTC), for example")
    return at.isoformat()


def _moment(at: datetime | str | None) -> str | None:
    """A time, or a duration before now such as `7d`, as the API takes it."""
    return _time(at) if isinstance(at, datetime) else at


def _seconds(text: str | None, default: float) -> float:
    """Retry-After as seconds; its other form, a date, counts as absent."""
    return float(text) if text is not None and text.isascii() and text.isdigit() else default


def _is_error(body: bytes) -> bool:
    """Whether a body has the shape of maintd's errors: the server's own limits answer without its headers."""
    if not body.startswith(b'{"error":') or len(body) > 1_000_000:
        return False
    try:
        error = json.loads(body)["error"]
    except (ValueError, RecursionError):
        return False
    return isinstance(error, dict) and error.keys() == {"code", "message", "hint"} and isinstance(error["code"], str)
