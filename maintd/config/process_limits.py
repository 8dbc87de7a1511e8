"""What the daemon sets for its own process, whatever the unit, the container or the shell that starts it say."""

from __future__ import annotations

import os
import resource

UMASK = 0o027
"""Files 0640 and folders 0750: the state holds logs and evidence, which the group of operators may read."""

OPEN_FILES = 8192
"""Descriptors for connections, and for runs: each attempt needs about eight."""


def restrict_process() -> None:
    """Let files that this process and its children create be readable by owner and group only; allow more open files.

    The limit of open files is raised up to the hard limit, at most to OPEN_FILES.
    """
    os.umask(UMASK)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
