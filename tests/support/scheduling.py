"""How the files of the suite are distributed among the workers of xdist."""

from __future__ import annotations

from collections import Counter

import pytest
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

SECONDS = {"slow": 12.0, "engine": 4.0, "server": 1.0}
"""What a test with this mark takes, roughly."""
FOLDERS = {"acceptance": 8.0, "cli": 1.5, "processes": 1.5, "fuzz": 1.0, "docs": 0.5, "web": 0.3}
"""What a test without a mark takes in these folders: most start processes."""
OTHERWISE = 0.05


def longest_files_first(items: list[pytest.Item]) -> None:
    """Sort the files, so that no long one is begun last, while the other workers have nothing left to do."""
    seconds: Counter[str] = Counter()
    for item in items:
        marked = max((SECONDS.get(mark.name, 0.0) for mark in item.iter_markers()), default=0.0)
        seconds[_file(item)] += max(marked, FOLDERS.get(item.path.parent.name, OTHERWISE))
    items.sort(key=lambda item: -seconds[_file(item)])


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


class FileScheduling(LoadFileScheduling):
    """Distributes whole files, and loses none when a worker crashes.

    As of version 3.8, xdist assigns the files that the crashed worker had finished once more. A worker that gets one of
    them has nothing to do, so that it reports nothing and gets nothing more: the session never ends.
    """

    def remove_node(self, node: WorkerController) -> str | None:
        """Forget the files that the worker had finished."""
        assigned = self.assigned_work[node]
        for file in [file for file, tests in assigned.items() if all(tests.values())]:
            del assigned[file]
        return super().remove_node(node)
