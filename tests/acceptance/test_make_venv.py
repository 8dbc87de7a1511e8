"""`make` never deletes an environment of the user, repairs its own, and reports every failure in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.servers.disks import small_disk
from support.users import folder_for_all

SCRIPT = Path(__file__).parents[2] / ".ci/make-venv"


@pytest.fixture
def folder() -> Iterator[Path]:
    with folder_for_all() as folder:
        (folder / "bin").mkdir()
        shutil.copy(SCRIPT, folder / "make-venv")
        yield folder


def program(folder: Path, name: str, text: str) -> None:
    """Put a shell script in front of the programs of this machine."""
    path = folder / "bin" / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def python_without(folder: Path, name: str, module: str) -> None:
    """A Python that is recent enough and cannot import this module."""
    imports = f"*', {module}'*|*'import {module}'*"
    text = f'case "$2" in {imports}) echo "No module named {module}" >&2; exit 1;; esac; exec "{sys.executable}" "$@"'
    program(folder, name, text)


def make(folder: Path, venv: Path | None = None, drop: bool = False) -> subprocess.CompletedProcess[str]:
    argv = ["bash", str(folder / "make-venv"), str(venv or folder / ".venv")]
    if drop and os.geteuid() == 0:
        argv = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *argv]
    environ = {**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}"}
    return subprocess.run(argv, env=environ, cwd=folder, capture_output=True, text=True, check=False)


def refused(done: subprocess.CompletedProcess[str], text: str) -> None:
    assert done.returncode == 1
    assert text in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def own_environment(folder: Path, *options: str) -> Path:
    """An environment that the user made, with a file of theirs."""
    venv = folder / ".venv"
    subprocess.run([sys.executable, "-m", "venv", *options, str(venv)], check=True)
    (venv / "mine").write_text("mine")
    return venv


def test_an_environment_of_the_user_is_used_and_kept(folder: Path) -> None:
    venv = own_environment(folder)

    done = make(folder)

    assert done.returncode == 0, done.stderr
    assert "Using the Python environment that is in" in done.stderr
    assert (venv / "mine").exists()
    assert make(folder).stderr == "", "the second time there is nothing to report"


@pytest.mark.parametrize("how", ["interpreter gone", "moved", "a folder of files", "empty"])
def test_what_is_no_working_environment_of_make_is_kept_and_named(folder: Path, how: str) -> None:
    venv = folder / ".venv"
    if how == "interpreter gone":
        own_environment(folder, "--without-pip")
        for link in venv.glob("bin/python*"):
            link.unlink()
            link.symlink_to("/nonexistent/python")
    elif how == "moved":
        own_environment(folder)
        venv.rename(folder / "moved")
        venv = folder / "moved"
    else:
        venv.mkdir()
        if how == "a folder of files":
            (venv / "mine").write_text("mine")
    before = sorted(venv.rglob("*"))

    refused(make(folder, venv), "was not made by make, and is no working environment")

    assert sorted(venv.rglob("*")) == before


@pytest.mark.parametrize("how", ["interpreter gone", "moved"])
def test_an_environment_of_make_that_no_longer_works_is_made_again(folder: Path, how: str) -> None:
    # Only in a moved one a script of pip names the former place.
    venv = own_environment(folder, *([] if how == "moved" else ["--without-pip"]))
    (venv / "made").touch()
    if how == "moved":
        venv.rename(folder / "moved")
        venv = folder / "moved"
    else:
        for link in venv.glob("bin/python*"):
            link.unlink()

    done = make(folder, venv)

    assert done.returncode == 0, done.stderr
    assert "making it again" in done.stderr
    assert subprocess.run([venv / "bin/python", "-c", "import uv"], check=False).returncode == 0


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_a_first_python_without_venv_is_passed_over(folder: Path, module: str) -> None:
    python_without(folder, "python3.13", module)

    assert make(folder).returncode == 0


def test_without_venv_anywhere_the_package_is_named_and_nothing_is_deleted(folder: Path) -> None:
    venv = folder / ".venv"
    for name in ("python3.13", "python3.12", "python3.11", "python3", "python3.14"):
        python_without(folder, name, "venv")
    program(folder, "apt-get", "echo 'E: Unable to locate package' >&2; exit 100")

    done = make(folder)

    package = f"python3.{sys.version_info.minor}-venv"
    assert package in done.stderr
    refused(done, "E: Unable to locate package" if os.geteuid() == 0 else f"sudo apt-get install {package}")
    assert not venv.exists()


def test_without_a_recent_python_that_is_reported(folder: Path) -> None:
    for name in ("python3.13", "python3.12", "python3.11", "python3", "python3.14"):
        program(folder, name, "exit 1")

    refused(make(folder), "maintd needs Python 3.11 or later")


def test_a_folder_without_write_permission_is_named_with_its_owner(folder: Path) -> None:
    folder.chmod(0o555)
    try:
        refused(make(folder, drop=True), f"cannot write in {folder}, which belongs to")
    finally:
        folder.chmod(0o755)


def test_a_full_disk_is_named_and_leaves_no_half_environment(folder: Path) -> None:
    with small_disk(folder / "small", "1m") as disk:
        refused(make(folder, disk / ".venv"), "No space left on device")

        assert not (disk / ".venv").exists()
