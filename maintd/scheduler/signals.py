"""Signal handlers that run in a thread.

Python calls a handler between any two bytecode instructions of the main thread, which can then hold a lock that the
handler needs. So the real handler only puts the signal's number into a `queue.SimpleQueue`, whose `put` is reentrant,
and a thread takes it from there.
"""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable, Mapping

import structlog

log = structlog.get_logger()


def install_signal_handlers(handlers: Mapping[signal.Signals, Callable[[], object]]) -> None:
    """Call the handler of each signal in a thread, one at a time and in order of arrival. Main thread only."""
    received: queue.SimpleQueue[int] = queue.SimpleQueue()

    def handle() -> None:
        while True:
            number = signal.Signals(received.get())
            log.info("signal_received", signal=number.name)
            handlers[number]()

    threading.Thread(target=handle, name="signals", daemon=True).start()
    for number in handlers:
        signal.signal(number, lambda got, frame: received.put(got))
