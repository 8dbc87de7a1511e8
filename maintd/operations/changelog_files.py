"""The files of the change log in the reports folder: the log in Markdown, and the heads of the chain of records."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from maintd.model.records import ChainHead
from maintd.operations.changelog import is_logged, record_of
from maintd.present import utc_minute
from maintd.present.changelog import TITLE, record_markdown
from maintd.store import Store
from maintd.units import utc_text

LOG_FILE = "CHANGELOG-maintenance.md"
HEAD_FILE = "CHANGELOG-maintenance.head"

KEPT_HEADS = 100
"""Lines of the file of heads, one for each day with a new record."""

_PAGE = 50


def write_files(store: Store, folder: Path, now: datetime) -> ChainHead | None:
    """Write both files, each at once in place of the earlier one; return the head, None without a record so far.

    The log has all runs that the store still has, newest first. Raises StoreError, OSError.
    """
    head = store.records.synced_head("changelog_written", str(folder), now)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / LOG_FILE, _log(store, now, head))
    if head is not None:
        _replace(folder / HEAD_FILE, _heads(folder / HEAD_FILE, head))
    return head


def _log(store: Store, now: datetime, head: ChainHead | None) -> Iterator[str]:
    yield f"{TITLE}\n\n"
    yield f"Written by maintd at {utc_minute(now)} from the runs that its store has, newest first.\n"
    if head is not None:
        yield f"Head of the chain of records: record {head.record}, {head.head}\n"
    yield "\n"
    before, found = None, False
    while page := store.changed_runs.page(before_id=before, limit=_PAGE):
        for run in page:
            if is_logged(run):
                found = True
                yield record_markdown(record_of(store, run))
        before = page[-1].id
    if not found:
        yield "No run has changed or tried to change anything.\n"


def _heads(file: Path, head: ChainHead) -> Iterator[str]:
    """The lines that the file has, and the new head; a line is the record's number, its head and its time."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    new = f"{head.record} {head.head} {utc_text(head.at)}"
    if not lines or lines[-1] != new:
        lines.append(new)
    yield from (f"{line}\n" for line in lines[-KEPT_HEADS:])


def _replace(file: Path, parts: Iterator[str]) -> None:
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        part.unlink(missing_ok=True)  # left by a crash; never written through if it is a link
        with part.open("x", encoding="utf-8") as stream:
            stream.writelines(parts)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
