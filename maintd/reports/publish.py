"""Publishing of reports: as artifacts of the run, and in the reports folder, which keeps the newest of each kind."""

from __future__ import annotations

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

    change: records each effect, "write" or "delete", as `Context.change` does; a false value forbids it.
    """
    for suffix, content in files.items():
        path = folder / f"{name}.{suffix}"
        with change("write", path) as allowed:
            if allowed:
                write_atomically(path, content)
    for path in surplus(folder, kind, keep) if folder.is_dir() else ():
        with change("delete", path) as allowed:
            if allowed:
                path.unlink(missing_ok=True)


def write_atomically(path: Path, content: str) -> None:
    """Write a temporary file and rename it; file and folder are synced to disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content.encode())
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def surplus(folder: Path, kind: str, keep: int) -> list[Path]:
    """Return the files of all reports of a kind except the newest `keep`, by the date in their names."""
    pattern = re.compile(rf"{re.escape(kind)}-(\d{{6}}|\d{{8}})\.({'|'.join(MEDIA_TYPES)})")
    found: dict[str, list[Path]] = {}
    for path in folder.iterdir():
        match = pattern.fullmatch(path.name)
        if match and path.is_file() and not path.is_symlink():
            found.setdefault(match[1], []).append(path)
    return [path for stamp in sorted(found, reverse=True)[keep:] for path in sorted(found[stamp])]
