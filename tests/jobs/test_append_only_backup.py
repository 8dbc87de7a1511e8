"""Append-only files of real Redis servers: copied while they are written and rewritten, and loaded in a drill."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.exceptions import ResponseError
from support import sample_backups as made
from support.job_runs import JOBS, JobResult, run_job
from support.servers.base import wait_for
from support.servers.maintd import maintd_daemon
from support.servers.redis import RedisServer, redis
from support.users import as_unprivileged_user, folder_for_all

from maintd.checks.backup_sets.layout import MANIFEST, SUMS, find_sets
from maintd.checks.backups.archive import read_archive
from maintd.model.evidence import Check, CheckStatus

pytestmark = pytest.mark.server

OK, FAIL, WARN = CheckStatus.OK, CheckStatus.FAIL, CheckStatus.WARN
SMALL = {"min_free": "1MB"}
FILE = "redis-main-aof.tar.gz"
SAVED = "redis main: append-only files"
KEYS = 800


@dataclass
class Site:
    """A server with append-only files, and a folder with sets."""

    cache: RedisServer
    sets: Path
    scratch: Path

    @property
    def set(self) -> Path:
        return find_sets(self.sets)[0].path

    @property
    def about(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.set / MANIFEST).read_text())["redis"][0]
        return found

    def targets(self, **main: Any) -> dict[str, Any]:
        return {
            "redis": {"main": {"url": self.cache.url, "streams": ["orders"], **main}},
            "folders": {"backup_sets": {"path": str(self.sets)}, "scratch": {"path": str(self.scratch)}},
        }

    def run(self, targets: dict[str, Any] | None = None, **params: Any) -> JobResult:
        more = {key: params.pop(key) for key in ("at_report", "around") if key in params}
        given = {**SMALL, "last": 20, **params}
        return run_job("backup", given, targets or self.targets(), folder=self.sets.parent / "job", **more)

    def drill(self) -> JobResult:
        given = {**SMALL, "scratch": "scratch"}
        return run_job("restore_drill", given, self.targets(), folder=self.sets.parent / "job")

    def verify(self, **params: Any) -> JobResult:
        return run_job("backup_verify", {"root": str(self.sets), **params})

    def repack(self, change: Callable[[str, bytes], bytes | None]) -> None:
        """Write the tar of the newest set again, with sums that agree."""
        out = io.BytesIO()
        path = self.set / FILE
        with tarfile.open(path) as old, tarfile.open(fileobj=out, mode="w:gz") as new:
            for member in old:
                content = old.extractfile(member)
                data = change(member.name, content.read() if content is not None else b"")
                if data is not None:
                    member.size = len(data)
                    new.addfile(member, io.BytesIO(data))
        path.write_bytes(out.getvalue())
        manifest = json.loads((self.set / MANIFEST).read_text())
        sha256 = hashlib.sha256(out.getvalue()).hexdigest()
        manifest["files"][FILE] |= {"size_bytes": len(out.getvalue()), "sha256": sha256}
        text = json.dumps(manifest)
        (self.set / MANIFEST).write_text(text)
        lines = {FILE: sha256, MANIFEST: hashlib.sha256(text.encode()).hexdigest()}
        (self.set / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in lines.items()))


@pytest.fixture(scope="module")
def cache() -> Iterator[RedisServer]:
    options = ("--appendonly", "yes", "--repl-diskless-sync-delay", "0", "--auto-aof-rewrite-percentage", "0")
    with redis(*options) as server:
        yield server


@pytest.fixture
def site(cache: RedisServer) -> Iterator[Site]:
    with closing(cache.client()) as client, folder_for_all() as scratch, folder_for_all() as folder:
        client.flushall()
        client.mset({f"key:{number}": "v" * 50 for number in range(KEYS)})
        client.xadd("orders", {"data": "{}"})
        (folder / "sets").mkdir()
        found = Site(cache, folder / "sets", scratch)
        yield found
        assert [path.name for path in scratch.iterdir() if path.name != ".maintd-backup.lock"] == []


def rewrite(cache: RedisServer) -> None:
    """Rewrite the files to the end, so that there is a base with the keys and an increment."""
    with closing(cache.client()) as client:
        client.bgrewriteaof()
        wait_for(
            lambda: (
                not (
                    client.info("persistence")["aof_rewrite_in_progress"]
                    or client.info("persistence")["aof_rewrite_scheduled"]
                )
            ),
            "the rewrite",
        )


# --- a whole one ------------------------------------------------------------------------------------------------------


def test_what_the_server_loads_is_backed_up_verified_and_loaded_in_a_drill(site: Site) -> None:
    rewrite(site.cache)
    with closing(site.cache.client()) as client:
        client.set("after the rewrite", "x")
        before = client.config_get("*aof*")

    result = site.run()
    levels = {level: site.verify(level=level).outcome for level in ("checksum", "decode")}
    drilled = site.drill()

    assert result.outcome == "succeeded", result.text()
    assert result.check(SAVED).status is OK
    assert {path.name for path in site.set.iterdir()} == {MANIFEST, SUMS, FILE}
    assert (site.about["form"], site.about["keys_at_least"], site.about["quiet"]) == (
        "append-only files",
        KEYS + 2,
        True,
    )
    assert levels == {"checksum": "succeeded", "decode": "succeeded"}
    assert drilled.outcome == "succeeded", drilled.text()
    assert drilled.check("redis main: keys loaded").observed == KEYS + 2
    assert drilled.check("redis main: stream orders, last id").status is OK
    with closing(site.cache.client()) as client:
        assert client.config_get("*aof*") == before  # no setting is changed, so that none has to be restored


def test_files_that_are_written_and_rewritten_during_the_copy_are_those_of_one_manifest(site: Site) -> None:
    done = threading.Event()

    def write() -> None:
        with closing(site.cache.client()) as client:
            number = 0
            while not done.is_set():
                number += 1
                pipe = client.pipeline(transaction=True)  # both or none, in what is loaded too
                pipe.set(f"left:{number}", "x" * 200)
                pipe.set(f"right:{number}", "x" * 200)
                pipe.execute()
                if number % 200 == 0:
                    with suppress(ResponseError):  # the one before is not done
                        client.bgrewriteaof()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        results = [site.run() for _ in range(3)]
    finally:
        done.set()
        thread.join(60)

    for result in results:
        assert result.outcome == "succeeded", result.text()
    for one in find_sets(site.sets):
        with loaded(one.path / FILE) as client:
            left, right = (sum(1 for _ in client.scan_iter(f"{side}:*", count=1000)) for side in ("left", "right"))
            assert left == right
            assert client.exists(*(f"key:{number}" for number in range(KEYS))) == KEYS


@contextmanager
def loaded(packed: Path) -> Iterator[Any]:
    """A client of a server that has loaded the files."""
    with folder_for_all() as folder:
        with tarfile.open(packed) as archive:
            archive.extractall(folder, filter="data")
        with redis("--dir", str(folder), "--appendonly", "yes") as server, closing(server.client()) as client:
            wait_for(lambda: not client.info("persistence")["loading"], "the files to be loaded")
            yield client


def test_a_server_without_append_only_files_is_saved_as_a_snapshot(site: Site) -> None:
    with redis("--repl-diskless-sync-delay", "0") as other, closing(other.client()) as client:
        client.set("a", "b")
        result = site.run(site.targets(url=other.url))

    assert result.outcome == "succeeded", result.text()
    assert not result.named("append-only")
    assert (site.about["form"], site.about["keys"]) == ("snapshot", 1)


def test_the_time_of_the_last_good_set_is_exported_by_the_daemon_that_made_it(site: Site) -> None:
    steps = [{"backup": {"min_free": "1MB"}}]
    calendar = {"timezone": "UTC", "targets": site.targets(), "entries": {"nightly": {"steps": steps}}}
    with folder_for_all() as folder, maintd_daemon(folder, json.dumps(calendar)) as daemon:
        before = httpx.get(f"{daemon.page}/metrics", timeout=60).text
        ended = daemon.maintd("trigger", "nightly", "--wait")
        after = httpx.get(f"{daemon.page}/metrics", timeout=60).text

    assert ended.code == 0, ended
    name = 'backup_last_success_timestamp{set="backup"}'
    assert name not in before
    (line,) = [line for line in after.splitlines() if line.startswith(name)]
    made = json.loads((site.set / MANIFEST).read_text())["ended_at"]
    assert abs(float(line.split()[1]) - datetime.fromisoformat(made).timestamp()) < 600


@contextmanager
def unreadable(folder: Path) -> Iterator[None]:
    """Let not even their owner open the files; the server has them open."""
    files = list((folder / "appendonlydir").iterdir())
    for path in files:
        path.chmod(0)
    try:
        yield
    finally:
        for path in files:
            path.chmod(0o600)


# --- files that cannot be read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("why", ["not mounted", "of another server", "not readable"])
def test_a_snapshot_that_the_server_would_not_load_is_never_taken_for_what_it_loads(site: Site, why: str) -> None:
    rewrite(site.cache)
    with folder_for_all() as other, redis("--dir", str(other), "--appendonly", "yes") as stranger:
        with closing(stranger.client()) as client:
            client.set("of", "another")
        wait_for(lambda: list(other.glob("appendonlydir/*.manifest")), "its files")
        data = {"not mounted": "/not/mounted", "of another server": str(other), "not readable": str(site.cache.folder)}
        params: dict[str, Any] = {"redis_data": {"main": data[why]}}
        if why == "not readable":
            # Where all run as one user, the files have a mode that not even their owner may read.
            is_root = os.geteuid() == 0
            params["around"] = as_unprivileged_user(site.sets) if is_root else unreadable(site.cache.folder)
            site.run()  # so that every module is loaded
            shutil.rmtree(site.set)
        result = site.run(**params)

    check = result.check(SAVED)
    assert check.status is WARN, result.text()
    assert "which the server does not load" in str(check.observed)
    assert "redis_data" in check.hint or "read the files" in check.hint
    assert result.outcome == "warned"
    assert (site.about["form"], site.about["append_only"]) == ("snapshot", True)
    drilled = site.drill()
    assert drilled.check("redis main: keys after a restart with append-only files").status is OK, drilled.text()


def test_a_server_that_began_empty_and_was_never_rewritten_is_backed_up(site: Site) -> None:
    with redis("--appendonly", "yes", "--auto-aof-rewrite-percentage", "0") as fresh, closing(fresh.client()) as client:
        client.mset({f"key:{number}": "v" for number in range(10)})
        uncounted = int(client.info("persistence")["aof_base_size"])

        result = site.run({**site.targets(), "redis": {"main": {"url": fresh.url}}})

    assert uncounted == 0  # else this shows nothing
    assert result.check(SAVED).status is OK, result.text()


def test_without_the_right_to_read_settings_the_mounted_folder_is_enough(site: Site) -> None:
    rights = ("on", ">pw", "~*", "-@all", "+info", "+ping", "+xinfo", "+sync", "+replconf")
    with closing(site.cache.client()) as client:
        client.execute_command("ACL", "SETUSER", "reader", *rights)
        try:
            targets = site.targets(username="reader", password="pw")
            result = site.run(targets, redis_data={"main": str(site.cache.folder)})
        finally:
            client.execute_command("ACL", "DELUSER", "reader")

    assert result.check(SAVED).status is OK, result.text()


def test_doctor_names_what_to_mount_and_the_job_works_without_it(site: Site) -> None:
    path = str(JOBS / "backup.py")

    def seen(**params: Any) -> Check:
        step = {"entry": "daily-backup", "step": "backup", "job": "backup", "path": path, "params": json.dumps(params)}
        result = run_job("doctor", {"calendar": {"steps": [step], "store": None}}, site.targets())
        return result.check("redis main: read its append-only files")

    away, there = seen(redis_data={"main": "/not/mounted"}), seen()

    assert away.status is not OK
    assert away.optional
    assert "redis_data" in away.hint
    assert there.status is OK


# --- damage -----------------------------------------------------------------------------------------------------------


def test_all_of_twenty_flipped_bits_are_found_with_and_without_the_sums_of_the_set(site: Site) -> None:
    rewrite(site.cache)
    site.run()
    draw = random.Random(20)
    path = site.set / FILE
    sound, times = path.read_bytes(), path.stat()
    missed = []

    for _ in range(20):
        at = draw.randrange(len(sound))
        flipped = made.flipped(sound, at, draw.randrange(8))
        path.write_bytes(flipped)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        by_sum = site.verify(level="checksum").outcome
        inside = read_archive(path)  # the CRC of gzip and of the base, the form of the commands
        is_found = inside.damage or inside.unread or made.same_when_expanded(flipped, sound)
        if by_sum != "failed" or not is_found:
            missed.append((at, by_sum, inside.damage))

    assert missed == []


@pytest.mark.parametrize("where", ["manifest", "base", "increment is missing", "order"])
def test_files_that_do_not_belong_together_are_damaged(site: Site, where: str) -> None:
    rewrite(site.cache)
    site.run()
    changes: dict[str, Callable[[str, bytes], bytes | None]] = {
        "manifest": lambda name, data: b"file nothing seq 1 type b\n" if name.endswith("manifest") else data,
        "base": lambda name, data: made.flipped(data, 200) if ".base." in name else data,
        "increment is missing": lambda name, data: None if ".incr." in name else data,
        "order": lambda name, data: data[::-1] if ".base." in name else data,
    }
    site.repack(changes[where])

    result = site.verify()

    check = next(check for check in result.checks if check.name.endswith(f"{FILE}: decoded"))
    assert check.status is FAIL, result.text()


def test_a_server_that_would_start_empty_in_silence_fails_the_drill(site: Site) -> None:
    """The files are sound, but named in another way than the server that loads them expects."""
    rewrite(site.cache)
    site.run()
    manifest = json.loads((site.set / MANIFEST).read_text())
    manifest["redis"][0]["append_name"] = "other.aof"
    text = json.dumps(manifest)
    (site.set / MANIFEST).write_text(text)
    lines = {name: file["sha256"] for name, file in manifest["files"].items()}
    lines[MANIFEST] = hashlib.sha256(text.encode()).hexdigest()
    (site.set / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in lines.items()))

    result = site.drill()

    check = result.check("redis main: keys loaded")
    assert check.status is FAIL, result.text()
    assert check.observed == 0
    assert "started empty" in check.hint


def test_keys_that_are_lost_fail_the_drill(site: Site) -> None:
    rewrite(site.cache)
    with closing(site.cache.client()) as client:
        client.mset({f"more:{number}": "v" for number in range(500)})
    site.run()
    # Without its increment: the manifest of the files agrees, so that only the number of keys shows it.
    site.repack(
        lambda name, data: (
            b"".join(line for line in data.splitlines(keepends=True) if b" type i" not in line)
            if name.endswith("manifest")
            else None
            if ".incr." in name
            else data
        )
    )

    result = site.drill()

    check = result.check("redis main: keys loaded")
    assert (check.status, check.observed) == (FAIL, KEYS + 1), result.text()
