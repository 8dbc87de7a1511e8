"""A newcomer's first steps: clone the repository and run `make run`, or install the package without the source tree."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.servers.base import free_port, wait_for

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def environment(**more: str) -> dict[str, str]:
    """Return the environment without variables of maintd."""
    return {key: value for key, value in os.environ.items() if not key.startswith("MAINTD_")} | more


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Copy the files that git tracks, with uncommitted changes, to a new folder."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / name)
    return tmp_path


def test_make_run_shows_a_calendar_and_a_health_check_of_the_host(clone: Path) -> None:
    log = clone / "output"
    listen = f"127.0.0.1:{free_port()}"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["make", "run"],
            cwd=clone,
            env=environment(MAINTD_LISTEN=listen),
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        wait_for(lambda: "daemon_ready" in log.read_text(errors="replace"), "make run is ready", seconds=240, every=0.5)
        told = log.read_text(errors="replace")
        assert "every day at 08:00" in told
        assert f"http://{listen}/" in told
        maintd = clone / ".venv/bin/maintd"

        def finished() -> dict[str, object] | None:
            shown = subprocess.run(
                [maintd, "--state-dir", ".state", "history", "--json"],
                cwd=clone,
                env=environment(),
                capture_output=True,
                check=True,
            )
            runs = json.loads(shown.stdout)["runs"]
            return runs[0] if runs and runs[0]["finished_at"] else None

        run = wait_for(finished, "the health check", every=0.5)
        assert run["state"] in ("succeeded", "warned", "failed")
        shown = subprocess.run(
            [maintd, "--state-dir", ".state", "show", str(run["id"]), "--json"],
            cwd=clone,
            env=environment(),
            capture_output=True,
            check=True,
        )
        checks = json.loads(shown.stdout)["steps"][0]["attempts"][0]["checks"]
        assert any("memory" in check["name"] and isinstance(check["observed"], int | float) for check in checks)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def test_an_installed_package_finds_its_jobs_and_a_calendar_without_the_source_tree(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    # As docs/operations.md has it. pip isolates a build in another way than uv: by PYTHONPATH.
    pip = [tmp_path / "venv/bin/pip", "install", "--quiet", "--disable-pip-version-check"]
    # pip installs all libraries twice, once for the build. Compiling all their modules takes longer than using some.
    # (pip reads the value as that of "compile".)
    environ = environment(PIP_NO_COMPILE="0")
    installed = subprocess.run([*pip, str(ROOT)], env=environ, cwd=tmp_path, capture_output=True, text=True)
    assert installed.returncode == 0, installed.stdout + installed.stderr
    maintd = tmp_path / "venv/bin/maintd"
    (tmp_path / "state").mkdir()
    where = ["--state-dir", str(tmp_path / "state")]

    valid = subprocess.run(
        [maintd, *where, "validate"], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    listed = subprocess.run(
        [maintd, *where, "jobs", "--json"], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    ran = subprocess.run(
        [maintd, *where, "run", "command", "--here", "--no-store", "-p", 'argv=["true"]'],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )

    assert valid.returncode == 0, valid.stderr
    names = {job["name"] for job in json.loads(listed.stdout)["jobs"]}
    assert {"health_check", "vacuum", "backup_verify", "capacity_report", "command"} <= names
    assert all(str(tmp_path) in job["path"] for job in json.loads(listed.stdout)["jobs"])
    assert ran.returncode == 0, ran.stdout + ran.stderr
    # The wheel has the descriptions of all shipped jobs, so none was computed here: only the params of this run were.
    kept = json.loads((tmp_path / "state/job_descriptions.json").read_text())
    assert [*kept["answers"].values()] == [{"problems": []}]
