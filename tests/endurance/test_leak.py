"""The short form of the leak check: a few hundred runs leave nothing open, and hardly any memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from endurance import leak

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_a_daemon_does_not_grow_with_what_it_runs(tmp_path: Path) -> None:
    lines: list[str] = []

    with leak.daemon(tmp_path) as node:
        first, last = leak.watch(node, 300, 100, lines.append)

    assert leak.is_as_before(first, last), lines
    assert last.processes == 0, lines
    assert last.memory < first.memory * 1.15, lines
