"""Writes the updates of supervisors to the store, in order, each once, without blocking a supervisor.

Each run has a journal. Updates are numbered there, collected for a moment, and applied by one of a few threads. While
the store is unreachable they go to the spool on disk, and from there to the store once it answers. When the disk is
full too, they stay in memory, the child has to wait, and the log reports it.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

import structlog

from maintd.errors import StoreError, StoreUnavailableError
from maintd.executor.spool import Spool, replay
from maintd.model.evidence import LogLine
from maintd.model.run import RunState
from maintd.model.run_updates import AttemptReported, RunFinished, RunRequeued, RunUpdate, RunWaiting
from maintd.store import Store

__all__ = ["Journal", "Recorder", "replay"]

log = structlog.get_logger()

THREADS = 4
SOON = 0.15  # seconds that evidence may wait for more
TRY_AGAIN = 0.5  # seconds after the store was found away …
TRY_AGAIN_AT_MOST = 5.0  # … doubled up to here
MEMORY_LIMIT = 4_000_000  # bytes that wait in memory before the child has to
SPOOL_LIMIT = 256_000_000  # bytes that wait on disk before the child has to
BATCH = 200  # writes in one transaction
ITEMS = 2000  # items of evidence in one transaction


class Journal:
    """The updates of one claim of a run. `add` never blocks."""

    def __init__(
        self, recorder: Recorder, run_id: int, fence: int, spool: Spool, over: Callable[[Journal], None]
    ) -> None:
        self.run_id = run_id
        self.fence = fence
        self.done = False  # the end is in the store, or the claim was refused
        self.refused = False
        self.away = False  # the store could not be reached at the last try
        self._recorder = recorder
        self._spool = spool
        self._over = over
        self._lock = threading.Lock()
        self._written = threading.Condition(self._lock)
        self._waiting: deque[tuple[RunUpdate, int]] = deque()  # with their sizes
        self._waiting_bytes = 0
        self._next_seq = 1  # of the first that waits
        self._ended = False
        self._disk_full = False
        self._damage = ""
        self._tries = 0
        self._try_at = 0.0

    @property
    def full(self) -> bool:
        """Whether so much waits that the supervisor should wait too."""
        return self._waiting_bytes > MEMORY_LIMIT or self._spool.size_bytes > SPOOL_LIMIT

    def add(self, *writes: RunUpdate, soon: bool = True) -> None:
        """Record these after all earlier ones; with `soon` False they may wait a moment for more."""
        with self._lock:
            for write in writes:
                size = _size(write)
                self._waiting.append((write, size))
                self._waiting_bytes += size
            self._ended = self._ended or any(
                isinstance(write, RunFinished | RunRequeued | RunWaiting) for write in writes
            )
        self._recorder.schedule(self, 0.0 if soon else SOON)

    def wait_stored(self, seconds: float) -> bool:
        """Wait until the store has all that was added, at most that long; whether it has."""
        self._recorder.schedule(self, 0.0)
        with self._written:
            return self._written.wait_for(
                lambda: not self._waiting and self._spool.is_empty and not self.away and not self.refused, seconds
            )

    def wait_durable(self, seconds: float) -> bool:
        """Wait until all that was added is in the store or on the disk, at most that long; whether it is."""
        self._recorder.schedule(self, 0.0)
        with self._written:
            return self._written.wait_for(lambda: not self._waiting and not self.refused, seconds)

    def abandon(self) -> None:
        """Record no end: another process has settled the run. What was added is still written."""
        with self._lock:
            self._ended = True
        self._recorder.schedule(self, 0.0)

    # --- called by one of the recorder's threads at a time ---

    def write(self, store: Store) -> float | None:
        """Write what waits; return the seconds until the next try, None when nothing is left."""
        if self.away and (left := self._try_at - time.monotonic()) > 0:
            self._spool_waiting()
            return left
        try:
            self._write_spool(store)
            while batch := self._batch():
                self._apply(store, self._next_seq, [*batch[:-1], self._marked(batch[-1])])
                self._drop(len(batch))
        except StoreUnavailableError as error:
            if not self.away:
                self.away = True
                log.error("evidence_spooled", run=self.run_id, error=str(error))
            self._spool_waiting()
            self._tries += 1
            patience: float = min(TRY_AGAIN * 2 ** min(self._tries - 1, 10), TRY_AGAIN_AT_MOST)
            self._try_at = time.monotonic() + patience
            return patience
        if self.away:
            self.away = False
            self._tries = 0
            log.info("run_recorded_again", run=self.run_id)
        self._spool.remove()
        with self._written:
            self._written.notify_all()
        if self._ended or self.refused:
            self._finish()
        return None

    def leave(self) -> None:
        """Write what waits to the disk, for the next process: the recorder stops."""
        if not self.done and not self._spool_waiting():
            last = self._waiting[-1][0]
            log.error("evidence_lost", run=self.run_id, writes=len(self._waiting), last=last.model_dump(mode="json"))
        self._spool.leave()

    def _write_spool(self, store: Store) -> None:
        if not self._spool.is_empty:
            for seq, writes in self._spool.records():
                self._apply(store, seq, writes)

    def _apply(self, store: Store, seq: int, writes: Sequence[RunUpdate]) -> None:
        if self.refused:
            return
        try:
            if not store.runs.apply(self.run_id, self.fence, seq, writes):
                self.refused = True
                log.error("claim_over", run=self.run_id, fence=self.fence, writes=len(writes))
        except StoreUnavailableError:
            raise
        except (StoreError, ValueError, TypeError, ArithmeticError) as error:
            # The store answers and rejects this as invalid: to try the same again would delay the outcome for ever.
            self._apply_singly(store, seq, writes, error)

    def _apply_singly(self, store: Store, seq: int, writes: Sequence[RunUpdate], cause: Exception) -> None:
        """Write each by itself, so that only what is invalid is lost, and the end of the run states it."""
        if len(writes) > 1:
            for number, write in enumerate(writes, seq):
                self._apply(store, number, [self._marked(write)])
            return
        log.error("write_refused", run=self.run_id, write=writes[0].type, error=str(cause))
        self._damage = str(cause)
        if isinstance(writes[0], RunFinished | RunRequeued | RunWaiting):
            raise StoreUnavailableError(f"run {self.run_id}: its end cannot be recorded: {cause}") from cause

    def _marked(self, write: RunUpdate) -> RunUpdate:
        """Return the update; a success becomes unknown when evidence is missing."""
        if (
            not self._damage
            or not isinstance(write, RunFinished)
            or write.state
            not in (
                RunState.SUCCEEDED,
                RunState.WARNED,
            )
        ):
            return write
        reason = f"a part of the evidence could not be recorded: {self._damage}"
        return write.model_copy(update={"state": RunState.UNKNOWN, "reason": reason})

    def _spool_waiting(self) -> bool:
        """Write what waits to the disk; whether that succeeded."""
        try:
            while batch := self._batch():
                self._spool.append(self._next_seq, batch)
                self._drop(len(batch))
        except OSError as error:
            if not self._disk_full:
                self._disk_full = True
                hint = "make room for the state directory"
                log.error("evidence_in_memory_only", run=self.run_id, error=str(error), hint=hint)
            return False
        self._disk_full = False
        return True

    def _batch(self) -> list[RunUpdate]:
        with self._lock:
            batch: list[RunUpdate] = []
            items = 0
            for write, _ in self._waiting:
                items += len(write.items) if isinstance(write, AttemptReported) else 1
                if batch and (len(batch) >= BATCH or items > ITEMS):
                    break
                batch.append(write)
            return batch

    def _drop(self, number: int) -> None:
        with self._lock:
            for _ in range(number):
                self._waiting_bytes -= self._waiting.popleft()[1]
            self._next_seq += number
            self._written.notify_all()

    def _finish(self) -> None:
        with self._lock:
            over = (self._ended and not self._waiting) or self.refused
            if self.refused:
                self._waiting.clear()
                self._waiting_bytes = 0
        if over and not self.done:
            self.done = True
            self._over(self)


class Recorder:
    """The threads that write, and the times at which each journal is to be written."""

    def __init__(self, store: Store, spool_dir: Path) -> None:
        self._store = store
        self._spool_dir = spool_dir
        self._lock = lock = threading.Lock()
        self._watch = threading.Condition(lock)  # one thread waits here for the time of the next journal …
        self._rest = threading.Condition(lock)  # … and the others here, so that each journal wakes one of them
        self._watched = False
        self._resting = 0
        self._finished = threading.Condition(lock)  # something was written to its end
        self._due: list[tuple[float, int, Journal]] = []
        self._at: dict[Journal, float] = {}  # when each is due; one that is not here waits for nothing
        self._busy: set[Journal] = set()
        self._again: set[Journal] = set()  # got more while they were being written
        self._open: set[Journal] = set()
        self._order = count()
        self._stopping = False
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the threads."""
        for number in range(THREADS):
            thread = threading.Thread(target=self._work, name=f"recorder-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    @property
    def alive(self) -> bool:
        """Whether all threads are alive."""
        return all(thread.is_alive() for thread in self._threads)

    def open(self, run_id: int, fence: int, over: Callable[[Journal], None]) -> Journal:
        """Return the journal of a claim. `over` is called once its end is recorded, or the claim was refused."""
        journal = Journal(self, run_id, fence, Spool(self._spool_dir, run_id, fence), over)
        with self._lock:
            self._open.add(journal)
        return journal

    def schedule(self, journal: Journal, seconds: float) -> None:
        """Write this journal after so many seconds, or earlier when that was scheduled before."""
        at = time.monotonic() + seconds
        with self._lock:
            if journal in self._busy:
                self._again.add(journal)
                return
            if self._at.get(journal, at + 1) > at:
                self._at[journal] = at
                heapq.heappush(self._due, (at, next(self._order), journal))
                if self._due[0][2] is journal:
                    self._call(at_once=seconds <= 0)

    def flush(self, seconds: float) -> bool:
        """Wait until every journal is done, at most that long; return whether all are."""
        with self._finished:
            journals = set(self._open)
            return self._finished.wait_for(lambda: not journals & self._open, seconds)

    def stop(self) -> None:
        """Stop the threads. What is not in the store is on disk, or the log reports that it is lost."""
        with self._lock:
            self._stopping = True
            self._watch.notify_all()
            self._rest.notify_all()
        for thread in self._threads:
            thread.join(timeout=35)  # a statement of a store that hangs is given up after 30 s
        for journal in self._open:
            journal.leave()

    def _work(self) -> None:
        while True:
            with self._lock:
                journal = self._next()
                if journal is None:
                    return
                self._busy.add(journal)
            again = journal.write(self._store)
            with self._lock:
                self._busy.discard(journal)
                if journal.done:
                    self._open.discard(journal)
                    self._finished.notify_all()
                more = journal in self._again
                self._again.discard(journal)
            if again is not None:
                self.schedule(journal, min(again, SOON) if more else again)
            elif more:
                self.schedule(journal, 0.0)

    def _next(self) -> Journal | None:
        while not self._stopping:
            while self._due and self._at.get(self._due[0][2]) != self._due[0][0]:  # it was rescheduled
                heapq.heappop(self._due)
            now = time.monotonic()
            if self._due and self._due[0][0] <= now:
                _, _, journal = heapq.heappop(self._due)
                del self._at[journal]
                if self._due:  # another thread handles the next one at the same time
                    self._call(at_once=self._due[0][0] <= now)
                return journal
            if self._due and not self._watched:
                self._watched = True
                self._watch.wait(self._due[0][0] - now)
                self._watched = False
            else:
                self._resting += 1
                self._rest.wait()
                self._resting -= 1
        return None

    def _call(self, *, at_once: bool) -> None:
        """Wake a thread for the first journal. If none is free, the next one that is takes it."""
        if self._resting and (at_once or not self._watched):
            self._rest.notify()
        elif self._watched:
            self._watch.notify()


def _size(write: RunUpdate) -> int:
    """Return about how many bytes it takes in memory and on disk."""
    if not isinstance(write, AttemptReported):
        return 300
    return 100 + sum(len(item.text) + 100 if isinstance(item, LogLine) else 400 for item in write.items)
