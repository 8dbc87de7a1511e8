"""Publishing of reports: as artifacts of the run, and in the reports folder, which keeps the newest of each kind.

The folder may hold files of other people under any name. `RECORD` lists what was written here, as `sha256sum` does; a
file is deleted only if it is in that list and still has the recorded content. Nothing is overwritten: a second report
of the same date gets the next number.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from maintd.job.context import Context
from maintd.reports.document import Document
from maintd.reports.rendering import as_files

MEDIA_TYPES = {"md": "text/markdown; charset=utf-8", "html": "text/html; charset=utf-8", "json": "application/json"}
"""Media types of a report's files by their suffix."""
RECORD = ".maintd-reports.sha256"
"""The file in the reports folder with one line for each file that was written: digest, two spaces, name."""
# Three files a week are 15 KB a year.
RECORD_LIMIT = 8 << 20


def publish_report(ctx: Context, report: Document, stamp: str, keep: int) -> None:
    """Save the report as artifacts `KIND-STAMP.SUFFIX`, and write it to the reports folder if there is one.

    stamp: the date of the report, of six or eight digits. keep: how many reports of its kind the folder keeps.
    """
    name, files = f"{report.kind}-{stamp}", as_files(report)
    for suffix, content in files.items():
        ctx.save(f"{name}.{suffix}", content, MEDIA_TYPES[suffix])
    if ctx.reports_dir is not None:
        publish_files(files, name, ctx.reports_dir, kind=report.kind, keep=keep, change=ctx.change)


def publish_files(
    files: Mapping[str, str],
    name: str,
    folder: Path,
    *,
    kind: str,
    keep: int,
    change: Callable[[str, Path], AbstractContextManager[object]],
) -> None:
    """Write a report's files, given by suffix, to the folder, and delete all but the newest `keep` reports of its kind.

    name: `KIND-STAMP`; when the folder has such a report already, the files are called `KIND-STAMP-2`, and so on.
    change: records each effect, "write" or "delete", as `Context.change` does; a false value forbids it.
    """
    own = _own_files(folder, kind)
    free = _free_name(folder, name, files)
    written = [folder / f"{free}.{suffix}" for suffix in files]
    # What is to be deleted is settled before anything is written, so that a dry run plans what a run does.
    surplus = [path for path in _surplus([*own, *written], kind, keep) if path not in written]
    for path, content in zip(written, files.values(), strict=True):
        with change("write", path) as allowed:
            if allowed:
                _write_new(path, content)
    for path in surplus:
        with change("delete", path) as allowed:
            if allowed:
                path.unlink(missing_ok=True)


def _free_name(folder: Path, name: str, suffixes: Mapping[str, str]) -> str:
    """The name with the number after the highest in use: a number that was deleted would count as the oldest."""
    pattern = re.compile(rf"{re.escape(name)}(?:-(\d+))?\.({'|'.join(suffixes)})", re.ASCII)
    there = (pattern.fullmatch(path.name) for path in folder.iterdir()) if folder.is_dir() else ()
    highest = max((int(match[1] or 1) for match in there if match), default=0)
    return f"{name}-{highest + 1}" if highest else name


def _write_new(path: Path, content: str) -> None:
    """Record the file, write it under a temporary name and link it; synced to disk. Raises FileExistsError."""
    data = content.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.unlink(missing_ok=True)  # left by a crash; never written through if it is a link
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # Recorded first: a file that is not in the list would never be deleted.
        record = os.open(path.parent / RECORD, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            os.write(record, f"{hashlib.sha256(data).hexdigest()}  {path.name}\n".encode())
            os.fsync(record)
        finally:
            os.close(record)
        _link(part, path)
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _link(part: Path, path: Path) -> None:
    try:
        os.link(part, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        part.rename(path)  # a file system without hard links


def _own_files(folder: Path, kind: str) -> list[Path]:
    """The files of a kind in the folder that are recorded and still have the recorded content."""
    record = folder / RECORD
    if not record.is_file() or record.is_symlink():
        return []
    with record.open("rb") as file:
        lines = file.read(RECORD_LIMIT).decode(errors="replace").splitlines()
    pattern = _pattern(kind)
    digests: dict[str, set[str]] = {}
    for line in lines:
        digest, _, name = line.partition("  ")
        if pattern.fullmatch(name):
            digests.setdefault(name, set()).add(digest)
    return [folder / name for name, known in digests.items() if _digest(folder / name) in known]


def _digest(path: Path) -> str:
    """The sha256 of a plain file; empty if it is none or cannot be read."""
    if path.is_symlink() or not path.is_file():
        return ""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _pattern(kind: str) -> re.Pattern[str]:
    return re.compile(rf"{re.escape(kind)}-(\d{{6}}|\d{{8}})(?:-(\d+))?\.({'|'.join(MEDIA_TYPES)})", re.ASCII)


def _surplus(paths: list[Path], kind: str, keep: int) -> list[Path]:
    """The files of all reports except the newest `keep`, by date and number in their names; newest first."""
    reports: dict[tuple[str, int], list[Path]] = {}
    for path in paths:
        match = _pattern(kind).fullmatch(path.name)
        if match:
            reports.setdefault((match[1], int(match[2] or 1)), []).append(path)
    return [path for report in sorted(reports, reverse=True)[keep:] for path in sorted(reports[report])]
