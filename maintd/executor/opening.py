"""A job's module loaded once for many attempts, when that makes no difference to them.

An attempt finds its module freshly loaded: today's date, a setting read from a file or a connection made while it loads
are its own. So a module is loaded for many only if loading it does nothing but define: while it is loaded, all that its
own code calls is watched, and the first look at the clock, the environment, a file, the network, chance or another
process makes it one that is loaded anew each time. What the libraries do that it imports is not counted: those are
loaded in the template already.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pydantic

from maintd.job import JobParams
from maintd.job.decorator import JobFunction
from maintd.job.loader import open_job

_LOOKS_IN = {
    "_io",
    "_locale",
    "_posixsubprocess",
    "_random",
    "_signal",
    "_socket",
    "_sqlite3",
    "_ssl",
    "_thread",
    "_uuid",
    "fcntl",
    "io",
    "mmap",
    "nt",
    "posix",
    "pwd",
    "grp",
    "resource",
    "select",
    "signal",
    "socket",
    "time",
}
"""Modules in C whose functions ask or change something outside of the module that is loaded."""

_LOOKS = {"now", "today", "utcnow", "fromtimestamp", "random", "getrandbits", "input", "print", "write", "writelines"}
"""Functions and methods of others that do so: of `datetime`, `date`, `random.Random`, files; what is printed too."""

_DEFINES = {
    "fspath",
    "_path_normpath",
    "_path_splitroot",
    "_path_splitroot_ex",
    "text_encoding",
    "allocate_lock",
    "get_ident",
}
"""Functions of these modules that only work on what they are given, or make something."""

_INSTALLED = tuple(f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib", "purelib", "platlib"))

_DEFINING = (f"{Path(pydantic.__file__).parent}/", "<frozen importlib")
"""Whose own looks do not count: what builds the class `Params`, and what imports."""

Stamp = tuple[int, int, int]
"""Of a file: nanoseconds of its last change, bytes, inode."""


class LooksAroundError(Exception):
    """The module must be loaded anew for each attempt; the text says why."""


class Opened(NamedTuple):
    """A loaded job module."""

    path: Path
    run: JobFunction
    params: type[JobParams]
    files: dict[str, Stamp]  # that it was read from, its own helpers included


def stamp_of(path: str | Path) -> Stamp | None:
    """As the file is now; None when it cannot be looked at."""
    try:
        stat = Path(path).stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def open_for_many(path: Path) -> Opened:
    """Load a job's module in this process, to be forked from. Raises LooksAroundError, JobError."""
    stamp = stamp_of(path)
    loaded = set(sys.modules)
    had = _descriptors(), _threads()
    with _watched(path.parent) as looks:
        run, params = open_job(path)
    for look in looks:
        raise LooksAroundError(look)
    if (_descriptors(), _threads()) != had:
        raise LooksAroundError("a thread was started or a file left open")
    files = {str(path): stamp}
    for name in set(sys.modules) - loaded:
        file = getattr(sys.modules[name], "__file__", None)
        if file is not None and not file.startswith(_INSTALLED):
            files.setdefault(file, stamp_of(file))
    known = {file: found for file, found in files.items() if found is not None}
    if len(known) < len(files):
        raise LooksAroundError("a file that it was read from is gone")
    return Opened(path, run, params, known)


@contextmanager
def _watched(own: Path) -> Iterator[list[str]]:
    """What the code below this folder calls that looks at the world; complete at the end of the `with`."""
    looks: list[str] = []
    folder = f"{own}/"

    def watch(frame: FrameType, event: str, called: Any) -> None:
        if event == "c_call":
            name, module = called.__name__, called.__module__
            if (module not in _LOOKS_IN or name in _DEFINES) and name not in _LOOKS:
                return
        elif event != "call" or not frame.f_code.co_qualname.startswith("_Environ."):
            return
        else:
            name = "os.environ"
        asks = _own_line(frame, folder)
        if asks:
            looks.append(f"{name} is called while it is loaded ({asks})")

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        yield looks
    finally:
        sys.setprofile(before)


def _own_line(frame: FrameType | None, folder: str) -> str:
    """Where the job's own code made the call, be it by way of a library's function; empty: an import did."""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(folder):
            return f"{Path(name).name}:{frame.f_lineno}"
        if name.startswith(_DEFINING):
            return ""
        frame = frame.f_back
    return ""


def _threads() -> int:
    return len(list(os.scandir("/proc/self/task")))


def _descriptors() -> int:
    return len(list(os.scandir("/proc/self/fd")))
