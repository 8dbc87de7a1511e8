"""What the template imports before it forks: libraries, and the modules of the jobs in the calendar.

A module that cannot be imported here is left to the attempts, which report the error. One that hangs, ends the process,
or leaves a thread or an open file behind ends the template; the daemon then starts another one without that module.
"""

from __future__ import annotations

import os
import signal
import sys
import sysconfig
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import maintd
from maintd.job import JobParams
from maintd.job.decorator import JobFunction
from maintd.job.loader import open_job

BLAS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Set to 1 while numpy may be imported: the template forks, so it must have a single thread."""

IMPORT_SECONDS = 10
"""Most seconds that importing one job module may take in the template. The heaviest shipped one takes about one."""

_INSTALLED = (
    *(f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    f"{Path(maintd.__file__).parent}/",
)

Stamp = tuple[int, int, int, int]


def stamp_of(path: str | Path) -> Stamp | None:
    """Return a file's time of modification and of change in ns, size and inode; None when it cannot be read.

    The time of change also moves when an edit sets the time of modification back.
    """
    try:
        stat = Path(path).stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino


class PreloadedJob(NamedTuple):
    """An imported job module, with the modules that it imported from files of its own."""

    run: JobFunction
    params: type[JobParams]
    files: dict[str, Stamp | None]
    modules: dict[str, ModuleType]
    sys_path: list[str] | None  # None: it did not change it

    @property
    def is_current(self) -> bool:
        """Whether the files that it was read from are unchanged."""
        return all(stamp_of(file) == stamp for file, stamp in self.files.items())

    def activate(self) -> None:
        """Give this process the job's own modules and its `sys.path`."""
        sys.modules.update(self.modules)
        if self.sys_path is not None:
            sys.path[:] = self.sys_path


def preload_libraries(names: Iterable[str]) -> None:
    """Import these modules; one that cannot be imported is left to the jobs that need it."""
    for name in names:
        with suppress(Exception):
            import_module(name)


def preload_jobs(paths: Iterable[Path], importing: Callable[[Path], None]) -> dict[str, PreloadedJob]:
    """Import these job modules, and call `importing` before each; returns them by their path.

    May end the process; see the module's docstring.

    Jobs do not see each other's modules or changes of `sys.path`: two folders may each have a module of one name.
    """
    jobs = {}
    for path in paths:
        importing(path)
        before = _threads(), _descriptors()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(IMPORT_SECONDS)
        job = _preload(path)
        signal.alarm(0)
        if (_threads(), _descriptors()) != before:
            os._exit(1)
        if job is not None:
            jobs[str(path)] = job
    return jobs


def single_threaded_blas() -> Callable[[], None]:
    """Have libraries of linear algebra start no threads; returns the function that restores the environment."""
    added = {name: "1" for name in BLAS if name not in os.environ}
    os.environ.update(added)

    def restore() -> None:
        for name in added:
            os.environ.pop(name, None)

    return restore


def _preload(path: Path) -> PreloadedJob | None:
    stamp, known, sys_path = stamp_of(path), set(sys.modules), list(sys.path)
    try:
        run, params = open_job(path)
    except BaseException:  # noqa: BLE001 - whatever it raises, its own attempts report it
        run = None
    own = {
        name: module
        for name, module in sys.modules.items()
        if name not in known
        and (file := getattr(module, "__file__", None)) is not None
        and not file.startswith(_INSTALLED)
    }
    for name in own:
        del sys.modules[name]
    own_path, sys.path[:] = list(sys.path), sys_path
    if run is None:
        return None
    files = {str(module.__file__): stamp_of(str(module.__file__)) for module in own.values()}
    return PreloadedJob(run, params, {**files, str(path): stamp}, own, None if own_path == sys_path else own_path)


def _threads() -> int:
    return len(list(os.scandir("/proc/self/task")))


def _descriptors() -> int:
    return len(list(os.scandir("/proc/self/fd")))
