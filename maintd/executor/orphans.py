"""What an earlier daemon of this state directory left running: found by the mark in its environment, and ended."""

from __future__ import annotations

from pathlib import Path

from maintd.executor import process_tree

PATIENCE = 10.0
"""Seconds to wait for killed processes to be gone; one that waits for a dead disk may take longer."""


def kill_orphans(state_dir: Path) -> list[int]:
    """End every process of a daemon that is gone; their numbers. To be called with the state directory claimed.

    Usually there is none: the template ends all when it sees its daemon go. This is for when both were killed, and
    for what had left its process group.
    """
    killed: list[int] = []
    # What is being killed may fork once more before it is dead.
    for _ in range(20):
        found = [pid for pid in process_tree.orphans_of(state_dir) if not process_tree.is_zombie(pid)]
        if not found:
            break
        killed += [pid for pid in found if pid not in killed]
        process_tree.kill_all(found)
        if process_tree.wait_gone(found, PATIENCE):
            break
    return killed
