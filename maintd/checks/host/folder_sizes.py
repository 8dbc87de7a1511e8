"""Sizes of folders, counted as by `du -x`: allocated blocks, hard links once, one file system."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from maintd.job.references import resolved
from maintd.model.target import FolderTarget
from maintd.reports.figure import Figure, unmeasured
from maintd.units import duration_text

_BLOCK = 512  # bytes, the unit of st_blocks on every file system


def figures(target: FolderTarget, name: str, limit: timedelta) -> Iterator[Figure]:
    """Yield `figure`."""
    yield figure(target, name, limit)


def figure(target: FolderTarget, name: str, limit: timedelta) -> Figure:
    """The size of the folder, with its direct children as details; not measured when that takes longer than `limit`."""
    path = resolved(target).path
    source = f"blocks of {path}"
    try:
        parts, files, skipped = sizes(path, limit)
    except TimeoutError as error:
        return unmeasured("folder", name, "B", source, f"{error}; raise the param folder_time")
    except OSError as error:
        return unmeasured("folder", name, "B", source, f"{path}: {error.strerror}")
    if skipped:
        cause = f"{skipped} folders below {path} cannot be read; allow this process to read them"
        return unmeasured("folder", name, "B", source, cause)
    return Figure(
        "folder",
        name,
        sum(parts.values()),
        "B",
        f"{source}, {files:,} file{'' if files == 1 else 's'}",
        measure="folder_bytes",
        labels={"folder": name},
        details=parts,
    )


def sizes(path: Path, limit: timedelta) -> tuple[dict[str, float], int, int]:
    """Allocated bytes by direct child of `path` ("." is the rest), number of files, number of unreadable folders.

    Raises OSError for `path` itself, TimeoutError after `limit`.
    """
    top = path.stat()
    parts: dict[str, float] = {".": top.st_blocks * _BLOCK}
    seen: set[int] = set()
    files = skipped = 0
    deadline = time.monotonic() + limit.total_seconds()
    waiting = [(os.fspath(path), "")]
    while waiting:
        folder, part = waiting.pop()
        if time.monotonic() > deadline:
            raise TimeoutError(f"stopped after {duration_text(limit)} at {files:,} files")
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    try:
                        stat = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # deleted since it was listed
                    if stat.st_dev != top.st_dev:
                        continue
                    is_folder = entry.is_dir(follow_symlinks=False)
                    if not is_folder:
                        files += 1
                        if stat.st_nlink > 1:
                            if stat.st_ino in seen:
                                continue
                            seen.add(stat.st_ino)
                    key = part or (entry.name if is_folder else ".")
                    parts[key] = parts.get(key, 0) + stat.st_blocks * _BLOCK
                    if is_folder:
                        waiting.append((entry.path, key))
        except FileNotFoundError:
            if not part:
                raise
        except PermissionError:
            if not part:
                raise
            skipped += 1
    return parts, files, skipped
