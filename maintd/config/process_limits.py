"""What maintd sets for its own process, whatever the unit, the container or the shell that starts it say."""

from __future__ import annotations

import os
import resource

UMASK = 0o027
"""Files 0640 and folders 0750: the state holds logs and evidence, which the group of operators may read."""

OPEN_FILES = 8192
"""Descriptors for connections, and for runs: each attempt needs about eight."""

_PR_SET_DUMPABLE = 4  # linux/prctl.h

_CREDENTIALS = "MAINTD_STORE_URL"


def raise_descriptor_limit() -> None:
    """Allow this process and its children up to OPEN_FILES open files, as far as the hard limit does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def hide_memory() -> None:
    """Keep processes of the same user, such as jobs, from reading this process's memory and first environment.

    Also no core dump is written. Processes that this one executes are not concerned, nor are those of root. Source:
    PR_SET_DUMPABLE in prctl(2), /proc/PID/mem and /proc/PID/environ in proc(5).
    """
    import ctypes  # slow, and only the daemon needs it

    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def forget_credentials() -> None:
    """Remove the store's credentials from the environment, once the settings have been read."""
    for name in list(os.environ):
        if name.upper() == _CREDENTIALS:
            del os.environ[name]
