"""The jobs there are: shipped ones, the operator's folders, and installed packages with an entry point `maintd.jobs`.

Job modules and what they import stay out of this process: a helper process imports them, describes them and judges
their params. What it said is remembered in a file, by each module's time and size, so that a daemon that starts
with nothing changed starts no helper at all.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import maintd
from maintd.errors import JobError
from maintd.job.description import LoadedJob, ParamProblem, load_job, validate_params
from maintd.model.job import BrokenJob, JobDescription

ANSWER_WITHIN = 30.0  # seconds; importing the heaviest library takes about one
ENTRY_POINTS = "maintd.jobs"

MEMORY_FORM = 3
"""Of what form the remembered answers are; others are forgotten."""

Known = JobDescription | BrokenJob


def shipped(name: str) -> Path:
    """A file or folder that comes with maintd: installed inside the package, or at the top of the source tree."""
    package = Path(maintd.__file__).parent
    installed = package / "shipped" / name
    return installed if installed.exists() else package.parent / name


class Catalogue:
    """Every job by name. `refresh` looks at the folders again; the other methods answer from what it found."""

    def __init__(self, folders: Sequence[Path] = (), remember_in: Path | None = None) -> None:
        self._folders = (shipped("jobs"), *folders)
        self._memory = _Memory(remember_in)
        self._jobs: dict[str, Known] = {}
        self._seen: dict[str, str] = {}

    @property
    def jobs(self) -> Mapping[str, Known]:
        """Descriptions by name, sorted; a module that cannot be used is a BrokenJob."""
        if not self._jobs:
            self.refresh()
        return self._jobs

    def refresh(self) -> bool:
        """Look at the folders again; True when anything changed. Raises JobError for a folder that is not there."""
        files = _job_files(self._folders)
        seen = {name: ";".join(_stamp(path) for path in paths) for name, paths in files.items()}
        if seen == self._seen and self._jobs:
            return False
        with _Helper() as helper:
            self._jobs = {name: self._describe(helper, name, paths) for name, paths in sorted(files.items())}
        self._memory.save()
        self._seen = seen
        return True

    def validate(self, job: str, params: Mapping[str, Any]) -> list[ParamProblem]:
        """What is wrong with these params of a job; nothing for a job that is broken."""
        return self.validate_all([(job, params)])[0]

    def validate_all(self, wanted: Sequence[tuple[str, Mapping[str, Any]]]) -> list[list[ParamProblem]]:
        """The same for several at once, with one helper process at most."""
        with _Helper() as helper:
            found = [self._judge(helper, job, params) for job, params in wanted]
        self._memory.save()
        return found

    def _describe(self, helper: _Helper, name: str, paths: Sequence[Path]) -> Known:
        path = paths[0]
        if len(paths) > 1:
            others = " and ".join(str(path) for path in paths)
            return BrokenJob(name=name, path=path, error=f"two modules are called {name}: {others}; rename one")
        key = f"describe {path} {_stamp(path)}"
        answer = self._memory.get(key)
        if answer is None:
            answer = self._memory.put(key, helper.ask({"describe": str(path)}))
        if "error" in answer:
            return BrokenJob(name=name, path=path, error=answer["error"])
        return JobDescription.model_validate(answer["job"])

    def _judge(self, helper: _Helper, job: str, params: Mapping[str, Any]) -> list[ParamProblem]:
        known = self.jobs.get(job)
        if not isinstance(known, JobDescription):
            return []
        key = f"validate {known.path} {_stamp(known.path)} {json.dumps(params, sort_keys=True, default=str)}"
        answer = self._memory.get(key)
        if answer is None:
            answer = self._memory.put(key, helper.ask({"validate": str(known.path), "params": dict(params)}))
        if "error" in answer:
            return [ParamProblem((), answer["error"])]
        return [ParamProblem(tuple(location), message) for location, message in answer["problems"]]


def _job_files(folders: Iterable[Path]) -> dict[str, list[Path]]:
    """Module files by job name. A name that starts with _ is not a job."""
    files: dict[str, list[Path]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise JobError(f"{folder} is not a folder of job modules", "correct MAINTD_JOBS_PATH")
        for path in sorted(folder.glob("*.py")):
            if not path.name.startswith("_"):
                files.setdefault(path.stem, []).append(path.resolve())
    for point in entry_points(group=ENTRY_POINTS):
        spec = find_spec(point.module)
        if spec is not None and spec.origin:
            files.setdefault(point.name, []).append(Path(spec.origin))
    return files


def _stamp(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError:
        return "gone"
    return f"{stat.st_mtime_ns}/{stat.st_size}"


class _Memory:
    """Answers of the helper by what they depend on; only those asked for since the start are kept."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._version = f"{maintd.__version__} {MEMORY_FORM} {sys.version}"
        self._old = self._load()
        self._new: dict[str, Any] = {}
        self._dirty = False

    def get(self, key: str) -> Any:
        found = self._new.get(key) or self._old.get(key)
        if found is not None:
            self._new[key] = found
        return found

    def put(self, key: str, answer: Any) -> Any:
        if "error" not in answer:  # what was missing may be installed by the next start
            self._new[key] = answer
            self._dirty = True
        return answer

    def save(self) -> None:
        if not self._dirty or self._file is None:
            return
        part = self._file.with_suffix(".part")
        # A memory that cannot be written costs a second at the next start and nothing else.
        with contextlib.suppress(OSError):
            part.write_text(json.dumps({"version": self._version, "answers": self._new}), encoding="utf-8")
            part.replace(self._file)
        self._dirty = False

    def _load(self) -> dict[str, Any]:
        if self._file is None:
            return {}
        try:
            read = json.loads(self._file.read_text(encoding="utf-8"))
            answers = read["answers"] if read["version"] == self._version else {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return {}
        return answers if isinstance(answers, dict) else {}


class _Helper:
    """The process that imports job modules, started when first asked. A module that kills or hangs it is broken."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def ask(self, question: Mapping[str, Any]) -> Any:
        """The answer, or {"error": …} when there is none."""
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            self._stop()
            return {
                "error": f"{question.get('describe') or question.get('validate')}: the process that imports it ended"
            }
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            ready = selector.select(ANSWER_WITHIN)
        line = process.stdout.readline() if ready else b""
        if line:
            return json.loads(line)
        self._stop()
        path = question.get("describe") or question.get("validate")
        what = "ended the process" if ready else f"did not end within {ANSWER_WITHIN:.0f} s"
        return {"error": f"{path}: importing it {what}"}

    def _start(self) -> subprocess.Popen[bytes]:
        environ = {key: value for key, value in os.environ.items() if not key.startswith("MAINTD_STORE")}
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from maintd.job.registry import answer; answer()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environ,
            start_new_session=True,
        )
        return self._process

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        process.kill()
        process.wait()


def answer() -> None:
    """The helper's side: one JSON question per line in, one JSON answer per line out."""
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a module prints while it is imported must not look like an answer
    loaded: dict[str, LoadedJob] = {}
    for line in sys.stdin.buffer:
        question = json.loads(line)
        path = question.get("describe") or question["validate"]
        try:
            if path not in loaded:
                loaded[path] = load_job(Path(path))
            if "describe" in question:
                said: dict[str, Any] = {"job": loaded[path].description.model_dump(mode="json")}
            else:
                said = {"problems": validate_params(loaded[path].params, question["params"])}
        except JobError as error:
            said = {"error": str(error)}
        out.write(json.dumps(said, default=str).encode() + b"\n")
