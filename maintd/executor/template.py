"""The template: a single-threaded process that forks a child for each attempt, with what jobs import loaded already.

It is started by the daemon and works as `forker` tells. Job modules themselves are never loaded here, so an edited job
is live at its next run; for a job that runs often or soon it forks a template of that job alone, which has its module
loaded if that makes no difference to the attempts (`opening`).
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from maintd.executor import child, process_tree
from maintd.executor.fork_server import Forker

BLAS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Set to 1 while numpy is loaded: this process must stay one with a single thread, since it forks."""

_MADV_COLLAPSE = 25  # asm-generic/mman-common.h, since Linux 6.1
_HUGE = 2 << 20


def main() -> NoReturn:
    """`python -c … SOCKET LIFELINE_READ LIFELINE_WRITE GRACE MODULE…`: descriptors by number, the grace in seconds.

    A module that cannot be imported is left to the job that needs it.
    """
    control, lifeline, lifeline_end = (int(word) for word in sys.argv[1:4])
    grace = float(sys.argv[4])
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a service manager signals every process; the daemon decides
    process_tree.become_subreaper()
    _load(sys.argv[5:])
    child.prepare()
    gc.collect()
    gc.freeze()
    _collapse()
    Forker(socket.socket(fileno=control), lifeline, lifeline_end, grace).serve()
    os._exit(0)


def _load(names: Sequence[str]) -> None:
    one_thread = {name: "1" for name in BLAS if name not in os.environ}
    os.environ.update(one_thread)
    for name in names:
        with suppress(Exception):  # whatever is wrong with it, only the jobs that need it are to fail
            import_module(name)
    for name in one_thread:
        del os.environ[name]


def _collapse() -> None:
    """Have the kernel hold the heap in huge pages: a fork then copies a few hundred page table entries, not 12,000.

    Measured with all libraries loaded: fork to the child's first line 2.2 → 1.4 ms. An older kernel refuses; no harm.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split()
        if "w" not in words[1] or (len(words) > 5 and words[5] != "[heap]"):
            continue
        first, end = (int(word, 16) for word in words[0].split("-"))
        for address in range((first + _HUGE - 1) // _HUGE * _HUGE, end - _HUGE + 1, _HUGE):
            libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(_HUGE), _MADV_COLLAPSE)
