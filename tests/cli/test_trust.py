"""As root, maintd executes and reads nothing that another user can write, unless that user owns maintd itself."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from support.servers.base import needs_root
from support.servers.maintd import JOBS, Shell

OTHER = 12345

THEIRS = '''"""A job of another user."""
from pathlib import Path

from maintd.job import Context, JobParams, job

Path("{mark}").write_text("it ran")


@job(timeout="20s")
def run(ctx: Context, params: JobParams) -> None:
    pass
'''


@pytest.fixture(autouse=True)
def as_root() -> None:
    needs_root("gives files to another user")


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that the other user's module creates when it is imported."""
    return tmp_path / "mark"


@pytest.fixture
def root(tmp_path: Path, mark: Path) -> Shell:
    """A folder of another user: .env, calendar and jobs; and a state directory of root."""
    theirs = tmp_path / "theirs"
    (theirs / "jobs").mkdir(parents=True)
    (theirs / "jobs/attack.py").write_text(THEIRS.format(mark=mark))
    (theirs / ".env").write_text(f"MAINTD_JOBS_PATH={theirs}/jobs\n")
    (theirs / "schedules.yaml").write_text("timezone: UTC\nentries:\n  a: {title: A, steps: [attack]}\n")
    for path in (theirs, *theirs.rglob("*")):
        os.chown(path, OTHER, OTHER)
    return Shell(theirs, {"MAINTD_STATE_DIR": str(tmp_path / "state"), "MAINTD_LISTEN": ""})


@pytest.mark.parametrize("words", [["status"], ["jobs"], ["validate"], ["next"], ["serve"]])
def test_in_the_folder_of_another_user_nothing_of_theirs_is_executed(root: Shell, mark: Path, words: list[str]) -> None:
    done = root.maintd(*words)

    assert not mark.exists()
    assert "Traceback" not in done.err
    if words[0] in ("validate", "serve"):
        assert f"belongs to uid {OTHER}" in done.err
        assert "chown root" in done.err


@pytest.mark.parametrize("words", [["jobs"], ["validate"], ["run", "attack", "--here"], ["jobs", "show", "attack"]])
def test_a_folder_of_jobs_of_another_user_is_refused(root: Shell, mark: Path, tmp_path: Path, words: list[str]) -> None:
    done = Shell(tmp_path, root.environ).maintd(*words, MAINTD_JOBS_PATH=str(root.cwd / "jobs"))

    assert done.code != 0
    assert f"belongs to uid {OTHER}" in done.err
    assert not mark.exists()


@pytest.mark.parametrize("what", ["module", "its folder", "a folder above", "a private module", "behind a link"])
def test_a_module_that_other_users_can_write_or_replace_is_refused(
    tmp_path: Path, mark: Path, root: Shell, what: str
) -> None:
    jobs = tmp_path / "above/jobs"
    shutil.copytree(JOBS, jobs)
    module = jobs / "attack.py"
    module.write_text(THEIRS.format(mark=mark))
    if what == "module":
        module.chmod(0o666)
    elif what == "its folder":
        jobs.chmod(0o777)
    elif what == "a folder above":
        jobs.parent.chmod(0o777)
    elif what == "a private module":
        (jobs / "_helper.py").write_text("")
        os.chown(jobs / "_helper.py", OTHER, OTHER)
    else:
        module.unlink()
        module.symlink_to(root.cwd / "jobs/attack.py")

    done = Shell(tmp_path, root.environ).maintd("run", "attack", "--here", MAINTD_JOBS_PATH=str(jobs))

    assert done.code != 0
    assert "refused to root" in done.err
    assert not mark.exists()


def test_modules_of_root_below_a_sticky_folder_are_used(tmp_path: Path, mark: Path, root: Shell) -> None:
    jobs = tmp_path / "sticky/jobs"
    jobs.mkdir(parents=True)
    jobs.parent.chmod(0o1777)
    (jobs / "attack.py").write_text(THEIRS.format(mark=mark))

    done = Shell(tmp_path, root.environ).maintd("run", "attack", "--here", MAINTD_JOBS_PATH=str(jobs))

    assert done.code == 0, done.err
    assert mark.exists()


def test_a_dotenv_in_a_state_directory_of_another_user_is_refused(root: Shell, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / ".env").write_text("MAINTD_SLOTS=3\n")
    os.chown(state / ".env", OTHER, OTHER)

    assert f"belongs to uid {OTHER}" in root.maintd("settings").err
