"""Descriptions of jobs and results of validating params, kept in files so that no job module is imported twice.

An answer is looked up by the content of the job's module (and by the params that were validated), a whole file of
answers by the code that computed it: maintd's own modules that a job can import, Python and pydantic. An answer that
was computed from anything else is not found, so a stale file costs time and nothing else.

There are two files. The build of a wheel or an image writes one for the shipped jobs and the shipped calendar; it is
only read here. The other is in the state directory, for the operator's jobs and calendar.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pydantic

import maintd

FILE_NAME = "job_descriptions.json"

MAX_ANSWERS = 20_000
"""In one file; the least recently used ones go first. A calendar of 10,000 entries has one for each."""

IMPORTED_BY_JOBS = ("checks", "clients", "config", "job", "model", "reports")
"""maintd's packages that a job module can import, directly or not; its modules outside of packages count as well."""


def prebuilt_file() -> Path:
    """The file that the build wrote: inside an installed package; for a source tree in the environment, by `make`."""
    installed = Path(maintd.__file__).parent / "shipped"
    return (installed if installed.is_dir() else Path(sys.prefix) / "share" / "maintd") / FILE_NAME


def source_digest(path: Path) -> str:
    """sha256 of a module's source, and of the private modules that it can share with others, in hex.

    Raises OSError if the module is not a regular file or cannot be read.
    """
    if path.exists() and not path.is_file():
        raise OSError(0, "not a regular file")
    digest = hashlib.sha256(path.read_bytes())
    for private in private_modules(path.parent):
        with contextlib.suppress(OSError):
            digest.update(b"\0" + private.read_bytes())
    return digest.hexdigest()


def private_modules(folder: Path) -> list[Path]:
    """The modules in a folder of jobs whose names begin with _: they are not jobs, and jobs can import them."""
    return sorted(path for path in folder.glob("_*.py") if path.is_file())


@cache
def computed_by() -> str:
    """sha256 over all the code that answers depend on, besides the job's own module, in hex.

    Of Python and pydantic the feature release counts: a wheel must stay of use when they get a bug fix.
    """
    digest = hashlib.sha256(f"{sys.version_info[:2]} {pydantic.VERSION.split('.')[:2]}".encode())
    for path in _own_sources():
        digest.update(f"\0{path.name}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _own_sources() -> Iterator[Path]:
    package = Path(maintd.__file__).parent
    yield from sorted(package.glob("*.py"))
    for name in IMPORTED_BY_JOBS:
        yield from sorted((package / name).rglob("*.py"))


class DescriptionCache:
    """Answers by key. Safe to use from several threads, and from several processes on the same file."""

    def __init__(self, file: Path | None, prebuilt: Path | None = None) -> None:
        """`file` is read and written, `prebuilt` only read; None: there is none."""
        self._file = file
        self._prebuilt = _read(prebuilt)
        self._answers = _read(file)
        self._lock = threading.Lock()
        self._changed = False

    def get(self, key: str) -> Any:
        """The answer; None when it is not known."""
        with self._lock:
            if key in self._answers:
                self._answers[key] = answer = self._answers.pop(key)  # now the most recently used
                return answer
            return self._prebuilt.get(key)

    def put(self, key: str, answer: Any) -> None:
        """Add an answer; `save` writes it."""
        with self._lock:
            self._answers[key] = answer
            self._changed = True

    def save(self) -> None:
        """Write the file if an answer was added. Where that fails, the next start computes the answers again."""
        with self._lock:
            if not self._changed or self._file is None:
                return
            self._changed = False
            kept = dict([*self._answers.items()][-MAX_ANSWERS:])
        part = self._file.with_suffix(f".{os.getpid()}.part")
        with contextlib.suppress(OSError):
            try:
                part.write_text(json.dumps({"computed_by": computed_by(), "answers": kept}), encoding="utf-8")
                part.replace(self._file)
            finally:
                part.unlink(missing_ok=True)  # of a full disk


def cache_key(question: str, name: str, digest: str, params: Mapping[str, Any] | None = None) -> str:
    """The key of a question about the job `name` whose source has that digest."""
    text = json.dumps([question, name, digest, params], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _read(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
        answers = read["answers"] if read["computed_by"] == computed_by() else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return answers if isinstance(answers, dict) else {}
