"""Typing commands: real processes of the installed `maintd`, with an environment of the test's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAINTD = Path(sys.executable).parent / "maintd"


def clean_environ(**more: str) -> dict[str, str]:
    """This process's environment without anything of maintd's, of a terminal's or of a colour's."""
    dropped = ("MAINTD_", "COLUMNS", "NO_COLOR", "XDG_STATE_HOME", "SUDO_USER")
    return {key: value for key, value in os.environ.items() if not key.startswith(dropped)} | more


@dataclass(frozen=True)
class Typed:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, which must be one JSON value and nothing else."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Shell:
    """Where commands are typed: a folder, and the environment."""

    cwd: Path
    environ: Mapping[str, str] = field(default_factory=dict)

    def maintd(self, *words: str | Path, seconds: float = 60, **more: str) -> Typed:
        """Type `maintd WORDS` and wait for its end."""
        done = subprocess.run(
            [str(MAINTD), *map(str, words)],
            cwd=self.cwd, env=clean_environ(**self.environ, **more), stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=seconds,
        )  # fmt: skip
        return Typed(done.returncode, done.stdout, done.stderr)

    def start(self, *words: str | Path, out: int | Any = subprocess.PIPE) -> subprocess.Popen[str]:
        """Type it and do not wait."""
        return subprocess.Popen(
            [str(MAINTD), *map(str, words)],
            cwd=self.cwd, env=clean_environ(**self.environ), stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
