"""Clean-up of real trees with everything that it must not follow or delete."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.clock import now_within_a_day
from support.job_runs import JobResult, run_job
from support.servers.base import wait_for
from support.servers.docker import DockerEngine
from support.users import as_unprivileged_user, folder_for_all

from maintd.model.evidence import CheckStatus

pytestmark = pytest.mark.usefixtures("own_now")

NOW = now_within_a_day()


def log(root: Path, name: str, *, days: float = 0, size: int = 10) -> Path:
    """A file that was last written so many days ago."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    at = (NOW - timedelta(days=days)).timestamp()
    os.utime(path, (at, at), follow_symlinks=False)
    return path


def stamp(days: float) -> str:
    return f"{NOW - timedelta(days=days):%Y%m%d}"


def clean(
    root: Path,
    targets: Mapping[str, Any] | None = None,
    *,
    dry_run: bool = False,
    around: AbstractContextManager[object] | None = None,
    **params: Any,
) -> JobResult:
    given = {"root": str(root), "rotation": None, "max_share": 1.0, **params}
    return run_job("log_cleanup", given, targets, dry_run=dry_run, around=around)


def names(root: Path) -> set[str]:
    """Every name below, links not followed."""
    return {
        (Path(folder) / name).relative_to(root).as_posix()
        for folder, _, files in os.walk(root)
        for name in (*files, *(other.name for other in Path(folder).iterdir() if other.is_symlink()))
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    folder.mkdir()
    return folder


def test_only_old_rotated_files_are_deleted_and_never_the_newest(root: Path) -> None:
    for day in range(1, 51):
        log(root, f"app.log-{stamp(day)}.gz", days=day)
    for number in range(1, 13):
        log(root, f"rare/slow.log.{number}", days=100 * number)
    kept = ["app.log", "notes.gz", "audit.csv.1", "old.tar.gz", "x.log.bak", "data-2020.log", "y.log-20209999"]
    for name in kept:
        log(root, name, days=900)

    result = clean(root)

    # 30 d, a day in a name counting to its end: those of 1 to 30 days stay; of slow.log the 7 newest.
    expected = {f"app.log-{stamp(day)}.gz" for day in range(1, 31)} | {f"rare/slow.log.{n}" for n in range(1, 8)}
    left = names(root)
    assert left == expected | set(kept), result.text()
    assert {Path(change.target).name for change in result.changes} == {
        *(f"app.log-{stamp(day)}.gz" for day in range(31, 51)),
        *(f"slow.log.{n}" for n in range(8, 13)),
    }
    assert result.measure("logs_deleted_bytes") == 25 * 4096


def test_anything_but_regular_files_of_the_tree_survives(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    precious = log(outside, "precious.log.9", days=400)
    log(outside, "sub/other.log.9", days=400)
    for number in range(1, 4):
        log(root, f"app.log.{number}", days=100 + number)
    (root / "linked.log.5").symlink_to(precious)
    (root / "folder").symlink_to(outside, target_is_directory=True)
    os.link(precious, root / "hard.log.1")
    os.mkfifo(root / "pipe.log.1")
    (root / "real.log.1").mkdir()
    log(root, "real.log.1/inner.log.1", days=100)
    log(root, "ahead.log.1", days=-3)
    log(root, f"ahead.log-{stamp(90)}", days=-3)
    log(root, "odd\nname.log.1", days=100)
    log(root, "odd.log.1\n", days=100)
    log(root, "x\udcff.log.2", days=100)

    log(root, "held.log.1", days=100)
    log(root, "audit.log.1", days=100)
    with held_open(root / "held.log.1"):
        result = clean(root, floor=1, hold=["audit*"], keep="30d")

    # With a floor of 1, of each log the newest stays: app.log.1, and all that stand alone.
    assert names(root) == {
        "app.log.1",
        "linked.log.5",
        "folder",
        "hard.log.1",
        "pipe.log.1",
        "real.log.1/inner.log.1",
        "ahead.log.1",
        f"ahead.log-{stamp(90)}",
        "odd\nname.log.1",
        "odd.log.1\n",
        "x\udcff.log.2",
        "held.log.1",
        "audit.log.1",
    }
    assert names(outside) == {"precious.log.9", "sub/other.log.9"}
    assert result.error is None, result.text()


def test_protected_files_survive_without_the_floor(root: Path, tmp_path: Path) -> None:
    precious = log(tmp_path / "outside", "precious.log.9", days=400)
    for name in ("hard", "pipe", "link", "held", "audit", "ahead", "odd\nname", "plain"):
        log(root, f"{name}.log.1", days=50)  # the floor of 1 is this one
    os.link(precious, root / "hard.log.2")
    os.mkfifo(root / "pipe.log.2")
    (root / "link.log.2").symlink_to(precious)
    log(root, f"ahead.log-{stamp(90)}", days=-3)
    for name in ("held", "audit", "odd\nname", "plain"):
        log(root, f"{name}.log.2", days=100)

    with held_open(root / "held.log.2") as pid:
        result = clean(root, floor=1, hold=["audit*"])

    gone = {"odd\nname.log.2", "plain.log.2"}
    assert {Path(change.target).name for change in result.changes} == {"plain.log.2", "odd\\x0aname.log.2"}
    left = names(root)
    assert not left & gone
    assert {"hard.log.2", "pipe.log.2", "link.log.2", "held.log.2", "audit.log.2", f"ahead.log-{stamp(90)}"} <= left
    told = "\n".join(result.logs)
    assert f"({pid})" in told
    assert "hard links" in told
    assert 'protected by the pattern "audit*"' in told
    assert "modification time is in the future" in told


@contextmanager
def held_open(path: Path) -> Iterator[int]:
    """Another process has the file open."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; f = open(sys.argv[1], 'a'); print('open', flush=True); sys.stdin.read()",
            path,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield process.pid
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait()


def test_a_dry_run_reports_deletions_without_making_them(root: Path) -> None:
    for number in range(1, 10):
        log(root, f"app.log.{number}", days=100)

    result = clean(root, dry_run=True)

    assert [(Path(change.target).name, change.done) for change in result.changes] == [
        ("app.log.9", False),
        ("app.log.8", False),
    ]
    assert len(names(root)) == 9
    assert result.measure("logs_deleted_bytes") == 0


SERIES = {
    "winston": "app-%Y-%m-%d.log.gz",
    "winston, hourly": "app-%Y-%m-%d-13.log.gz",
    "postgres": "postgresql-%Y-%m-%d_000000.log.gz",
    "lumberjack": "access-%Y-%m-%dT13-14-15.000.log.gz",
    "logback": "app-%Y-%m-%d.0.log.gz",
    "pm2": "api-out__%Y-%m-%d_13-14-15.log.gz",
    "loguru": "app.%Y-%m-%d_13-14-15_123456.log",
    "python": "app.log.%Y-%m-%d_13-14",
    "apache": "access_log-%Y%m%d.gz",
    "a date alone": "%Y-%m-%d.log.gz",
    "several on a day": "%Y-%m-%d-1.log.gz",
    "a kind after the date": "app.%Y.%m.%d.error.log.gz",
}


@pytest.mark.parametrize("form", SERIES)
def test_old_logs_of_each_form_are_deleted_but_the_newest(root: Path, form: str) -> None:
    for day in range(0, 80, 2):
        log(root, (datetime.now(UTC) - timedelta(days=day)).strftime(SERIES[form]), days=day)

    result = clean(root, max_share=1, rotation=None)

    assert len(names(root)) in (15, 16), result.text()  # of the last 30 days
    assert result.check(f"{root}: old files with unfamiliar names").status is CheckStatus.OK


def test_series_that_differ_in_more_than_their_date_keep_their_newest_each(root: Path) -> None:
    for kind in ("a-%Y-%m-%d.log.gz", "b-%Y-%m-%d.log.gz", "node1-%Y-%m-%d.log.gz", "node2-%Y-%m-%d.log.gz"):
        for day in range(100, 110):
            log(root, (datetime.now(UTC) - timedelta(days=day)).strftime(kind), days=day)

    clean(root, max_share=1, rotation=None)

    assert len(names(root)) == 4 * 7


def test_numbered_logs_are_kept_by_their_number_whatever_their_times(root: Path) -> None:
    for number in range(1, 13):
        log(root, f"app.log.{number}", days=200 - number)  # restored by a copy: the oldest look newest

    clean(root, rotation=None)

    assert names(root) == {f"app.log.{number}" for number in range(1, 8)}


def test_old_files_that_look_rotated_and_have_no_known_name_are_named(root: Path) -> None:
    for name in ("audit.csv.1", "trace-2020-01-02.bin", "dump.tar.gz"):
        log(root, name, days=100)
    log(root, "held.tar.gz", days=100)

    result = clean(root, rotation=None, hold=["held.*"])

    check = result.check(f"{root}: old files with unfamiliar names")
    assert (check.status, check.optional) == (CheckStatus.UNKNOWN, True), result.text()
    assert "3 files not understood" in str(check.observed)
    assert "held" not in str(check.observed)
    assert len(names(root)) == 4


@pytest.mark.parametrize("limit", [{"max_deletes": 1}, {"max_bytes": "4KiB"}, {"max_share": 0.1}])
def test_a_dry_run_lists_a_plan_beyond_a_limit(root: Path, limit: dict[str, Any]) -> None:
    for number in range(1, 10):
        log(root, f"app.log.{number}", days=100)

    result = clean(root, dry_run=True, **limit)

    assert [Path(change.target).name for change in result.changes] == ["app.log.9", "app.log.8"]
    assert result.outcome == "failed"
    assert len(names(root)) == 9


@pytest.mark.parametrize(
    ("limit", "check"),
    [({"max_deletes": 1}, "files"), ({"max_bytes": "4KiB"}, "bytes"), ({"max_share": 0.1}, "share")],
)
def test_a_plan_beyond_a_limit_deletes_nothing(limit: dict[str, Any], check: str, root: Path) -> None:
    for number in range(1, 10):
        log(root, f"app.log.{number}", days=100)

    result = clean(root, **limit)

    failed = result.named(f"{check} to delete")[0]
    assert failed.status is CheckStatus.FAIL
    assert f"max_{'deletes' if check == 'files' else check}" in failed.hint
    assert len(names(root)) == 9
    assert not result.changes


@pytest.fixture
def for_all() -> Iterator[Path]:
    with folder_for_all() as folder:
        yield folder


def test_a_folder_that_cannot_be_read_is_unknown_and_the_rest_is_cleaned(for_all: Path) -> None:
    root = for_all / "logs"
    for number in range(1, 10):
        log(root, f"app.log.{number}", days=100)
        log(root, f"closed/app.log.{number}", days=100)
    clean(root, dry_run=True)  # so that every module is loaded
    (root / "closed").chmod(0)

    result = clean(root, around=as_unprivileged_user(root))

    (root / "closed").chmod(0o755)
    assert names(root) == {f"app.log.{n}" for n in range(1, 8)} | {f"closed/app.log.{n}" for n in range(1, 10)}
    check = result.check(f"{root}: folders read")
    assert check.status is CheckStatus.UNKNOWN
    assert "closed: Permission denied" in str(check.observed)
    if os.geteuid() == 0:  # the user nobody may not see what root's processes hold
        assert result.check("local: files held open").status is CheckStatus.UNKNOWN


def test_a_folder_without_write_access_fails_with_what_to_do(for_all: Path) -> None:
    root = for_all / "logs"
    for number in range(1, 10):
        log(root, f"app.log.{number}", days=100)
    clean(root, dry_run=True)  # so that every module is loaded
    root.chmod(0o555)

    result = clean(root, around=as_unprivileged_user(root))

    root.chmod(0o755)
    assert result.check(f"{root}: files that could not be deleted").observed == 2
    assert len(names(root)) == 9


def test_a_file_that_changes_between_plan_and_deletion_is_kept(root: Path, tmp_path: Path) -> None:
    from maintd.clients.files import ChangedError, Tree

    log(root, "sub/app.log.1", days=100)
    log(tmp_path, "elsewhere/app.log.1", days=100)
    with Tree(root) as tree:
        (entry,) = tree.walk()
        log(root, "sub/app.log.1", days=100, size=11)  # it has grown

        with pytest.raises(ChangedError):
            tree.remove(entry)

        (root / "sub").rename(root / "was")
        (root / "sub").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
        with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
            tree.remove(entry)
    assert (tmp_path / "elsewhere/app.log.1").exists()


def test_deleted_files_that_are_held_open_are_reported_with_their_holder(root: Path) -> None:
    path = log(root, "app.log", size=3_000_000)
    with held_open(path) as pid:
        path.unlink()

        result = clean(root, max_held="1MB")

        check = result.check("local: deleted files held open")
        assert check.status is CheckStatus.WARN
        assert int(str(check.observed)) >= 3_000_000
        assert f"({pid}): {path}" in check.hint or "; " in check.hint  # others on this machine may hold more


def test_a_log_that_is_too_large_warns(root: Path) -> None:
    log(root, "small.log")
    log(root, "app.log", size=2_000_000)

    check = clean(root, max_active="1MB").check(f"{root}: largest log")

    assert check.status is CheckStatus.WARN
    assert "app.log" in check.hint


def state(host: Path, lines: Mapping[str, datetime]) -> None:
    """logrotate's state file."""
    path = host / "var/lib/logrotate/status"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f'"{name}" {at.year}-{at.month}-{at.day}-{at.hour}:{at.minute}:0\n' for name, at in lines.items())
    path.write_text("logrotate state -- version 2\n" + text)


def test_logs_that_logrotate_misses_or_rotates_late_are_named(tmp_path: Path) -> None:
    host, root = tmp_path / "host", tmp_path / "host/srv/logs"
    for name in ("fresh.log", "late.log", "never.log"):
        log(root, name)
    log(root, "empty.log", size=0)
    local = datetime.now()  # noqa: DTZ005 - as logrotate writes it
    state(host, {"/srv/logs/fresh.log": local - timedelta(hours=20), "/srv/logs/late.log": local - timedelta(hours=37)})

    result = clean(root, {"host": {"local": {"root": str(host)}}}, rotation="24h")

    # 1.5 × 24 h = 36 h
    late, never = result.named("overdue")[0], result.named("unknown to logrotate")[0]
    assert (late.observed, late.status) == (1, CheckStatus.WARN)
    assert "late.log" in late.hint
    assert (never.observed, never.status) == (1, CheckStatus.WARN)
    assert "never.log" in never.hint


def test_without_logrotate_rotation_is_unknown(tmp_path: Path) -> None:
    log(tmp_path / "logs", "app.log")

    result = clean(tmp_path / "logs", {"host": {"local": {"root": str(tmp_path)}}}, rotation="24h")

    assert result.named("overdue")[0].status is CheckStatus.UNKNOWN


def test_further_names_of_rotated_logs_can_be_configured(root: Path) -> None:
    for number in range(1, 10):
        log(root, f"syslog.{number}.gz", days=100 + number)

    clean(root, names=[r"(?P<base>syslog)\.(?P<number>\d+)\.gz"])

    assert names(root) == {f"syslog.{number}.gz" for number in range(1, 8)}


def test_it_is_not_configured_where_no_folder_of_logs_is(tmp_path: Path) -> None:
    targets = {"folders": {"reports": {"path": str(tmp_path)}}}

    unset, misspelt = run_job("log_cleanup", {}, targets), run_job("log_cleanup", {"folders": ["lgs"]}, targets)

    assert "not_configured" in str(getattr(unset.error, "cause", unset.error)), unset.text()
    assert "lgs" in str(misspelt.error)


def test_a_missing_folder_fails(tmp_path: Path) -> None:
    result = clean(tmp_path / "nowhere")

    assert result.outcome == "failed"
    assert "correct the path" in result.named("cleaned")[0].hint


@pytest.mark.engine
def test_containers_whose_log_has_no_limit_are_named(docker_server: DockerEngine, root: Path) -> None:
    image = docker_server.busybox()
    client = docker_server.client()
    made = []
    try:
        config: list[tuple[str, Any]] = [
            ("endless", None),
            ("limited", {"Type": "json-file", "Config": {"max-size": "1m"}}),
            ("local", {"Type": "local", "Config": {}}),
        ]
        for name, log_config in config:
            words = ["sh", "-c", "echo $(yes | dd bs=1000 count=20 2>/dev/null)"]
            made.append(
                client.containers.create(image, words, name=f"logs-{name}", log_config=log_config, network_mode="none")
            )
            made[-1].start()
        wait_for(lambda: all(client.containers.get(c.id).status == "exited" for c in made), "the containers to end")

        result = clean(root, {"docker": {"main": {"url": docker_server.url}}}, max_active="10kB")

        check = result.check("main: container logs without a limit")
        assert check.status is CheckStatus.WARN
        assert "logs-endless" in check.hint
        assert "logs-limited" not in check.hint
        assert "logs-local" not in check.hint
        assert result.check("main: largest container log").status is CheckStatus.WARN
    finally:
        for container in made:
            container.remove(force=True)
        client.close()
