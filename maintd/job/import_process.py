"""The process that imports job modules in order to describe them and to validate params.

Job modules, and the libraries that they import, stay out of the daemon. Questions and answers are lines of JSON over
the process's standard input and output. A module that ends the process, or hangs it, is broken; the next question
starts another process.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from maintd.errors import JobError
from maintd.units import seconds_text

ANSWER_SECONDS = 30
"""Importing the heaviest library takes about one second."""


class ImportProcess:
    """Started by the first question; ended by `stop` or at the end of a `with` block."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def describe(self, path: Path) -> Any:
        """{"job": the fields of a JobDescription}, or {"error": text}."""
        return self._ask({"path": str(path)})

    def validate(self, path: Path, params: Mapping[str, Any]) -> Any:
        """{"problems": [[location, message], …]}, or {"error": text}."""
        return self._ask({"path": str(path), "params": dict(params)})

    def stop(self) -> None:
        """Kill the process. May be called from another thread, whose question then has an error as its answer."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _ask(self, question: Mapping[str, Any]) -> Any:
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        timed_out = False
        line = b""
        try:
            process.stdin.write(json.dumps(question, default=str).encode() + b"\n")
            process.stdin.flush()
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                timed_out = not selector.select(ANSWER_SECONDS)
            line = b"" if timed_out else process.stdout.readline()
        except (OSError, ValueError):  # it ended, or `stop` closed the pipes
            pass
        if line:
            return json.loads(line)
        self.stop()
        what = f"takes longer than {seconds_text(ANSWER_SECONDS)}" if timed_out else "ends the process"
        return {"error": f"{question['path']}: importing it {what}"}

    def _start(self) -> subprocess.Popen[bytes]:
        environ = {key: value for key, value in os.environ.items() if not key.startswith("MAINTD_STORE")}
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from maintd.job.import_process import answer_questions; answer_questions()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environ,
            start_new_session=True,
        )
        return self._process


def answer_questions() -> None:
    """The process's side: one question per line of standard input, one answer per line of standard output."""
    from maintd.job.description import LoadedJob, load_job, validate_params

    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a module prints while it is imported must not be read as an answer
    loaded: dict[str, LoadedJob] = {}
    for line in sys.stdin.buffer:
        question = json.loads(line)
        path = question["path"]
        signal.alarm(2 * ANSWER_SECONDS)  # kills this process if the daemon was killed while a module hangs
        try:
            if path not in loaded:
                loaded[path] = load_job(Path(path))
            if "params" in question:
                answer: dict[str, Any] = {"problems": validate_params(loaded[path].params, question["params"])}
            else:
                answer = {"job": loaded[path].description.model_dump(mode="json")}
        except JobError as error:
            answer = {"error": str(error)}
        signal.alarm(0)
        try:
            out.write(json.dumps(answer, default=str).encode() + b"\n")
        except BrokenPipeError:
            return  # the daemon was killed
