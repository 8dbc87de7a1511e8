"""Halt and unhalt a service over HTTP, and read from two sources whether it is halted.

What a run halted is a value that it hands over, `halts`: a record by the name of the target. A record is handed over
before the request is sent, so that one which was interrupted is known to later steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from maintd.clients import postgres, redis
from maintd.clients.http import HEALTH_LIMIT, Api, Field, fields
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.job.references import resolved
from maintd.model.evidence import Scalar
from maintd.model.target import HaltRequest, HaltSource, HaltTarget

HANDED = "halts"
"""The name of the value that is handed over."""

RUNNING, HALTED = "running", "halted"  # what a service was before
HALTING, DONE, LEFT, UNHALTING, UNHALTED = "halting", "halted", "left", "unhalting", "unhalted"
"""The states of a record. `left`: it was halted before, and stays so."""

Places = Callable[[str, str], Any]

_POLL = 0.5  # seconds
SNAPSHOT_LIMIT = timedelta(seconds=8)
"""What is known of other runs is acted on for so long. A run that unhalts waits longer, see the job service_unhalt."""


@dataclass(frozen=True)
class Seen:
    """The state by one source. `halted` is None if it is unknown, with the cause in `text`."""

    halted: bool | None
    text: str
    error: TargetError | None = None


@dataclass(frozen=True)
class State:
    """The state by both sources."""

    look: Seen
    confirm: Seen

    @property
    def halted(self) -> bool | None:
        """Whether it is halted; None: unknown, or they disagree."""
        return self.look.halted if self.look.halted is self.confirm.halted else None

    @property
    def text(self) -> str:
        """Both sources in one line."""
        if self.halted is not None:
            return HALTED if self.halted else RUNNING
        return f"{self.look.text}; {self.confirm.text}"

    @property
    def error(self) -> TargetError:
        """Why it is not known."""
        found = self.look.error or self.confirm.error
        if found is None:
            found = TargetError(self.text, "the two sources disagree: check the service by hand", cause="conflict")
        return found


class Switch:
    """A service that can be halted."""

    def __init__(self, target: HaltTarget, name: str, places: Places, words: Mapping[str, str]) -> None:
        """`places` returns a target by kind and name, for a second source; `words` are those of templates."""
        target = resolved(target)
        self.name = name
        self._target = target
        self._places = places
        self._words = words
        self._api = Api(target.url, target.headers, target.timeout, ca_file=target.ca_file, verify=target.verify)

    @classmethod
    def of(cls, ctx: Context, name: str, reason: str) -> Self:
        """The service of a target, for this run. Raises UnknownNameError."""
        reason = f"maintd, run {ctx.run_id}: {reason}"
        words = {"{run}": str(ctx.run_id), "{entry}": ctx.entry, "{reason}": reason}
        return cls(ctx.target("halts", name), name, ctx.target, words)

    def state(self) -> State:
        """Read `look` and then `confirm`: the first may initialise the day, which the second needs.

        Read again if it is unknown: the day may have ended between the two.
        """
        found = self._read_both()
        if found.halted is None:
            time.sleep(_POLL)
            found = self._read_both()
        return found

    def _read_both(self) -> State:
        return State(self._read(self._target.look), self._read(self._target.confirm))

    def wait_for(self, halted: bool, within: timedelta) -> State:
        """Read until both sources show it, at most for that time; the last state."""
        until = time.monotonic() + within.total_seconds()
        while True:
            found = self._read_both()
            if found.halted is halted or time.monotonic() >= until:
                return found
            time.sleep(min(_POLL, max(until - time.monotonic(), 0.0)))

    def send(self, *, halted: bool) -> None:
        """Send the request. Raises TargetError, also for an answer that is not the expected one."""
        request: HaltRequest = self._target.halt if halted else self._target.unhalt
        answer = self._api.call(request.method, self._filled(request.path), json_body=self._filled(request.body))
        for field in fields(answer, request.expect):
            if not field.equal:
                raise TargetError(
                    f"{answer.url} answered {field.path}: {field.observed!r} instead of {field.expected!r}",
                    cause="malformed",
                )

    def _filled(self, value: Any) -> Any:
        """A template with its values, which are those of this moment."""
        if isinstance(value, str):
            words = {**self._words, "{date}": f"{datetime.now(UTC):%Y-%m-%d}"}
            for word, text in words.items():
                value = value.replace(word, text)
            return value
        if isinstance(value, Mapping):
            return {key: self._filled(item) for key, item in value.items()}
        return [self._filled(item) for item in value] if isinstance(value, list | tuple) else value

    def _read(self, source: HaltSource) -> Seen:
        try:
            where, value = self._value(source)
        except TargetError as error:
            return Seen(None, f"{error.cause}: {error.message}", error)
        for halted, expected in ((True, source.halted), (False, source.running)):
            # Redis has only texts, and a database its own types.
            same = str(value) == str(expected) if source.path is None else Field("", value, expected).equal
            if same:
                return Seen(halted, f"{HALTED if halted else RUNNING} by {where}")
        unfamiliar = TargetError(
            f"{where} is {'missing' if value is None else repr(value)[:100]}",
            f"correct the field, or the values of halted and running, in targets.halts.{self.name}",
            cause="unfamiliar",
        )
        return Seen(None, unfamiliar.message, unfamiliar)

    def _value(self, source: HaltSource) -> tuple[str, Scalar]:
        if source.redis is not None:
            key = self._filled(source.key)
            with redis.connect(self._places("redis", source.redis), name=source.redis) as server:
                value = server.command("HGET", key, source.field) if source.field else server.command("GET", key)
            if isinstance(value, bytes):
                value = value.decode(errors="replace")
            return f"redis {source.redis}: {key} {source.field}".rstrip(), value
        if source.postgres is not None:
            place = self._places("postgres", source.postgres)
            with postgres.connect(place, "service_halt", name=source.postgres) as session:
                rows = session.rows(source.query)
            if not rows:
                raise TargetError(f"postgres {source.postgres}: the query returned no row", cause="empty")
            return f"postgres {source.postgres}", next(iter(rows[0].values()))
        path = self._filled(source.path)
        api, path = (self._api, path) if path.startswith("/") else (self._elsewhere(path), "")
        answer = api.call("GET", path, limit=HEALTH_LIMIT)
        return f"{answer.url} {source.field}", fields(answer, {source.field: source.halted})[0].observed

    def _elsewhere(self, url: str) -> Api:
        """Another service, which must not get this one's headers: they have its token."""
        return Api(url, {}, self._target.timeout, ca_file=self._target.ca_file, verify=self._target.verify)


def switch_to(ctx: Context, switch: Switch, *, halted: bool, within: timedelta, again: bool = False) -> str:
    """Halt or unhalt the service; why it is not seen to be so, empty if it is, and in a dry run.

    The state is read again, whatever the answer.
    """
    action = "halt" if halted else "unhalt"
    with ctx.change(action, switch.name, again=again) as allowed:
        if not allowed:
            return ""
        error: TargetError | None = None
        try:
            switch.send(halted=halted)
        except TargetError as found:
            error = found
        unanswered = error is not None and error.cause in ("timed_out", "partial")
        # After an error that was answered, nothing more is to come.
        state = switch.wait_for(halted, within if error is None or unanswered else timedelta(0))
        allowed.observed(state=state.text)
        if error is not None:
            allowed.observed(answer=error.message)
        if state.halted is halted:
            return ""
        cause = f"{error.message if error is not None else 'answered as expected'}; it is {state.text}"
        if state.halted is None or unanswered:  # the request may still be carried out
            allowed.uncertain(cause)
        elif error is not None and error.cause == "denied":
            allowed.refused(cause)
        else:
            allowed.failed(cause)
        return cause


def records_in(value: Any) -> dict[str, dict[str, Any]]:
    """The records among the values that a run has handed over. What is not one is left out."""
    if not isinstance(value, Mapping):
        return {}
    return {str(name): dict(record) for name, record in value.items() if isinstance(record, Mapping)}


class Records:
    """What this run, or the one that it resumes or undoes, has recorded. Each change is handed over at once."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._found = records_in(ctx.handed(HANDED))

    def get(self, name: str) -> dict[str, Any] | None:
        """The record of a service."""
        return self._found.get(name)

    def set(self, name: str, **columns: Any) -> None:
        """Change a record, unless this is a dry run."""
        at = self._ctx.now().isoformat(timespec="seconds")
        self._found[name] = {**self._found.get(name, {}), **columns, "at": at}
        if not self._ctx.dry_run:
            self._ctx.hand_over(HANDED, dict(self._found))
