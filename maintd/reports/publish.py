"""The folder of reports: each written whole or not at all, the oldest ones let go."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

FORMS = {"md": "text/markdown; charset=utf-8", "html": "text/html; charset=utf-8", "json": "application/json"}
"""The endings of a report's files and their media types."""


def publish(
    files: Mapping[str, str],
    name: str,
    folder: Path,
    *,
    kind: str,
    keep: int,
    may: Callable[[str, Path], bool],
) -> None:
    """Put a report's files, by their endings, into the folder, and let go of all but the newest `keep` of its kind.

    `may` is asked before each effect, with "write" or "delete".
    """
    for ending, content in files.items():
        path = folder / f"{name}.{ending}"
        if may("write", path):
            put(path, content)
    for path in surplus(folder, kind, keep) if folder.is_dir() else ():
        if may("delete", path):
            path.unlink(missing_ok=True)


def put(path: Path, content: str) -> None:
    """Write a file by renaming a whole one into its place, and see to it that both are on the disk."""
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
    """The files of all reports of a kind but the newest `keep`, by the date in their names, and nothing else."""
    form = re.compile(rf"{re.escape(kind)}-(\d{{6}}|\d{{8}})\.({'|'.join(FORMS)})")
    found: dict[str, list[Path]] = {}
    for path in folder.iterdir():
        match = form.fullmatch(path.name)
        if match and path.is_file() and not path.is_symlink():
            found.setdefault(match[1], []).append(path)
    return [path for stamp in sorted(found, reverse=True)[keep:] for path in sorted(found[stamp])]
