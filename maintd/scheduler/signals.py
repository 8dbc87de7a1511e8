"""Signals of the process, answered in a thread.

A handler runs between any two steps of the main thread, also while that thread holds a lock that the answer needs, and
a second signal interrupts the answer to the first. So a handler only notes the signal, by the one call that is made for
that (`queue.SimpleQueue.put` is reentrant), and a thread does what it asks for.
"""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable, Mapping

import structlog

log = structlog.get_logger()


def answer_signals(answers: Mapping[signal.Signals, Callable[[], object]]) -> None:
    """From now on call the answer to each of these signals, one at a time and in their order. For the main thread."""
    heard: queue.SimpleQueue[int] = queue.SimpleQueue()

    def answer() -> None:
        while True:
            number = signal.Signals(heard.get())
            log.info("signal_received", signal=number.name)
            answers[number]()

    threading.Thread(target=answer, name="signals", daemon=True).start()
    for number in answers:
        signal.signal(number, lambda got, frame: heard.put(got))
