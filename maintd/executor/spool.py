"""Updates that could not reach the store, kept on this node's disk until they do: one file per claim of a run.

The process that writes a file locks it, so another process replays only the files of dead ones. A record is a
line, `{"seq": first number, "writes": [...]}`, synced to the disk before it counts as kept.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import structlog
from pydantic import TypeAdapter

from maintd.errors import StoreError, StoreUnavailableError
from maintd.model.run_updates import RunUpdate
from maintd.store import Store

log = structlog.get_logger()

SUFFIX = ".spool"
REFUSED = ".refused"
RECORD_WRITES = 200
"""Most updates of one record; one transaction writes as many to the store."""

_WRITES: TypeAdapter[tuple[RunUpdate, ...]] = TypeAdapter(tuple[RunUpdate, ...])


class Spool:
    """The file of one claim. Not thread-safe."""

    def __init__(self, folder: Path, run_id: int, fence: int) -> None:
        self._folder = folder
        self._name = f"{run_id}-{fence}{SUFFIX}"
        self._file: IO[bytes] | None = None
        self._good = 0  # bytes that are synced and whole
        self._read = 0  # of these, bytes that the store has
        self.size_bytes = 0

    @property
    def path(self) -> Path:
        """The file; most claims never have one."""
        return self._folder / self._name

    @property
    def is_empty(self) -> bool:
        """Whether the store has everything."""
        return self._read >= self._good

    def append(self, first_seq: int, writes: Sequence[RunUpdate]) -> None:
        """Append these. Raises OSError when the disk does not accept them; none of them is kept then."""
        file = self._opened()
        data = b"".join(
            b'{"seq":%d,"writes":%s}\n' % (first_seq + n, _WRITES.dump_json(tuple(writes[n : n + RECORD_WRITES])))
            for n in range(0, len(writes), RECORD_WRITES)
        )
        try:
            file.seek(self._good)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                file.truncate(self._good)
            raise
        self._good += len(data)
        self.size_bytes = self._good - self._read

    def records(self) -> Iterator[tuple[int, tuple[RunUpdate, ...]]]:
        """Yield what the store does not have yet, in order; a record counts as stored when the next is requested."""
        file = self._opened()
        while self._read < self._good:
            file.seek(self._read)
            line = file.readline()
            yield _record(line)
            self._read += len(line)
            self.size_bytes = self._good - self._read

    def remove(self) -> None:
        """Remove the file: the store has everything."""
        if self._file is not None:
            self.path.unlink(missing_ok=True)
            self._file.close()
            self._file = None
            self._good = self._read = self.size_bytes = 0

    def leave(self) -> None:
        """Close it, for a later process to replay."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> IO[bytes]:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            part = self.path.with_suffix(".part")
            self._file = part.open("w+b", buffering=0)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            part.replace(self.path)  # locked from the moment that a replay can see it
        return self._file


def replay(spool_dir: Path, store: Store) -> int:
    """Write to the store what ended processes have left in their spools; return the number of runs.

    A spool whose claim is over is renamed to `….refused`, for an operator. If the store becomes unreachable, the
    rest is replayed later.
    """
    done = 0
    for path in sorted(spool_dir.glob(f"*{SUFFIX}")):
        run_id, _, fence = path.stem.partition("-")
        if not (run_id.isdecimal() and fence.isdecimal()):
            continue
        with suppress(FileNotFoundError), path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its writer is alive and writes it itself
            try:
                kept = _replay(file, store, int(run_id), int(fence))
            except StoreUnavailableError as error:
                log.warning("spool_waits", file=str(path), error=str(error))
                return done
            if kept:
                path.unlink(missing_ok=True)
                done += 1
                log.info("spool_replayed", run=int(run_id))
            else:
                path.replace(path.with_suffix(REFUSED))
                log.error("spool_refused", run=int(run_id), kept=str(path.with_suffix(REFUSED)))
    return done


def _replay(file: IO[bytes], store: Store, run_id: int, fence: int) -> bool:
    for line in file:
        try:
            seq, writes = _record(line)
        except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
            if not line.endswith(b"\n"):
                return True  # cut off while it was written: the process died before it counted as kept
            log.error("spool_unreadable", run=run_id, error=str(error)[:200])
            return False
        try:
            if not store.runs.apply(run_id, fence, seq, writes):
                return False
        except StoreUnavailableError:
            raise
        except (StoreError, ValueError, TypeError, ArithmeticError) as error:
            log.error("spool_unusable", run=run_id, error=str(error))
            return False
    return True


def _record(line: bytes) -> tuple[int, tuple[RunUpdate, ...]]:
    read = json.loads(line)
    return int(read["seq"]), _WRITES.validate_python(read["writes"])
