"""The build backend: hatchling, with descriptions of the shipped jobs added to the wheel.

Describing a job imports its module, so a wheel is built where the runtime dependencies are installed; a PEP 517
front end installs what `get_requires_for_build_wheel` returns. An editable install, as `make` makes it, needs none of
them: `make` describes the jobs afterwards.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from hatchling import build as hatchling_build
from hatchling.build import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
)
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
]


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """hatchling's own requirements and the runtime dependencies."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*hatchling_build.get_requires_for_build_wheel(config_settings), *project["dependencies"]]


class ShippedJobsHook(BuildHookInterface):
    """Adds maintd/shipped/job_descriptions.json to a wheel that is not editable."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Describe the jobs; a job that cannot be used fails the build."""
        if version == "editable":
            return
        self._folder = tempfile.TemporaryDirectory()
        file = Path(self._folder.name) / "job_descriptions.json"
        # pip makes the packages of an isolated build importable by PYTHONPATH.
        path = os.pathsep.join(filter(None, [self.root, os.environ.get("PYTHONPATH")]))
        environ = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        subprocess.run([sys.executable, "-m", "maintd.calendar.prebuild", file], cwd=self.root, env=environ, check=True)
        build_data["force_include"][str(file)] = f"maintd/shipped/{file.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the temporary file."""
        if version != "editable":
            self._folder.cleanup()
