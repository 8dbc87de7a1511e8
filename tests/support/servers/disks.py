"""Small file systems that a test can fill."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def needs_root(why: str) -> None:
    """Without root, skip the test on a laptop and fail it in CI."""
    if os.geteuid() != 0:
        message = f"needs root: {why}"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a tmpfs of this size (300k, 6m) at a new folder."""
    needs_root("mounts a file system")
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "maintd-test", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
