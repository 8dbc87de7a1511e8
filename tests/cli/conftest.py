from __future__ import annotations

from pathlib import Path

import pytest
from servers.maintd import Shell


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """An empty folder with a state directory in it, and no daemon anywhere."""
    return Shell(tmp_path, {"MAINTD_STATE_DIR": str(tmp_path / "state"), "MAINTD_LISTEN": ""})
