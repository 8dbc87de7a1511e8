"""The README is correct: its transcript is run against a real daemon."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.servers.base import running, wait_for

ROOT = Path(__file__).parents[2]


def transcript() -> list[tuple[str, str]]:
    """Return the commands of the README with their output; `…` matches any text."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```console\n(.*?)```", text, re.DOTALL)
    assert block is not None
    found = re.split(r"^\$ ", block[1], flags=re.MULTILINE)[1:]
    return [(command, shown) for command, _, shown in (part.partition("\n") for part in found)]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("readme")
    environ = {key: value for key, value in os.environ.items() if not key.startswith("MAINTD_")}
    environ |= {"MAINTD_STATE_DIR": str(folder), "MAINTD_LISTEN": "", "MAINTD_CALENDAR": str(ROOT / "schedules.yaml")}
    with running([sys.executable, "-m", "maintd", "serve"], folder / "log", env=environ):
        wait_for(lambda: "daemon_ready" in (folder / "log").read_text(), "a daemon")
        yield environ


def test_the_transcript_is_what_the_commands_print(environment: dict[str, str]) -> None:
    commands = transcript()
    assert len(commands) >= 5
    for command, shown in commands:
        program, *words = command.split()
        assert program == "maintd"
        done = subprocess.run(
            [sys.executable, "-m", "maintd", *words], env=environment, capture_output=True, text=True, timeout=60
        )
        output = done.stdout + done.stderr
        assert "Traceback" not in output
        # The width of a column depends on the time until the next due time.
        parts = re.split("(…| +)", shown.rstrip().removesuffix("\n…"))
        pattern = "".join(".*?" if part == "…" else " +" if part.startswith(" ") else re.escape(part) for part in parts)
        if shown.rstrip().endswith("\n…"):  # any further lines, or none: the output depends on the time of day
            pattern += "(\n.*)?"
        assert re.fullmatch(pattern, output.rstrip(), re.DOTALL), f"$ {command}\n{output}\nthe README has:\n{shown}"


def test_every_document_is_named() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")

    assert [path.name for path in sorted((ROOT / "docs").glob("*.md")) if f"(docs/{path.name})" not in text] == []
