"""What a newcomer sees: the shipped calendar on a machine for which nothing was configured."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from support.servers.maintd import JOBS, Shell

from maintd.job.registry import shipped

# One with gates cannot be run in the foreground.
ENTRIES = tuple(
    name
    for name, entry in yaml.safe_load(shipped("schedules.yaml").read_text(encoding="utf-8"))["entries"].items()
    if not any("gate" in step for step in entry["steps"] if isinstance(step, dict))
)
NEVER_CONFIGURED = (
    "postgres",
    "redis",
    "docker",
    "http",
    "prometheus",
    "alertmanager",
    "tls",
    "halts",
    "secrets",
    "folders",
)


@pytest.mark.slow
@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_of_the_shipped_calendar_does_not_complain_about_what_was_never_configured(
    shell: Shell, entry: str
) -> None:
    run = shell.maintd("run", entry, "--here", "--no-store", "--json", seconds=300).json

    blamed = [
        check
        for step in run["steps"]
        for attempt in step["attempts"]
        for check in attempt["checks"]
        if check["status"] in ("fail", "unknown") and not check["optional"]
        if "configured" in f"{check['observed']}"
        or any(f"targets.{kind}" in check["hint"] for kind in NEVER_CONFIGURED)
    ]
    assert blamed == []
    assert "maintd itself failed" not in run["reason"]
    assert "configured" not in run["reason"] or run["state"] in ("succeeded", "warned", "skipped")


@pytest.mark.parametrize("state", ["state", "./a/../state", "deep/er/state"])
def test_a_relative_state_directory_keeps_the_files_of_a_run(shell: Shell, state: str) -> None:
    (shell.cwd / "a").mkdir()

    typed = shell.maintd("run", "greet", "--here", "--json", MAINTD_STATE_DIR=state, MAINTD_JOBS_PATH=str(JOBS))

    assert typed.code == 0, typed.err + typed.out
    (artifact,) = typed.json["steps"][0]["attempts"][0]["artifacts"]
    assert (shell.cwd / state / "artifacts" / artifact["path"]).read_text().startswith("hello ")
    assert not Path(artifact["path"]).is_absolute()
