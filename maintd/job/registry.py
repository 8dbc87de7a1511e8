"""The jobs: shipped ones, those in the operator's folders, and those of installed packages (entry point `maintd.jobs`).

A job is described when it is first looked up. The descriptions of the shipped jobs are computed when the wheel or the
image is built; others are kept in the state directory (see `maintd.job.description_cache`). Only what is in neither
file takes a process that imports the module, so a large or slow folder of jobs does not delay the daemon's start.
"""

from __future__ import annotations

import threading
import time
from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from contextlib import contextmanager
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import structlog

import maintd
from maintd.config.trust import require_trusted
from maintd.errors import JobError, RefusedError
from maintd.job.description import ParamProblem
from maintd.job.description_cache import DescriptionCache, cache_key, prebuilt_file, private_modules, source_digest
from maintd.job.import_process import ImportProcess
from maintd.model.job import BrokenJob, JobDescription
from maintd.secret_params import malformed_references

log = structlog.get_logger()

ENTRY_POINTS = "maintd.jobs"

RegisteredJob = JobDescription | BrokenJob


def shipped(name: str) -> Path:
    """A file or folder that is shipped with maintd: inside the installed package, or at the top of the source tree."""
    package = Path(maintd.__file__).parent
    installed = package / "shipped" / name
    return installed if installed.exists() else package.parent / name


class _Modules(NamedTuple):
    """The files with the name of one job, usually one, and a text that changes when one of them is written."""

    paths: tuple[Path, ...]
    stamp: str


Snapshot = Mapping[str, tuple[_Modules, RegisteredJob | None]]
"""The files of each job by its name, and its description if it has one."""


class JobRegistry:
    """Every job by name. Safe to use from several threads."""

    def __init__(
        self, folders: Sequence[Path] = (), cache_file: Path | None = None, *, use_prebuilt: bool = True
    ) -> None:
        """`folders` are the operator's; `cache_file` keeps descriptions between starts."""
        self._folders = (shipped("jobs").resolve(), *folders)
        self._cache = DescriptionCache(cache_file, prebuilt_file() if use_prebuilt else None)
        self._modules: dict[str, _Modules] = {}
        self._described: dict[str, tuple[_Modules, RegisteredJob]] = {}
        self._digests: dict[str, tuple[_Modules, str]] = {}
        self._jobs = _Jobs(self)
        self._thread = threading.local()  # the process that this thread keeps open
        self._processes: set[ImportProcess] = set()
        self._background: threading.Thread | None = None
        self._closed = False

    @property
    def jobs(self) -> Mapping[str, RegisteredJob]:
        """The jobs as they are now, by name, sorted. A job is described when it is looked up; one whose module cannot
        be used is a BrokenJob. Raises JobError for a folder that does not exist."""
        if not self._modules:
            self.refresh()
        return self._jobs

    @property
    def broken(self) -> list[BrokenJob]:
        """The broken jobs among those that were described so far. Never imports a module. Raises JobError as `jobs`."""
        if not self._modules:
            self.refresh()
        known = [self._known(name) for name in self.names()]
        return [job for job in known if isinstance(job, BrokenJob)]

    def names(self) -> list[str]:
        """The names of all jobs, sorted."""
        return list(self._modules)

    def refresh(self) -> bool:
        """Find added, changed and removed modules; True when there are any. Raises JobError as `jobs` does."""
        stamps = _Stamps()
        found = {name: _Modules(tuple(paths), stamps.of(paths)) for name, paths in sorted(_find(self._folders).items())}
        if found == self._modules:
            return False
        self._modules = found
        return True

    def snapshot(self) -> Snapshot:
        """The modules as they are known now, to compare them with later."""
        return {name: (modules, self._known(name)) for name, modules in self._modules.items()}

    def changes_since(self, before: Snapshot, seconds: float) -> list[tuple[str, str]]:
        """Name, and one line about it, of each job whose module was added, removed or written since the snapshot.

        Such a module is described, which shows whether it is broken; after so many seconds no further one is.
        """
        changes = []
        until = time.monotonic() + seconds
        with self.one_process():
            for name in sorted(before.keys() | self._modules.keys()):
                modules, was = before.get(name, (None, None))
                if modules == self._modules.get(name):
                    continue
                job = self._jobs.get(name) if time.monotonic() < until else self._known(name)
                if name not in self._modules:
                    text = f'removed job "{name}"'
                elif isinstance(job, BrokenJob):
                    added = "added, and " if modules is None else "still " if isinstance(was, BrokenJob) else ""
                    text = f'job "{name}": {added}broken: {job.error}'
                elif modules is None:
                    text = f'added job "{name}"'
                else:
                    mended = isinstance(was, BrokenJob) and job is not None
                    text = f'job "{name}": {"can be used again" if mended else "changed"}'
                changes.append((name, text))
        return changes

    def describe(self, name: str) -> RegisteredJob:
        """One job. Raises KeyError when there is none of this name."""
        modules = self._modules[name]
        job = self._known(name)
        if job is None:
            job = self._describe(name, modules.paths)
            self._described[name] = (modules, job)
        return job

    def describe_in_background(self) -> None:
        """Describe the jobs that were not looked up yet in a thread, and log those that are broken."""
        running = self._background is not None and self._background.is_alive()
        if running or all(self._known(name) for name in self.names()):
            return
        self._background = threading.Thread(target=self._describe_others, name="describe-jobs", daemon=True)
        self._background.start()

    def validate(self, job: str, params: Mapping[str, Any]) -> list[ParamProblem]:
        """What is wrong with these params of a job; nothing for a job that is broken or does not exist."""
        return self.validate_all([(job, params)])[0]

    def validate_all(self, wanted: Sequence[tuple[str, Mapping[str, Any]]]) -> list[list[ParamProblem]]:
        """The same for several (job, params) at once, in one process."""
        with self.one_process():
            return [self._validate(job, params) for job, params in wanted]

    @contextmanager
    def one_process(self) -> Iterator[None]:
        """Import modules in one process until the end of the block, instead of one process for each question."""
        if getattr(self._thread, "process", None) is not None:
            yield
            return
        with ImportProcess() as process:
            self._thread.process = process
            self._processes.add(process)
            try:
                yield
            finally:
                self._thread.process = None
                self._processes.discard(process)
                self._cache.save()

    def close(self) -> None:
        """End the processes that are importing modules."""
        self._closed = True
        for process in tuple(self._processes):
            process.stop()

    def _known(self, name: str) -> RegisteredJob | None:
        modules, job = self._described.get(name, (None, None))
        return job if modules == self._modules.get(name) else None

    def _describe(self, name: str, paths: Sequence[Path]) -> RegisteredJob:
        path = paths[0]
        if len(paths) > 1:
            others = " and ".join(str(path) for path in paths)
            return BrokenJob(name=name, path=path, error=f"two modules are called {name}: {others}; rename one of them")
        try:
            if path.parent != self._folders[0]:
                for module in (path, *private_modules(path.parent)):
                    require_trusted(module)
            answer = self._answer("describe", name, path)
        except RefusedError as error:
            return BrokenJob(name=name, path=path, error=str(error))
        except OSError as error:
            return BrokenJob(name=name, path=path, error=f"{path}: cannot be read: {error.strerror or error}")
        if "error" in answer:
            return BrokenJob(name=name, path=path, error=answer["error"])
        return JobDescription.model_validate({**answer["job"], "name": name, "path": path})

    def _validate(self, name: str, params: Mapping[str, Any]) -> list[ParamProblem]:
        job = self.jobs.get(name)
        if not isinstance(job, JobDescription):
            return []
        malformed = [ParamProblem(path, problem) for path, problem in malformed_references(params)]
        if malformed:
            return malformed
        try:
            answer = self._answer("validate", name, job.path, params)
        except OSError as error:
            return [ParamProblem((), f"{job.path}: cannot be read: {error.strerror or error}")]
        if "error" in answer:
            return [ParamProblem((), answer["error"])]
        return [ParamProblem(tuple(location), message) for location, message in answer["problems"]]

    def _answer(self, question: str, name: str, path: Path, params: Mapping[str, Any] | None = None) -> Any:
        """From the cache, else from the process that imports the module. Raises OSError."""
        digest = self._digest(name, path)
        key = cache_key(question, name, digest, params)
        answer = self._cache.get(key)
        if answer is not None:
            return answer
        with self.one_process():
            process: ImportProcess = self._thread.process
            answer = process.describe(path) if params is None else process.validate(path, params)
            # An error is not kept: what the module misses may be installed by the next start. Nor is the answer about
            # a file that was written while it was imported.
            if "error" not in answer and source_digest(path) == digest:
                self._cache.put(key, answer)
        return answer

    def _digest(self, name: str, path: Path) -> str:
        """The digest of the module as it was at the last refresh; a large calendar needs it for each entry."""
        modules = self._modules[name]
        known, digest = self._digests.get(name, (None, ""))
        if known != modules:
            digest = source_digest(path)
            self._digests[name] = (modules, digest)
        return digest

    def _describe_others(self) -> None:
        with self.one_process():
            for name in self.names():
                if self._closed:
                    return
                if self._known(name) is None:
                    job = self._jobs.get(name)
                    if isinstance(job, BrokenJob) and not self._closed:
                        log.error("job_broken", job=name, error=job.error)


class _Jobs(Mapping[str, RegisteredJob]):
    """A registry's jobs by name, each described when it is looked up."""

    def __init__(self, registry: JobRegistry) -> None:
        self._registry = registry

    def __getitem__(self, name: str) -> RegisteredJob:
        return self._registry.describe(name)

    def __contains__(self, name: object) -> bool:
        return name in self._registry.names()

    def __iter__(self) -> Iterator[str]:
        return iter(self._registry.names())

    def __len__(self) -> int:
        return len(self._registry.names())

    def items(self) -> ItemsView[str, RegisteredJob]:
        return self._all().items()

    def values(self) -> ValuesView[RegisteredJob]:
        return self._all().values()

    def _all(self) -> dict[str, RegisteredJob]:
        with self._registry.one_process():
            found = {name: self.get(name) for name in self}
        return {name: job for name, job in found.items() if job is not None}


def _find(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """Module files by job name. A file whose name starts with _ is not a job."""
    files: dict[str, list[Path]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise JobError(f"{folder} is not a folder of job modules", "correct MAINTD_JOBS_PATH")
        if folder != folders[0]:  # the first is maintd's own
            require_trusted(folder)
        for path in sorted(folder.glob("*.py")):
            if not path.name.startswith("_"):
                files.setdefault(path.stem, []).append(_resolved(path))
    for point in entry_points(group=ENTRY_POINTS):
        spec = find_spec(point.module)
        if spec is not None and spec.origin:
            files.setdefault(point.name, []).append(Path(spec.origin))
    return files


def _resolved(path: Path) -> Path:
    """The file behind symbolic links. Links in a loop stay as they are: reading them is the error of that one file."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # RuntimeError: a loop, until Python 3.12
        return path.absolute()


class _Stamps:
    """Texts that change when a module, or a private module in its folder, is written."""

    def __init__(self) -> None:
        self._private: dict[Path, str] = {}  # by folder

    def of(self, paths: Iterable[Path]) -> str:
        return " ".join(f"{_stamp(path)} {self._private_in(path.parent)}" for path in paths)

    def _private_in(self, folder: Path) -> str:
        if folder not in self._private:
            self._private[folder] = " ".join(_stamp(path) for path in private_modules(folder))
        return self._private[folder]


def _stamp(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError:
        return "unreadable"
    return f"{stat.st_mtime_ns},{stat.st_size},{stat.st_ino}"
