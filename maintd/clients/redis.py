"""Redis by redis-py: one try of each command, every wait bounded; keys of any bytes survive the way there and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    InvalidResponse,
    NoPermissionError,
    RedisError,
    ResponseError,
    WatchError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from maintd.clients.causes import cause_of
from maintd.errors import TargetError
from maintd.job.references import resolved
from maintd.model.target import RedisTarget

Command = Sequence[str | int]


@dataclass(frozen=True)
class Group:
    """A consumer group of a stream. `lag` is what it was never given; None when Redis cannot tell (after XDEL)."""

    name: str
    consumers: int
    pending: int
    lag: int | None
    delivered: str  # id of the last entry it was given


@dataclass(frozen=True)
class Stream:
    """A stream's length and its groups."""

    name: str
    length: int
    groups: tuple[Group, ...]


class RedisServer:
    """One connection. Use it in a `with`."""

    def __init__(self, client: Redis, name: str) -> None:
        self._client = client
        self.name = name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with suppress(RedisError, OSError):
            self._client.close()

    def command(self, *words: str | int) -> Any:
        """The answer to one command. Raises TargetError."""
        with _translated(self.name):
            return self._client.execute_command(*words)  # type: ignore[no-untyped-call]

    def many(self, commands: Iterable[Command]) -> list[Any]:
        """The answers to commands sent at once; the TargetError of one that was refused stands in its answer's place.

        Other clients' commands may come in between. Raises TargetError when the server does not answer.
        """
        with _translated(self.name):
            pipe = self._client.pipeline(transaction=False)
            for words in commands:
                pipe.execute_command(*words)  # type: ignore[no-untyped-call]
            answers = pipe.execute(raise_on_error=False)
        return [_error(self.name, answer) if isinstance(answer, RedisError) else answer for answer in answers]

    def unless_changed(self, keys: Sequence[str], decide: Callable[[], Sequence[Command]]) -> list[Any] | None:
        """Look at keys, then do what was decided, all of it or nothing: None when one was changed in between.

        Reading a key is no change. Raises TargetError.
        """
        with _translated(self.name), self._client.pipeline() as pipe:
            pipe.watch(*keys)  # type: ignore[no-untyped-call]
            commands = decide()
            if not commands:
                return []
            pipe.multi()
            for words in commands:
                pipe.execute_command(*words)  # type: ignore[no-untyped-call]
            try:
                return list(pipe.execute())
            except WatchError:
                return None

    def ping(self) -> None:
        """Raises TargetError unless the server answers; while it loads its data it answers that it does not."""
        self.command("PING")

    def info(self, section: str = "everything") -> dict[str, str | int | float]:
        """INFO by key; numbers are numbers."""
        answer = self.command("INFO", section)
        if not isinstance(answer, dict) or ("redis_version" not in answer and section == "everything"):
            raise TargetError(f"{self.name}: INFO is not what Redis answers", cause="malformed")
        return answer

    def stream(self, name: str) -> Stream:
        """A stream with its groups. Raises TargetError(empty) when there is no such key."""
        groups = self._about("GROUPS", name)
        length = int(self.command("XLEN", name))
        with _translated(self.name):
            return Stream(name, length, tuple(_group(_fields(item)) for item in groups))

    def span(self, stream: str) -> tuple[str | None, str]:
        """The ids of the first entry that is there and of the last that ever was. Raises TargetError."""
        with _translated(self.name):
            seen = _fields(self._about("STREAM", stream))
            first = seen.get("first-entry")
            return (str(first[0]) if first else None), str(seen["last-generated-id"])

    def entries_added(self, stream: str) -> int:
        """How many entries it ever had, from Redis 7. Raises TargetError(empty) when there is no such key."""
        with _translated(self.name):
            seen = _fields(self._about("STREAM", stream))
        if "entries-added" not in seen:
            raise TargetError(f"{self.name}: keeps no count of added entries", "it needs Redis 7", cause="empty")
        return int(seen["entries-added"])

    def _about(self, kind: str, stream: str) -> Any:
        try:
            return self.command("XINFO", kind, stream)
        except TargetError as error:
            if "no such key" in error.message:
                raise TargetError(
                    f'{self.name}: no stream "{stream}"', "correct the target's streams", cause="empty"
                ) from error
            raise

    def after(self, stream: str, entry_id: str, at_most: int) -> list[str]:
        """The ids of up to so many entries after this one, oldest first; what they hold is not looked at."""
        return [str(entry[0]) for entry in self.command("XRANGE", stream, f"({entry_id}", "+", "COUNT", at_most)]


def connect(target: RedisTarget, *, name: str = "redis", timeout: timedelta | None = None) -> RedisServer:
    """A client; the first command connects. `timeout`, the target's own by default, is that of each answer."""
    target = resolved(target)
    seconds = (timeout or target.timeout).total_seconds()
    password = target.password.get_secret_value() if target.password else None
    try:
        client = Redis.from_url(
            target.url,
            **({"username": target.username} if target.username else {}),
            **({"password": password} if password else {}),
            socket_timeout=seconds,
            socket_connect_timeout=seconds,
            retry=Retry(NoBackoff(), 0),  # by itself redis-py tries thrice more: a hung server would cost four waits
            protocol=2,  # RESP3 begins with HELLO, which a least-privilege ACL need not allow
            decode_responses=True,
            encoding_errors="surrogateescape",  # a key may be any bytes
        )
    except ValueError:
        raise TargetError(f"{name}: the url cannot be read", "write redis://host:6379/0") from None
    return RedisServer(client, name)


@contextmanager
def _translated(name: str) -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        raise _error(name, error) from error
    except (ValueError, TypeError, LookupError) as error:  # redis-py's parser on what is not its protocol
        raise TargetError(
            f"{name}: does not speak Redis", "is another service on that port?", cause="malformed"
        ) from error


def _error(name: str, error: RedisError) -> TargetError:
    text = " ".join(str(error).split())
    match error:
        case NoPermissionError():
            return TargetError(f"{name}: {text}", "allow the command in the user's ACL", cause="denied")
        case AuthenticationError():
            return TargetError(f"{name}: {text}", "check the target's username and password", cause="denied")
        case BusyLoadingError():
            return TargetError(f"{name}: {text}", "it serves when it has loaded its data", cause="refused")
        case RedisTimeoutError():
            return TargetError(
                f"{name}: no answer in time: {text}", "is it hung, or busy with a script?", cause="timed_out"
            )
        case InvalidResponse():
            return TargetError(f"{name}: does not speak Redis", "is another service on that port?", cause="malformed")
        case RedisConnectionError():
            return TargetError(
                f"{name}: {text}", "is it running, and is the url right?", cause=cause_of(error) or "partial"
            )
        case ResponseError() if text.startswith(("NOAUTH", "WRONGPASS")) or "invalid username-password" in text:
            return TargetError(f"{name}: {text}", "check the target's username and password", cause="denied")
        case ResponseError() if text.startswith("MISCONF"):
            return TargetError(f"{name}: {text}", "it cannot save: look at its disk and its log", cause="failed")
        case _:
            return TargetError(f"{name}: {text}", cause="failed")


def _fields(answer: Any) -> Mapping[str, Any]:
    """RESP2 sends a map as a list of names and values by turns. Raises ValueError for what is neither."""
    if isinstance(answer, Mapping):
        return answer
    if not isinstance(answer, list) or len(answer) % 2:
        raise ValueError("not a map")
    return dict(zip(answer[::2], answer[1::2], strict=True))


def _group(item: Mapping[str, Any]) -> Group:
    lag = item.get("lag")
    return Group(
        name=str(item["name"]),
        consumers=int(item["consumers"]),
        pending=int(item["pending"]),
        lag=None if lag is None else int(lag),
        delivered=str(item["last-delivered-id"]),
    )
