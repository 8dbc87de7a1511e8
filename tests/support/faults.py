"""Faults that no job foresees, at one place at which a job uses a client, and for one of its targets only.

A place is the line of a job or a check that calls a client, or, for a folder, that reaches the operating system. At a
place, the call raises an exception that no code names, or returns an answer whose every use raises it: so the
exception comes from the client, from the code that reads the answer, or from the evaluation, whichever uses it first.
Or the answer has its fields, and each is null.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal
from unittest.mock import patch

from maintd.clients.alertmanager import Alertmanager
from maintd.clients.docker import Docker
from maintd.clients.docker_api import BoundedClient
from maintd.clients.host import Host
from maintd.clients.http import Api
from maintd.clients.postgres import Postgres
from maintd.clients.prometheus import Prometheus
from maintd.clients.redis import RedisServer
from maintd.clients.tls_server import TlsServer

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "maintd/clients"
READERS = (ROOT / "jobs", ROOT / "maintd/checks")
CLASSES = (Postgres, RedisServer, Docker, Prometheus, Alertmanager, Host, TlsServer)
ENGINE = (
    "images",
    "inspect_image",
    "containers",
    "inspect_container",
    "networks",
    "inspect_network",
    "logs",
    "tag",
    "remove_image",
    "remove_container",
    "df",
    "prune_builds",
    "inspect_distribution",
)
"""Methods of the engine's API that checks call by themselves."""

Kind = Literal["exception", "odd answer", "nulls"]
Place = tuple[str, int, str]
"""File, line and the name of what is called."""


class OddError(ArithmeticError):
    """What no code of maintd names."""


def _used(answer: Any, *_: object, **__: object) -> Any:
    object.__getattribute__(answer, "used")()
    raise OddError("an odd answer")


def _new(answer: Any, used: Callable[[], None]) -> None:
    object.__setattr__(answer, "used", used)


_OPERATIONS = """
getattr getitem setitem iter next len contains bool call enter exit eq ne lt le gt ge hash str repr format int float
index add radd sub rsub mul rmul truediv rtruediv floordiv mod neg abs round fspath bytes
"""
Odd: Any = type("Odd", (), {"__init__": _new} | {f"__{name}__": _used for name in _OPERATIONS.split()})
"""An answer that cannot be used; its argument is called when something tries."""


def _nulls(answer: Any) -> Any:
    """The answer without its values, if it consists of fields."""
    if isinstance(answer, dict):
        return dict.fromkeys(answer)
    return [_nulls(item) for item in answer] if isinstance(answer, list) else answer


def _kinds(answer: Any) -> tuple[Kind, ...]:
    """In which ways a call with this answer can fail."""
    first = answer[0] if isinstance(answer, list) and answer else answer
    if answer is None:
        return ("exception",)
    return ("exception", "odd answer", "nulls") if isinstance(first, dict) else ("exception", "odd answer")


@dataclass
class Fault:
    """Where to fail: at `place`, in this way; without a place, only the places are noted."""

    place: Place | None = None
    kind: Kind = "exception"
    seen: dict[Place, tuple[Kind, ...]] = field(default_factory=dict)
    """Each place with the ways in which it can fail."""
    happened: bool = False
    mentioning: str = ""
    """Only calls with this in their arguments."""

    def at(self, called: str, call: Callable[[], Any], *arguments: object) -> Any:
        """Call, unless this is the place."""
        if self.mentioning and self.mentioning not in repr(arguments):
            return call()
        place = _place(called)
        if place != self.place:
            answer = call()
            self.seen.setdefault(place, _kinds(answer))
            return answer
        if self.kind == "odd answer":
            call()
            return Odd(self.note)
        self.note()
        if self.kind == "nulls":
            return _nulls(call())
        raise OddError("an odd answer")

    def note(self) -> None:
        """Note that what happens next is the fault."""
        self.happened = True


def _place(called: str) -> Place:
    """The line of a job or a check that led to this call."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if any(path.is_relative_to(folder) for folder in READERS):
            return str(path.relative_to(ROOT)), frame.f_lineno, called
        frame = frame.f_back
    return "", 0, called


def _from_client() -> bool:
    return Path(sys._getframe(2).f_code.co_filename).is_relative_to(CLIENTS)


@contextmanager
def calls_of(name: str, fault: Fault) -> Iterator[None]:
    """Let the fault act on the calls of all clients of the targets with this name."""
    engines: list[BoundedClient] = []  # not their ids: those of a client that is gone are used again

    def wrapped(cls: type[Any], method: str, is_of: Callable[[Any], bool]) -> Callable[..., Any]:
        real = getattr(cls, method)

        @functools.wraps(real)
        def call(self: Any, *arguments: Any, **named: Any) -> Any:
            if _from_client() or not is_of(self):
                return real(self, *arguments, **named)
            return fault.at(f"{cls.__name__}.{method}", lambda: real(self, *arguments, **named), arguments, named)

        return call

    made = Docker.__init__

    def noted(self: Docker, api: BoundedClient, of: str) -> None:
        made(self, api, of)
        if of == name:
            engines.append(api)

    with ExitStack() as patched:
        patched.enter_context(patch.object(Docker, "__init__", noted))
        for cls in CLASSES:
            for method, function in vars(cls).items():
                plain = inspect.isfunction(function) and not method.startswith("_") and method != "close"
                # A context manager has no answer.
                if plain and not inspect.isgeneratorfunction(inspect.unwrap(function)):
                    call = wrapped(cls, method, lambda self: getattr(self, "name", None) == name)
                    patched.enter_context(patch.object(cls, method, call))
        for method in ENGINE:
            call = wrapped(BoundedClient, method, lambda self: any(self is each for each in engines))
            patched.enter_context(patch.object(BoundedClient, method, call))
        yield


@contextmanager
def requests_to(part: str, fault: Fault) -> Iterator[None]:
    """Let the fault act on requests to URLs that contain this, which are not those of a class of clients."""
    from maintd.clients import http

    real_get, real_call = http.get, Api.call

    def get(target: Any) -> Any:
        return fault.at("http.get", lambda: real_get(target)) if part in target.url else real_get(target)

    def call(self: Api, method: str, path: str, **more: Any) -> Any:
        if part not in self._url + path:
            return real_call(self, method, path, **more)
        return fault.at("Api.call", lambda: real_call(self, method, path, **more))

    with patch.object(http, "get", get), patch.object(Api, "call", call):
        yield


@contextmanager
def files_below(folder: Path, fault: Fault) -> Iterator[None]:
    """Let the fault act on whatever is opened, listed or examined below a folder, or on one file."""
    root, readlink = os.path.realpath(folder), os.readlink

    def is_below(path: Any, dir_fd: int | None = None) -> bool:
        if isinstance(path, int):
            try:
                path = readlink(f"/proc/self/fd/{path}")
            except OSError:
                return False
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        text = os.fsdecode(path)
        if dir_fd is not None and not text.startswith("/"):
            return is_below(dir_fd)
        return text == root or text.startswith(f"{root}/")

    def wrapped(real: Callable[..., Any], called: str) -> Callable[..., Any]:
        @functools.wraps(real)
        def call(path: Any = ".", *arguments: Any, **named: Any) -> Any:
            if not is_below(path, named.get("dir_fd")):
                return real(path, *arguments, **named)
            place = _place(called)
            if not place[0]:
                return real(path, *arguments, **named)
            fault.seen.setdefault(place, ("exception",))
            if place == fault.place:
                fault.note()
                raise OddError("an odd answer")
            return real(path, *arguments, **named)

        return call

    with ExitStack() as patched:
        for module, name in ((os, "open"), (os, "stat"), (os, "lstat"), (os, "scandir"), (os, "listdir")):
            patched.enter_context(patch.object(module, name, wrapped(getattr(module, name), f"os.{name}")))
        for module in (builtins, io):
            patched.enter_context(patch.object(module, "open", wrapped(module.open, "open")))
        yield
