"""`redis_maintenance` on a real Redis: verified saves, counted keys, lossless trimming, no blocked client."""

from __future__ import annotations

import random
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from os import kill
from pathlib import Path
from shutil import disk_usage
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis
from redis.exceptions import ResponseError
from support.http_services import port_that_hangs
from support.job_runs import JOBS, JobResult, run_job
from support.servers.base import running, wait_for
from support.servers.disks import small_disk
from support.servers.redis import RedisServer
from support.servers.redis import redis as own_redis

from maintd.checks.redis.keyspace import glob, printable, weekly_growth
from maintd.checks.redis.persistence import (
    Persistence,
    SnapshotDisk,
    headroom_criterion,
    room_criterion,
    saved_criterion,
)
from maintd.checks.redis.streams import Consumer, ConsumerGroup, StreamState, id_order, keep_from
from maintd.job.attempt_info import Point
from maintd.model.evidence import ChangeState, CheckStatus

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
FAST = {"load": 1, "save": False}  # without pauses, and without a save
DEBUG = ("--enable-debug-command", "local")


@pytest.fixture
def db(redis_server: RedisServer) -> Iterator[Redis]:
    """The session's server, empty."""
    with closing(Redis(port=redis_server.port, decode_responses=True, encoding_errors="surrogateescape")) as client:
        client.flushall()
        yield client
        client.flushall()


def look_after(server: RedisServer, params: Mapping[str, Any] | None = None, **options: Any) -> JobResult:
    target = {"url": server.url, "streams": options.pop("streams", []), **options.pop("login", {})}
    return run_job("redis_maintenance", params or {}, {"redis": {"main": target}}, **options)


def milliseconds_ago(**time_ago: float) -> int:
    return int((time.time() - timedelta(**time_ago).total_seconds()) * 1000)


# --- decisions ----------------------------------------------------------------------------------------------------


@pytest.mark.server
@given(
    pattern=st.text(alphabet="ab*?[]^-\\c:", max_size=8),
    keys=st.lists(st.text(alphabet="abc:*?[]^-\\", min_size=1, max_size=6), min_size=1, max_size=10),
)
def test_a_glob_matches_what_redis_matches(redis_server: RedisServer, pattern: str, keys: list[str]) -> None:
    with closing(Redis(port=redis_server.port, db=3, decode_responses=True)) as client:
        client.flushdb()
        client.mset(dict.fromkeys(keys, 1))

        theirs = set(client.keys(pattern))

    assert {key for key in keys if glob(pattern).fullmatch(key)} == theirs


def test_a_key_of_any_bytes_is_printable() -> None:
    assert printable(b"a\xff\n\xc3\xa9".decode(errors="surrogateescape")) == r"a\xff\x0aé"


def state(before: Persistence | None = None, **changes: Any) -> Persistence:
    facts: dict[str, Any] = {
        "instance": "one",
        "saves": 3,
        "saved_at": NOW,
        "status": "ok",
        "saving": False,
        "rewriting": False,
        "duration": timedelta(seconds=1),
        "copied_bytes": 0,
        "used_bytes": 100,
        "resident_bytes": 120,
        "machine_bytes": 0,
    }
    return Persistence(**{**facts, **changes})


@pytest.mark.parametrize(
    ("after", "observed"),
    [
        (state(saves=4), "saved"),
        (state(), "nothing was saved: the number of saves is unchanged"),
        (state(saves=4, status="err"), "failed: last status err"),
        (state(instance="two", saves=4), "the server was restarted"),
        (state(saves=4, saving=True), "a background save is still running"),
        (state(saves=None, saved_at=NOW + timedelta(seconds=1)), "saved"),
        (state(saves=None), "nothing was saved: the time of the last save is unchanged"),
    ],
)
def test_a_save_is_verified_by_the_counters_of_the_server(after: Persistence, observed: str) -> None:
    assert saved_criterion(state(), after).observed == observed


def test_memory_for_a_save_is_three_times_the_pages_copied_by_the_last_or_half_of_the_used_memory() -> None:
    assert headroom_criterion(state(), limit_bytes=200).observed == 120 + 50
    assert headroom_criterion(state(copied_bytes=30), limit_bytes=200).observed == 120 + 90
    assert headroom_criterion(state(), limit_bytes=None).unknown


def test_growth_is_per_week_and_needs_a_day_of_history() -> None:
    assert weekly_growth([(NOW - timedelta(days=14), 100)], NOW, 140) == pytest.approx(0.2)  # 40 % in two weeks
    assert weekly_growth([(NOW - timedelta(days=8), 100), (NOW - timedelta(days=1), 10)], NOW, 108) == pytest.approx(
        0.07
    )
    assert weekly_growth([(NOW - timedelta(hours=5), 100)], NOW, 200) is None


ids = st.builds(lambda at, number: f"{at}-{number}", st.integers(0, int(NOW.timestamp() * 1000)), st.integers(0, 3))


@given(
    first=ids,
    groups=st.lists(st.tuples(ids, st.none() | ids), max_size=4),
    retention=st.timedeltas(timedelta(0), timedelta(days=10)),
)
def test_trimming_never_goes_past_what_a_group_needs(
    first: str, groups: list[tuple[str, str | None]], retention: timedelta
) -> None:
    readers = tuple(
        ConsumerGroup(str(n), 0, int(bool(oldest)), delivered, oldest, (Consumer("c", 1, timedelta(0)),))
        for n, (delivered, oldest) in enumerate(groups)
    )
    stream = StreamState("s", 9, first, "9999999999999-0", readers)

    keep = keep_from(stream, retention, NOW)

    if keep is not None:
        assert all(id_order(keep) <= id_order(delivered) for delivered, _ in groups)
        assert all(id_order(keep) <= id_order(oldest) for _, oldest in groups if oldest)
        assert id_order(keep)[0] <= (NOW - retention).timestamp() * 1000


# --- saves --------------------------------------------------------------------------------------------------------


@pytest.mark.server
def test_a_save_is_made_counted_and_its_file_read_to_the_end() -> None:
    with own_redis() as server, closing(server.client()) as client:
        client.mset({f"key:{n}": "x" * 100 for n in range(1000)})
        before: Any = client.info("persistence")

        result = look_after(server, {"load": 1, "snapshot": str(server.folder / "dump.rdb"), "memory_limit": "1GiB"})

        after: Any = client.info("persistence")
    assert after["rdb_saves"] == before["rdb_saves"] + 1
    assert result.check("main: background save").status is CheckStatus.OK
    assert result.check("main: snapshot read to its end").observed == "whole"
    assert [change.action for change in result.changes] == ["save"]
    assert result.check("main: maxmemory").status is CheckStatus.WARN
    assert result.measure("redis_last_cow_bytes") > 0


@contextmanager
def broken_snapshot(server: RedisServer) -> Iterator[None]:
    """No save succeeds in the block: no file can take the snapshot's place."""
    path = server.folder / "dump.rdb"
    path.unlink(missing_ok=True)
    path.mkdir()
    yield
    path.rmdir()


@pytest.mark.server
def test_a_save_that_fails_is_a_failure_though_its_reply_was_ok_and_nothing_is_removed() -> None:
    with own_redis("--save", "3600 1") as server, closing(server.client()) as client:
        client.set("cache:old", 1)

        with broken_snapshot(server):
            result = look_after(server, {"load": 1, "unlink": {"cache:": "0s"}, "max_share": 1, "keep_writes": False})

        with pytest.raises(ResponseError, match="MISCONF"):
            client.set("a", 1)
        assert client.exists("cache:old")
        client.bgsave()  # else it would not stop when asked to
    assert result.check("main: background save").observed == "failed: last status err"
    assert [(change.action, change.state) for change in result.changes] == [("save", ChangeState.FAILED)]
    assert result.check("main: writes").observed == "refused: MISCONF"
    assert result.check("main: cleaned").status is CheckStatus.FAIL
    assert result.outcome == "failed"


@pytest.mark.server
def test_writes_that_a_failed_save_has_ended_are_accepted_again_until_a_save_succeeds() -> None:
    with own_redis("--save", "3600 1") as server, closing(server.client()) as client:
        client.set("a", 1)

        with broken_snapshot(server):
            failed = look_after(server, {"scan": False})
            client.set("a", 2)
            also_failed = look_after(server, {"scan": False}, series={"redis_writes_without_saves": kept_writes(1)})
        healed = look_after(server, {"scan": False}, series={"redis_writes_without_saves": kept_writes(1)})

        after: Any = client.config_get("stop-writes-on-bgsave-error")
    assert failed.check("main: background save").status is CheckStatus.FAIL
    assert failed.check("main: writes").status is CheckStatus.OK
    assert [(change.action, change.state) for change in failed.changes] == [
        ("save", ChangeState.FAILED),
        ("configure", ChangeState.DONE),
    ]
    assert also_failed.measure("redis_writes_without_saves") == 1
    assert healed.check("main: background save").status is CheckStatus.OK
    assert healed.measure("redis_writes_without_saves") == 0
    assert after == {"stop-writes-on-bgsave-error": "yes"}


def kept_writes(value: float) -> list[Point]:
    return [Point(datetime.now(UTC) - timedelta(days=7), value, {"server": "main"})]


@pytest.mark.server
def test_a_setting_of_the_operator_is_left_as_it_is_after_a_save() -> None:
    options = ("--save", "3600 1", "--stop-writes-on-bgsave-error", "no")
    with own_redis(*options) as server, closing(server.client()) as client:
        result = look_after(server, {"scan": False})

        after: Any = client.config_get("stop-writes-on-bgsave-error")
    assert after == {"stop-writes-on-bgsave-error": "no"}
    assert [change.action for change in result.changes] == ["save"]


@pytest.mark.server
def test_a_server_that_refuses_writes_is_healed_by_a_save_as_soon_as_it_can_be_made() -> None:
    with own_redis("--save", "3600 1") as server, closing(server.client()) as client:
        client.set("a", 1)
        with broken_snapshot(server):
            client.bgsave()
            wait_for(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "the save to fail")  # type: ignore[index]
        with pytest.raises(ResponseError, match="MISCONF"):
            client.ping()

        result = look_after(server, {"load": 1})

        client.set("a", 2)
    assert result.check("main: background save").status is CheckStatus.OK, result.text()
    assert result.check("main: writes").status is CheckStatus.OK


@contextmanager
def full_disk(folder: Path) -> Iterator[tuple[Path, RedisServer]]:
    """A server with save points, and its own disk of six megabytes."""
    with small_disk(folder / "disk", "6m") as disk, own_redis("--save", "3600 1000000", "--dir", str(disk)) as server:
        yield disk, server


@pytest.mark.server
def test_no_save_is_started_on_a_disk_without_room_for_twice_the_snapshot_and_writes_go_on(tmp_path: Path) -> None:
    with full_disk(tmp_path) as (disk, server), closing(server.client()) as client:
        client.mset({f"key:{n}": random.randbytes(1000) for n in range(2000)})  # two megabytes
        client.save()
        (disk / "filler").write_bytes(bytes(disk_usage(disk).free - 3_000_000))

        full = look_after(server, {"load": 1})
        client.set("a", 1)
        (disk / "filler").unlink()
        freed = look_after(server, {"load": 1})

    assert full.check("main: background save").observed == "not started: too little disk space"
    assert full.check("main: disk space for a save").status is CheckStatus.FAIL
    assert not full.changes
    assert freed.check("main: background save").status is CheckStatus.OK


@pytest.mark.server
def test_a_disk_that_fills_up_during_the_save_leaves_writes_as_they_were(tmp_path: Path) -> None:
    with full_disk(tmp_path) as (disk, server), closing(server.client()) as client:
        client.mset({f"key:{n}": random.randbytes(1000) for n in range(2000)})
        (disk / "filler").write_bytes(bytes(disk_usage(disk).free - 1_000_000))

        # A folder on another disk stands for space that another program takes after the check.
        result = look_after(server, {"scan": False, "snapshot": str(tmp_path / "dump.rdb")})
        client.set("a", 1)

        (disk / "filler").unlink()
    assert result.check("main: background save").observed == "failed: last status err"
    assert result.check("main: writes").status is CheckStatus.OK


def test_room_for_a_save_is_twice_the_old_snapshot_or_the_data_in_memory() -> None:
    folder = Path("/data")

    assert room_criterion(state(dataset_bytes=50), SnapshotDisk(folder, 99, 50)).status is CheckStatus.FAIL
    assert room_criterion(state(dataset_bytes=50), SnapshotDisk(folder, 100, 50)).status is CheckStatus.OK
    assert room_criterion(state(dataset_bytes=900), SnapshotDisk(folder, 800, 50)).status is CheckStatus.FAIL
    unseen = room_criterion(state(dataset_bytes=50), None)
    assert (unseen.status, unseen.optional) == (CheckStatus.UNKNOWN, True)


@pytest.mark.server
def test_a_running_save_is_waited_for_before_a_new_one_is_started() -> None:
    with own_redis(*DEBUG, "--rdb-key-save-delay", "20000") as server, closing(server.client()) as client:
        client.execute_command("DEBUG", "POPULATE", 50)  # at 20 ms each: one second
        client.bgsave()

        result = look_after(server, {"load": 1})

        after: Any = client.info("persistence")
    assert result.check("main: background save").status is CheckStatus.OK
    assert after["rdb_saves"] == 2


@pytest.mark.server
def test_a_save_that_does_not_end_in_time_is_a_failure() -> None:
    with own_redis(*DEBUG, "--rdb-key-save-delay", "100000") as server, closing(server.client()) as client:
        client.execute_command("DEBUG", "POPULATE", 100)  # ten seconds

        first = look_after(server, {"scan": False, "save_timeout": "300ms"})
        second = look_after(server, {"scan": False, "save_timeout": "300ms"})

    assert first.check("main: background save").observed == "a background save is still running"
    assert str(second.check("main: background save").observed).startswith(
        "not started: a background save has not ended"
    )
    assert not second.changes


@pytest.mark.server
def test_no_save_is_started_without_enough_memory(db: Redis, redis_server: RedisServer) -> None:
    result = look_after(redis_server, {"load": 1, "memory_limit": "1MB"})

    assert result.check("main: memory for a save").status is CheckStatus.FAIL
    assert result.check("main: background save").observed == "not started: too little memory"
    assert not result.changes


@pytest.mark.server
def test_a_dry_run_changes_nothing_and_reports_what_it_would_do(db: Redis, redis_server: RedisServer) -> None:
    db.mset({"cache:1": 1, "order:1": 1, **{f"user:{n}": 1 for n in range(98)}})
    db.xadd("events", {"a": 1}, id=f"{milliseconds_ago(days=30)}-0")
    before: Any = db.info("persistence")

    result = look_after(
        redis_server,
        {"load": 1, "unlink": {"cache:": "0s"}, "expire": {"order:*": "7d"}, "trim": {"*": "7d"}},
        dry_run=True,
    )

    assert [(change.action, change.done) for change in result.changes] == [
        ("save", False),
        ("expire", False),
        ("unlink", False),
        ("trim", False),
    ]
    assert db.exists("cache:1")
    assert db.ttl("order:1") == -1
    assert db.xlen("events") == 1
    assert db.info("persistence")["rdb_saves"] == before["rdb_saves"]


# --- keys ---------------------------------------------------------------------------------------------------------


@pytest.mark.server
def test_keys_are_counted_by_pattern_and_those_without_expiry_found(db: Redis, redis_server: RedisServer) -> None:
    db.mset({f"idem:{n}": "x" for n in range(300)} | {f"exec:orders:{n}": "y" * 200 for n in range(40)} | {"alone": 1})
    for n in range(250):
        db.expire(f"idem:{n}", 1000)
    db.set("\udcff\udcfe", 1)  # no text at all

    result = look_after(redis_server, {**FAST, "patterns": ["exec:orders:*"], "expiring": ["idem:*"]})

    assert result.check("main: keys without expiry in idem:*").observed == 50
    assert result.check("main: keys without expiry in idem:*").status is CheckStatus.WARN
    assert result.measure("redis_keys_of", pattern="exec:orders:*") == 40
    assert result.measure("redis_keys_without_expiry", pattern="idem:*") == 50
    assert result.measure("redis_keys_of", pattern="(no prefix)") == 2
    assert result.measure("redis_bytes_of", pattern="exec:orders:*") > 40 * 200
    assert {artifact.name for artifact in result.artifacts} == {"keys-main.json", "memory-doctor-main.txt"}


@pytest.mark.server
def test_keys_without_expiry_that_grow_by_more_than_a_tenth_in_a_week_warn(
    db: Redis, redis_server: RedisServer
) -> None:
    db.mset({f"{kind}:{n}": 1 for kind in ("pnl", "user") for n in range(1200)})
    week_ago = datetime.now(UTC) - timedelta(days=7)
    series = [
        Point(week_ago, 1000, {"server": "main", "pattern": "pnl:*"}),
        Point(week_ago, 1190, {"server": "main", "pattern": "user:*"}),
    ]

    result = look_after(redis_server, FAST, series={"redis_keys_without_expiry": series})

    check = result.check("main: kinds of keys without expiry that grow")
    assert (check.observed, check.status) == (1, CheckStatus.WARN)
    assert "pnl:* +20%" in check.hint


@pytest.mark.server
@pytest.mark.parametrize(("larger", "growing"), [(19, 1), (20, 1), (25, 1), (20, 3)])
def test_a_kind_that_grows_is_found_among_many_larger_ones(
    db: Redis, redis_server: RedisServer, larger: int, growing: int
) -> None:
    for kind in range(larger):
        db.mset({f"large{kind}:{n}": 1 for n in range(1300)})
    for kind in range(growing):
        db.mset({f"grows{kind}:{n}": 1 for n in range(1200)})
    week_ago = datetime.now(UTC) - timedelta(days=7)
    before = {f"large{kind}:*": 1300 for kind in range(larger)} | {f"grows{kind}:*": 1000 for kind in range(growing)}
    series = [Point(week_ago, number, {"server": "main", "pattern": name}) for name, number in before.items()]

    result = look_after(redis_server, FAST, series={"redis_keys_without_expiry": series})

    check = result.check("main: kinds of keys without expiry that grow")
    assert (check.observed, check.status) == (growing, CheckStatus.WARN)
    assert "grows0:* +20%" in check.hint


@pytest.mark.server
def test_an_expiry_is_set_only_on_keys_that_match_and_have_none(db: Redis, redis_server: RedisServer) -> None:
    db.mset({"idem:[a]*": 1, "idem:b": 1, "idem:[c]": 1, "other:[a]": 1})
    db.expire("idem:[c]", 50)

    result = look_after(redis_server, {**FAST, "expire": {r"idem:\[*": "1h"}})

    assert 3600 <= db.ttl("idem:[a]*") <= 3960  # up to a tenth more
    assert 0 < db.ttl("idem:[c]") <= 50
    assert db.ttl("idem:b") == db.ttl("other:[a]") == -1
    assert result.check(r"main: keys of idem:\[* left without expiry").observed == 0


@pytest.mark.server
def test_expiries_beyond_the_budget_are_left_for_the_next_run(db: Redis, redis_server: RedisServer) -> None:
    db.mset({f"idem:{n}": 1 for n in range(30)})

    result = look_after(redis_server, {**FAST, "expire": {"idem:*": "1h"}, "max_keys": 20})

    assert sum(db.ttl(f"idem:{n}") > 0 for n in range(30)) == 20
    assert result.check("main: keys of idem:* left without expiry").observed == 10


@pytest.mark.server
def test_removal_takes_idle_keys_below_the_prefix_and_no_business_key(db: Redis, redis_server: RedisServer) -> None:
    db.mset({f"cache:tmp:{n}": "text" for n in range(10)})  # a small number would be shared, and its idle time too
    db.set("order:expired:42", "a customer's order")
    db.set("cache:tmp:expires", 1, ex=1000)
    db.xadd("cache:tmp:stream", {"a": 1})
    db.mset({f"user:{n}": 1 for n in range(200)})
    wait_for(lambda: db.object("idletime", "cache:tmp:1") >= 2, "the keys to be idle")
    db.get("cache:tmp:7")  # somebody uses it

    result = look_after(redis_server, {**FAST, "unlink": {"cache:tmp:": "2s"}})

    assert sorted(db.keys("cache:tmp:*")) == ["cache:tmp:7", "cache:tmp:expires", "cache:tmp:stream"]
    assert db.get("order:expired:42") == "a customer's order"
    assert db.dbsize() == 204
    assert [(change.action, change.details["keys"]) for change in result.changes] == [("unlink", 9)]


@pytest.mark.server
def test_nothing_is_removed_when_it_would_be_a_large_share_of_all_keys(db: Redis, redis_server: RedisServer) -> None:
    db.mset({f"user:{n}": 1 for n in range(100)})

    result = look_after(redis_server, {**FAST, "unlink": {"user:": "0s"}})

    assert db.dbsize() == 100
    assert result.check("main: keys to remove").status is CheckStatus.FAIL
    assert not result.changes


@pytest.mark.parametrize("prefix", ["*expired*", "", "a:", "cache:?"])
def test_a_prefix_that_is_a_glob_or_too_short_is_refused(prefix: str) -> None:
    result = run_job("redis_maintenance", {"unlink": {prefix: "1d"}}, {"redis": {"main": {"url": "redis://x"}}})

    assert "is not a prefix" in str(result.error)


# --- streams ------------------------------------------------------------------------------------------------------


def fill(db: Redis, stream: str, count: int, **ago: float) -> list[str]:
    start = milliseconds_ago(**ago)
    return [str(db.xadd(stream, {"n": n}, id=f"{start + n}-0")) for n in range(count)]


@pytest.mark.server
def test_trimming_keeps_what_is_pending_and_what_was_not_delivered(db: Redis, redis_server: RedisServer) -> None:
    entries = fill(db, "orders", 1000, days=30)
    db.xgroup_create("orders", "fast", id="0")
    db.xgroup_create("orders", "slow", id="0")
    db.xreadgroup("fast", "one", {"orders": ">"}, count=900)
    db.xreadgroup("slow", "two", {"orders": ">"}, count=700)
    db.xack("orders", "fast", *entries[:900])
    db.xack("orders", "slow", *entries[:500], *entries[600:700])  # 100 are pending

    result = look_after(redis_server, {**FAST, "trim": {"ord*": "7d"}}, streams=["orders"])

    pending: Any = db.xreadgroup("slow", "two", {"orders": "0"})
    assert [entry for entry, _ in pending[0][1]] == entries[500:600]
    assert all(fields for _, fields in pending[0][1])  # not one is delivered as nothing
    undelivered: Any = db.xreadgroup("slow", "two", {"orders": ">"})
    assert [entry for entry, _ in undelivered[0][1]] == entries[700:]
    assert db.xlen("orders") == 500  # whole blocks of 100 went
    assert result.check("main: stream orders group slow: pending entries that are gone").status is CheckStatus.OK
    assert result.measure("redis_stream_trimmed", stream="orders") == 500


@pytest.mark.server
def test_a_group_without_any_delivery_keeps_the_whole_stream(db: Redis, redis_server: RedisServer) -> None:
    fill(db, "orders", 300, days=30)
    db.xgroup_create("orders", "stuck", id="0")

    result = look_after(redis_server, {**FAST, "trim": {"*": "7d"}})

    assert db.xlen("orders") == 300
    assert not result.changes
    assert result.check("main: stream orders group stuck: lag").status is CheckStatus.WARN


@pytest.mark.server
@pytest.mark.parametrize(
    ("undelivered", "status"),
    [(1000, CheckStatus.WARN), (1001, CheckStatus.FAIL), (3000, CheckStatus.FAIL), (50, CheckStatus.OK)],
)
def test_a_group_that_is_far_behind_fails(
    db: Redis, redis_server: RedisServer, undelivered: int, status: CheckStatus
) -> None:
    fill(db, "orders", undelivered, minutes=1)
    db.xgroup_create("orders", "stuck", id="0")

    result = look_after(redis_server, FAST)

    lag = result.check("main: stream orders group stuck: lag")
    assert (lag.status, lag.observed) == (status, undelivered)


@pytest.mark.server
def test_a_stream_without_limit_is_found_and_its_consumers_are_checked(db: Redis, redis_server: RedisServer) -> None:
    entries = fill(db, "events", 60, days=8)
    db.xgroup_create("events", "readers", id="0")
    db.xreadgroup("readers", "stuck", {"events": ">"}, count=5)
    db.xreadgroup("readers", "gone", {"events": ">"}, count=1)
    db.xack("events", "readers", entries[5])
    db.xtrim("events", minid=entries[3], approximate=False)  # by someone who does not look
    brief = {"stuck_after": "1ms", "idle_after": "1ms", "max_length": 50}

    result = look_after(redis_server, {**FAST, **brief})

    group = "main: stream events group readers"
    assert result.check("main: stream events: entries").status is CheckStatus.WARN
    assert result.check("main: stream events: oldest entry").status is CheckStatus.WARN
    assert result.check(f"{group}: lag").observed == 54
    assert result.check(f"{group}: pending entries that are gone").observed == f"from {entries[0]} on"
    stuck = result.check(f"{group}: consumers stuck with pending entries")
    assert (stuck.status, stuck.hint.partition(":")[0]) == (CheckStatus.FAIL, "stuck")
    assert result.check(f"{group}: consumers that are gone").hint.startswith("gone:")


@pytest.mark.server
def test_a_required_stream_that_does_not_exist_is_unknown(db: Redis, redis_server: RedisServer) -> None:
    result = look_after(redis_server, FAST, streams=["missing"])

    assert result.check("main: stream missing").status is CheckStatus.UNKNOWN


# --- others are not held up ---------------------------------------------------------------------------------------


PROBE = """
import socket, sys, time
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as sock, open(sys.argv[2], "w") as file:
    while True:
        began = time.monotonic()
        sock.sendall(b"PING\\r\\n")
        if not sock.recv(64):
            break
        print(time.monotonic() - began, file=file, flush=True)
        time.sleep(0.002)
"""


@pytest.mark.server
def test_no_other_client_waits_long_while_keys_are_counted_expired_and_removed(tmp_path: Path) -> None:
    waits = tmp_path / "waits"
    with own_redis(*DEBUG) as server, closing(server.client()) as client:
        client.execute_command("DEBUG", "POPULATE", 120_000, "user")
        client.execute_command("DEBUG", "POPULATE", 15_000, "cache:tmp")
        client.execute_command("DEBUG", "POPULATE", 15_000, "idem")
        client.config_resetstat()
        params = {"save": False, "load": 0.6, "unlink": {"cache:tmp:": "0s"}, "expire": {"idem:*": "1d"}}

        with running([sys.executable, "-c", PROBE, str(server.port), waits], tmp_path / "log"):
            wait_for(lambda: waits.exists() and waits.stat().st_size, "the probe to ask")
            result = look_after(server, params)

        keys: Any = client.info("keyspace")
        commands: Any = client.info("commandstats")
    assert keys["db0"]["keys"] == 135_000, result.text()
    assert keys["db0"]["expires"] == 15_000
    # On a machine that is busy the worst of thousands of waits is the scheduler's; a script over all keys would be in
    # the mean of its command, whatever else runs.
    seconds = sorted(map(float, waits.read_text().split("\n")[:-1]))
    assert seconds[int(len(seconds) * 0.99)] < 1, f"p99 of {len(seconds)}, worst {seconds[-1]:.3f} s"
    slowest = max(commands.items(), key=lambda item: item[1]["usec_per_call"])
    assert slowest[1]["usec_per_call"] < 5000, slowest


# --- who may not, who does not answer -----------------------------------------------------------------------------


@contextmanager
def shipped(extra: str = "") -> Iterator[RedisServer]:
    """A server that has loaded the shipped file of users, with more for maintd_op."""
    text = (JOBS.parent / "deploy/redis.acl").read_text()
    with own_redis() as first:  # for its folder
        path = Path(first.folder) / "users.acl"
        path.write_text(re.sub(r"(user maintd_op .*)", rf"\1 {extra}", text).rstrip() + "\n")
        with own_redis("--aclfile", str(path)) as server:
            yield server


@pytest.mark.server
def test_the_shipped_users_are_loaded_and_the_operator_can_do_all_but_clean() -> None:
    with shipped() as server, closing(server.client()) as client:
        client.mset({f"user:{n}": 1 for n in range(50)})
        fill(client, "events", 5, minutes=1)
        client.xgroup_create("events", "readers", id="0")

        result = look_after(
            server, {"load": 1}, streams=["events"], login={"username": "maintd_op", "password": "change-me"}
        )

    assert result.check("main: background save").status is CheckStatus.OK, result.text()
    unknown = [check for check in result.checks if check.status is CheckStatus.UNKNOWN]
    assert [check.observed for check in unknown] == ["unknown: its latency monitor is off"], result.text()


@pytest.mark.server
def test_a_save_as_the_shipped_read_only_user_names_the_missing_grant() -> None:
    with shipped() as server:
        result = look_after(server, {"load": 1}, login={"username": "maintd_ro", "password": "change-me"})

    check = result.check("main: background save")
    assert (check.status, check.hint) == (CheckStatus.FAIL, "allow +bgsave in the user's ACL")
    assert result.error is None


@pytest.mark.server
def test_cleaning_works_with_just_the_selectors_that_the_users_file_explains() -> None:
    extra = "+watch +multi +exec (~idem:* +pexpire) (~cache:tmp:* +unlink) (~events +xtrim)"
    with shipped(extra) as server, closing(server.client()) as client:
        client.mset({f"user:{n}": 1 for n in range(50)} | {"idem:1": 1, "cache:tmp:1": 1})
        fill(client, "events", 250, days=9)
        params = {"load": 1, "expire": {"idem:*": "1h"}, "unlink": {"cache:tmp:": "0s"}, "trim": {"events": "7d"}}

        result = look_after(server, params, login={"username": "maintd_op", "password": "change-me"})
        other = look_after(
            server,
            {"load": 1, "unlink": {"user:": "0s"}, "max_share": 1},
            login={"username": "maintd_op", "password": "change-me"},
        )

        assert client.ttl("idem:1") > 0
        assert not client.exists("cache:tmp:1")
        assert client.xlen("events") == 0
        assert client.exists("user:1")
    assert {change.action for change in result.changes} == {"save", "expire", "unlink", "trim"}
    assert "denied" in str(other.check("main: maintained").observed)


@pytest.mark.server
def test_a_server_that_is_down_fails_and_does_not_stop_the_others(
    db: Redis, redis_server: RedisServer, free_port: int
) -> None:
    targets = {"down": {"url": f"redis://127.0.0.1:{free_port}/0"}, "up": {"url": redis_server.url}}

    result = run_job("redis_maintenance", FAST, {"redis": targets})

    assert str(result.check("down: maintained").observed).startswith("refused")
    assert result.check("up: fragmentation").status is CheckStatus.OK


def test_a_server_that_hangs_costs_one_timeout_and_fails() -> None:
    with port_that_hangs() as port:
        target = {"url": f"redis://127.0.0.1:{port}/0", "timeout": "200ms"}

        result = run_job("redis_maintenance", FAST, {"redis": {"main": target}})

    assert str(result.check("main: maintained").observed).startswith("timed_out")


@pytest.mark.server
def test_a_server_that_freezes_in_the_middle_fails_within_its_timeout() -> None:
    with own_redis(*DEBUG) as server, closing(server.client()) as client:
        client.execute_command("DEBUG", "POPULATE", 20_000, "user")
        results: list[JobResult] = []
        target = {"url": server.url, "timeout": "500ms"}
        job = threading.Thread(
            target=lambda: results.append(
                run_job("redis_maintenance", {"save": False, "load": 0.05}, {"redis": {"main": target}})
            )
        )
        job.start()
        wait_for(lambda: len(client.client_list()) > 1, "the job to be connected")
        kill(server.pid, signal.SIGSTOP)
        job.join(20)
        kill(server.pid, signal.SIGCONT)

    assert [check.status for check in results[0].checks if "timed_out" in str(check.observed)] == [CheckStatus.FAIL]
