"""One node for all tests that only need one that works; a test that stops or breaks it makes its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.nodes import Node, node


@pytest.fixture(scope="session")
def shared_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("node"), log_limit=200_000) as made:
        yield made


@pytest.fixture
def here(shared_node: Node, tmp_path: Path) -> Node:
    """The shared node, with no target configured."""
    return shared_node
