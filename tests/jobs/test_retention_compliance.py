"""Data of each kind against a policy, in both directions: too old, missing, held, in the future, not seen."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from redis import Redis
from support.clock import now_within_a_day
from support.databases import Database, database
from support.http_services import Reply, http_service, json_reply
from support.job_runs import JobResult, run_job
from support.servers.base import free_port
from support.servers.postgres import PostgresServer
from support.servers.prometheus import WebServer, prometheus
from support.servers.redis import RedisServer, redis
from support.users import as_unprivileged_user, folder_for_all

from maintd.checks.backup_sets.layout import set_name
from maintd.checks.retention.evaluate import HELD, VIOLATIONS
from maintd.checks.retention.observed import date_in
from maintd.checks.retention.policy import DataClass
from maintd.errors import TargetError
from maintd.job.attempt_info import Point
from maintd.model.evidence import CheckStatus

OK, WARN, FAIL, UNKNOWN = CheckStatus.OK, CheckStatus.WARN, CheckStatus.FAIL, CheckStatus.UNKNOWN
pytestmark = pytest.mark.usefixtures("own_now")

NOW = now_within_a_day()
DAY = timedelta(days=1)


def not_ok(result: JobResult) -> dict[str, CheckStatus]:
    return {check.name: check.status for check in result.checks if check.status is not OK}


def write(folder: Path, name: str, modified: timedelta) -> Path:
    """Write a file that was modified so long ago."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    at = (NOW - modified).timestamp()
    os.utime(path, (at, at))
    return path


def dated(days: int) -> str:
    return f"access-{NOW - days * DAY:%Y-%m-%d}.log.gz"


def of_folder(folder: Path, policy: dict[str, Any], **attempt: Any) -> JobResult:
    params = {"classes": {"logs": {"folder": "logs", **policy}}}
    return run_job("retention_compliance", params, {"folders": {"logs": {"path": str(folder)}}}, **attempt)


def test_without_a_policy_it_is_not_configured() -> None:
    result = run_job("retention_compliance")

    assert isinstance(result.error, TargetError)
    assert result.error.cause == "not_configured"


def test_files_within_both_limits_pass_and_the_report_has_a_section_of_the_class(tmp_path: Path) -> None:
    for days in (1, 30, 60):
        write(tmp_path, dated(days), days * DAY)

    result = of_folder(tmp_path, {"keep_at_least": "30d", "keep_at_most": "90d", "personal": True})

    assert (result.outcome, not_ok(result)) == ("succeeded", {}), result.text()
    assert 59 <= result.measure("retention_oldest_days", **{"class": "logs"}) <= 60
    assert result.measure("retention_violations", **{"class": "logs"}) == 0
    text = Path(next(each for each in result.artifacts if each.name.endswith(".md")).path).read_text()
    assert "Class logs" in text
    assert dated(60) in text


def test_too_old_warns_and_missing_history_fails(tmp_path: Path) -> None:
    write(tmp_path, dated(40), 40 * DAY)

    old = of_folder(tmp_path, {"keep_at_most": "30d"})
    missing = of_folder(tmp_path, {"keep_at_least": "60d"})

    assert not_ok(old) == {"logs: oldest": WARN}, old.text()
    assert "1 of 1 items are too old; log_cleanup" in old.check("logs: oldest").hint
    assert not_ok(missing) == {"logs: history": FAIL}, missing.text()
    assert missing.measure("retention_violations", **{"class": "logs"}) == 1
    assert not_ok(of_folder(tmp_path, {"keep_at_most": "39d", "grace": "8d"})) == {}


def test_no_history_is_missing_from_before_the_first_day(tmp_path: Path) -> None:
    write(tmp_path, dated(40), 40 * DAY)

    started = {"keep_at_least": "365d", "started": f"{NOW - 40 * DAY:%Y-%m-%d}"}

    assert not_ok(of_folder(tmp_path, started)) == {}
    started["started"] = f"{NOW - 50 * DAY:%Y-%m-%d}"
    assert not_ok(of_folder(tmp_path, started)) == {"logs: history": FAIL}


@pytest.mark.parametrize("days", [1, 400, 27_000])
def test_a_first_day_or_a_hold_from_a_day_in_the_future_is_never_ok(tmp_path: Path, days: int) -> None:
    write(tmp_path, dated(0), timedelta(0))
    # Midnight may pass while the test runs.
    day = f"{datetime.now(UTC) + days * DAY + timedelta(hours=1):%Y-%m-%d}"

    started = of_folder(tmp_path, {"keep_at_least": "365d", "started": day})
    held = of_folder(tmp_path, {"hold": "case 17", "hold_since": day})
    both = of_folder(tmp_path, {"hold": "case 17", "hold_since": f"{NOW:%Y-%m-%d}", "started": day})

    assert not_ok(started) == {"logs: started": UNKNOWN}, started.text()
    assert f"started is {day}, which is in the future" in str(started.check("logs: started").observed)
    assert not_ok(held) == {"logs: hold_since": UNKNOWN}, held.text()
    assert not_ok(both) == {"logs: started": UNKNOWN}, both.text()
    for result in (started, held):
        assert not [check.name for check in result.checks if check.name in ("logs: history", "logs: legal hold")]
    assert not_ok(of_folder(tmp_path, {"keep_at_least": "365d", "started": f"{NOW:%Y-%m-%d}"})) == {}
    (tmp_path / dated(0)).unlink()
    empty = not_ok(of_folder(tmp_path, {"keep_at_least": "365d", "started": day}))
    assert empty == {"logs: started": UNKNOWN, "logs: history": UNKNOWN}


def test_the_date_in_the_name_counts_and_a_conflict_with_the_modification_time_is_named(tmp_path: Path) -> None:
    write(tmp_path, dated(100), timedelta(0))  # copied: its modification time is that of the copy
    write(tmp_path, dated(5), 400 * DAY)  # its modification time was set back

    result = of_folder(tmp_path, {"keep_at_most": "90d", "keep_at_least": "90d"})

    assert not_ok(result) == {"logs: dates and modification times agree": WARN, "logs: oldest": WARN}, result.text()
    conflict = result.check("logs: dates and modification times agree")
    assert (conflict.observed, dated(100) in conflict.hint, dated(5) in conflict.hint) == (2, True, True)
    assert 99 <= result.measure("retention_oldest_days") <= 100


def test_a_hold_forbids_too_old_and_requires_what_was_there(tmp_path: Path) -> None:
    first = write(tmp_path, dated(400), 400 * DAY)
    write(tmp_path, dated(200), 200 * DAY)
    policy = {"keep_at_most": "30d", "hold": "case 17"}

    held = of_folder(tmp_path, policy)
    assert not_ok(held) == {}, held.text()
    before = {HELD: [Point(NOW - 30 * DAY, held.measure(HELD), {"class": "logs"})]}
    first.unlink()
    deleted = of_folder(tmp_path, policy, series=before)

    assert not_ok(deleted) == {"logs: history": FAIL}, deleted.text()
    assert "case 17" in deleted.check("logs: history").hint
    assert deleted.measure(HELD) == held.measure(HELD), "it stays missing in the next run"
    since = {**policy, "hold_since": f"{NOW - 300 * DAY:%Y-%m-%d}"}
    assert not_ok(of_folder(tmp_path, since)) == {"logs: history": FAIL}
    since["hold_since"] = f"{NOW - 100 * DAY:%Y-%m-%d}"
    assert not_ok(of_folder(tmp_path, since)) == {}


def test_personal_data_needs_a_maximum(tmp_path: Path) -> None:
    write(tmp_path, dated(40), 40 * DAY)

    result = of_folder(tmp_path, {"keep_at_least": "30d", "personal": True})

    assert not_ok(result) == {"logs: maximum of personal data": FAIL}, result.text()
    assert "2016/679" in result.check("logs: maximum of personal data").rule


def test_an_empty_class_fails_with_a_minimum_and_is_unknown_without(tmp_path: Path) -> None:
    assert not_ok(of_folder(tmp_path, {"keep_at_least": "30d"})) == {"logs: history": FAIL}
    assert not_ok(of_folder(tmp_path, {"keep_at_most": "30d"})) == {"logs: history": UNKNOWN}
    write(tmp_path, "other.txt", 90 * DAY)
    assert not_ok(of_folder(tmp_path, {"keep_at_most": "30d", "pattern": "*.log*"})) == {"logs: history": UNKNOWN}


def test_data_from_the_future_is_unknown(tmp_path: Path) -> None:
    write(tmp_path, dated(10), 10 * DAY)
    write(tmp_path, "now.log", -5 * DAY)

    result = of_folder(tmp_path, {"keep_at_most": "30d"})

    assert not_ok(result) == {"logs: clock": UNKNOWN}, result.text()
    assert not_ok(of_folder(tmp_path, {"keep_at_most": "30d", "pattern": "access*"})) == {}


def test_gaps_fail(tmp_path: Path) -> None:
    for days in (0, 1, 2, 6, 7):
        write(tmp_path, dated(days), days * DAY)

    result = of_folder(tmp_path, {"keep_at_least": "7d", "every": "1d"})

    assert not_ok(result) == {"logs: gaps": FAIL}, result.text()
    assert f"{NOW - 6 * DAY:%Y-%m-%d} to {NOW - 2 * DAY:%Y-%m-%d}" in result.check("logs: gaps").hint


def test_an_unreadable_folder_is_unknown_and_hides_no_other_class(tmp_path: Path) -> None:
    with folder_for_all() as shared:
        write(shared / "open", dated(5), 5 * DAY)
        write(shared / "open/closed", dated(500), 500 * DAY)
        (shared / "open/closed").chmod(0)
        targets = {"a": {"path": str(shared / "open")}, "b": {"path": str(shared / "open/closed")}}
        classes = {name: {"folder": name, "keep_at_most": "30d"} for name in ("a", "b", "c")}
        with as_unprivileged_user():
            result = run_job("retention_compliance", {"classes": classes}, {"folders": targets}, folder=shared / "job")
        (shared / "open/closed").chmod(0o755)

    assert not_ok(result) == {
        "a: seen as a whole": UNKNOWN,
        "b: can be read": UNKNOWN,
        "c: can be read": UNKNOWN,
    }, result.text()
    assert result.check("a: oldest").status is OK


def make_set(folder: Path, at: datetime) -> Path:
    path = folder / set_name(at)
    path.mkdir()
    (path / "SHA256SUMS").write_text("")
    (path / "maintd-manifest.json").write_text(
        '{"format": "maintd-backup-set-1", "files": {}, "missing": [], "verified": "decode"}'
    )
    return path


def test_backup_sets_count_when_they_are_good(tmp_path: Path) -> None:
    for days in (0, 1, 2, 3):
        made = make_set(tmp_path, NOW - days * DAY)
    targets = {"folders": {"sets": {"path": str(tmp_path)}}}
    params = {"classes": {"backups": {"backup_sets": "sets", "keep_at_least": "3d", "every": "1d", "grace": "1h"}}}

    good = run_job("retention_compliance", params, targets)
    (made / "SHA256SUMS").unlink()
    bad = run_job("retention_compliance", params, targets)

    assert not_ok(good) == {}, good.text()
    assert not_ok(bad) == {"backups: history": FAIL}, bad.text()


@pytest.fixture(scope="module")
def events(postgres_server: PostgresServer) -> Iterator[Database]:
    with database(postgres_server) as made, psycopg.connect(made.url, autocommit=True) as conn:
        conn.execute('CREATE TABLE "Audit" (id int, ts timestamptz, day date, at timestamp, note text)')
        conn.execute(
            "INSERT INTO \"Audit\" SELECT g, now() - g * interval '1 day', current_date - g, "
            "now() at time zone 'utc' - g * interval '1 day' FROM generate_series(0, 100) g"
        )
        conn.execute('CREATE INDEX ON "Audit" (ts)')
        conn.execute("CREATE TABLE empty (ts timestamptz)")
        conn.execute("CREATE TABLE future (ts timestamptz)")
        conn.execute("INSERT INTO future VALUES (now() - interval '9 days'), (now() + interval '2 days')")
        conn.execute("CREATE TABLE endless (ts timestamptz)")
        conn.execute("INSERT INTO endless VALUES ('infinity')")
        conn.execute("CREATE TABLE parts (ts timestamptz) PARTITION BY RANGE (ts)")
        conn.execute("CREATE TABLE parts_all PARTITION OF parts DEFAULT")
        conn.execute("INSERT INTO parts SELECT now() - g * interval '1 day' FROM generate_series(0, 20) g")
        conn.execute("CREATE VIEW slow AS SELECT pg_sleep(20)::text::timestamptz AS ts")
        yield made


def of_table(events: Database, table: str, column: str = "ts", **more: Any) -> JobResult:
    policy = {"table": table, "column": column, "keep_at_least": "90d", "keep_at_most": "120d"}
    return events.job("retention_compliance", {"classes": {"rows": policy}, **more})


@pytest.mark.parametrize("column", ["ts", "day", "at"])
def test_rows_of_a_table_are_between_the_limits_by_any_type_of_time(events: Database, column: str) -> None:
    result = of_table(events, 'public."Audit"', column)

    assert not_ok(result) == {}, result.text()
    assert 99 <= result.measure("retention_oldest_days", **{"class": "rows"}) <= 102


@pytest.mark.parametrize(
    ("table", "column", "expected", "text"),
    [
        ("public.parts", "ts", {"rows: history": FAIL}, "since"),
        ("public.empty", "ts", {"rows: history": FAIL}, "nothing"),
        ("public.future", "ts", {"rows: clock": UNKNOWN, "rows: history": FAIL}, "since"),
        ("public.endless", "ts", {"rows: can be read": UNKNOWN}, "infinite"),
        ("public.missing", "ts", {"rows: can be read": UNKNOWN}, "not_found"),
        ("missing.schema.x", "ts", {"rows: can be read": UNKNOWN}, ""),
        ('"; drop table parts; --', "ts", {"rows: can be read": UNKNOWN}, ""),
        ('public."Audit"', "note", {"rows: can be read": UNKNOWN}, "not a time"),
        ('public."Audit"', 'ts"', {"rows: can be read": UNKNOWN}, "not_found"),
        ("public.slow", "ts", {"rows: can be read": UNKNOWN}, "timed_out"),
    ],
)
def test_what_a_table_does_not_show_fails_or_is_unknown(
    events: Database, table: str, column: str, expected: dict[str, CheckStatus], text: str
) -> None:
    result = of_table(events, table, column, statement_timeout="1s")

    assert not_ok(result) == expected, result.text()
    assert text in str(result.check(list(expected)[-1]).observed)


def test_a_large_table_without_an_index_is_not_read(events: Database) -> None:
    assert not_ok(of_table(events, 'public."Audit"', "at", scan_at_most="1KB")) == {"rows: can be read": UNKNOWN}
    assert not_ok(of_table(events, 'public."Audit"', "ts", scan_at_most="1KB")) == {}


def test_a_login_without_the_right_or_with_row_security_sees_nothing_and_that_is_unknown(events: Database) -> None:
    events.run("CREATE TABLE guarded (ts timestamptz)", "ALTER TABLE guarded ENABLE ROW LEVEL SECURITY")
    role = events.role("reader", "SELECT ON guarded")
    for table in ('public."Audit"', "public.guarded"):
        policy = {"table": table, "column": "ts", "keep_at_least": "90d"}
        result = events.job("retention_compliance", {"classes": {"rows": policy}}, as_role=role)
        assert not_ok(result) == {"rows: can be read": UNKNOWN}, result.text()
        assert "denied" in str(result.check("rows: can be read").observed)


@pytest.fixture(scope="module")
def cache() -> Iterator[RedisServer]:
    with redis() as server:
        yield server


def test_a_stream_is_dated_by_its_ids(cache: RedisServer) -> None:
    client = Redis(port=cache.port)
    at = int((NOW - 40 * DAY).timestamp() * 1000)
    client.xadd("notify.events", {"a": "1"}, id=f"{at}-0")
    client.xadd("notify.events", {"a": "1"})
    client.xadd("numbers", {"a": "1"}, id="1-1")
    client.set("text", "x")
    targets = {"redis": {"main": {"url": f"redis://127.0.0.1:{cache.port}/0"}}}
    classes = {
        name: {"stream": key, "keep_at_most": "30d"}
        for name, key in (("a", "notify.events"), ("b", "numbers"), ("c", "text"), ("d", "none"))
    }

    result = run_job("retention_compliance", {"classes": classes}, targets)

    assert not_ok(result) == {
        "a: oldest": WARN,
        "b: can be read": UNKNOWN,
        "c: can be read": UNKNOWN,
        "d: can be read": UNKNOWN,
    }, result.text()
    assert "redis_maintenance" in result.check("a: oldest").hint
    assert 39 < result.measure("retention_oldest_days", **{"class": "a"}) < 41


@pytest.fixture(scope="module")
def metrics() -> Iterator[WebServer]:
    start = NOW - 20 * DAY
    lines = [f"made {index} {(start + index * timedelta(hours=6)).timestamp():.0f}" for index in range(70)]
    with prometheus(openmetrics="# TYPE made gauge\n" + "\n".join(lines) + "\n# EOF\n") as server:
        yield server


def of_prometheus(server: WebServer, policy: dict[str, Any]) -> JobResult:
    params = {"classes": {"series": {"prometheus": "main", **policy}}}
    return run_job("retention_compliance", params, {"prometheus": {"main": {"url": server.url}}})


def test_the_data_of_prometheus_and_what_it_is_configured_to_delete_are_compared(metrics: WebServer) -> None:
    # The server of the tests deletes after ten years, and has 20 days.
    assert not_ok(of_prometheus(metrics, {"keep_at_least": "19d", "keep_at_most": "4000d"})) == {}
    short = of_prometheus(metrics, {"keep_at_least": "30d", "keep_at_most": "365d"})
    assert not_ok(short) == {"series: configured to delete, at the latest": WARN, "series: history": FAIL}, short.text()
    early = of_prometheus(metrics, {"keep_at_least": "5000d", "started": f"{NOW - 20 * DAY:%Y-%m-%d}"})
    assert not_ok(early) == {"series: configured to delete, at the earliest": FAIL}, early.text()
    held = of_prometheus(metrics, {"hold": "case 17"})
    assert not_ok(held) == {"series: configured to delete": FAIL}, held.text()


def loki(policy: dict[str, Any], config: str) -> JobResult:
    with http_service({"/config": Reply(config.encode(), content_type="text/plain")}) as url:
        params = {"classes": {"lines": {"loki": "loki", **policy}}}
        return run_job("retention_compliance", params, {"http": {"loki": {"url": f"{url}/ready"}}})


def test_the_configuration_of_loki_is_compared() -> None:
    deletes = "compactor: {retention_enabled: true}\nlimits_config: {retention_period: 744h}\n"
    never = "compactor: {retention_enabled: false}\nlimits_config: {retention_period: 744h}\n"
    latest, earliest = "lines: configured to delete, at the latest", "lines: configured to delete, at the earliest"

    assert not_ok(loki({"keep_at_least": "30d", "keep_at_most": "31d"}, deletes)) == {}
    assert not_ok(loki({"keep_at_most": "31d"}, never)) == {latest: WARN}
    assert not_ok(loki({"keep_at_least": "60d"}, deletes)) == {earliest: FAIL}
    assert not_ok(loki({"hold": "case 17"}, never)) == {}
    assert not_ok(loki({"keep_at_most": "31d"}, "nothing: here")) == {"lines: can be read": UNKNOWN}


def test_reports_are_dated_by_their_name_and_without_the_folder_they_are_unknown(tmp_path: Path) -> None:
    write(tmp_path, f"weekly-{NOW - 400 * DAY:%Y%m%d}.md", 400 * DAY)
    params = {"classes": {"reports": {"reports": True, "keep_at_most": "365d", "pattern": "weekly-*"}}}

    assert not_ok(run_job("retention_compliance", params, reports_dir=tmp_path)) == {"reports: oldest": WARN}
    assert not_ok(run_job("retention_compliance", params)) == {"reports: can be read": UNKNOWN}


def test_the_history_of_maintd_is_that_of_earlier_runs() -> None:
    params = {"classes": {"runs": {"history": True, "keep_at_least": "30d", "keep_at_most": "90d"}}}

    def of(days: int) -> JobResult:
        points = {VIOLATIONS: [Point(NOW - days * DAY, 0.0, {"class": "other"})]}
        return run_job("retention_compliance", params, series=points)

    assert not_ok(of(60)) == {}
    assert not_ok(of(20)) == {"runs: history": FAIL}
    assert not_ok(of(100)) == {"runs: oldest": WARN}
    assert not_ok(run_job("retention_compliance", params)) == {"runs: can be read": UNKNOWN}


@pytest.mark.parametrize("lowest", ["1e10", "NaN", "+Inf", "-5", "1.7e12", "7"])
def test_an_oldest_sample_from_the_future_or_that_is_no_time_is_unknown(lowest: str) -> None:
    replies = {
        "/api/v1/status/runtimeinfo": json_reply({"status": "success", "data": {"storageRetention": "400d"}}),
        "/metrics": Reply(f"prometheus_tsdb_lowest_timestamp_seconds {lowest}\n".encode(), 200),
    }
    with http_service(replies) as url:
        params = {"classes": {"series": {"prometheus": "main", "keep_at_least": "1d", "keep_at_most": "400d"}}}
        result = run_job("retention_compliance", params, {"prometheus": {"main": {"url": url}}})

    name = "clock" if lowest == "1e10" else "seen as a whole"
    assert not_ok(result).get(f"series: {name}") == UNKNOWN, result.text()
    assert "series: oldest" not in [check.name for check in result.checks]


def test_targets_that_are_down_are_unknown() -> None:
    port = free_port()
    targets = {
        "postgres": {"main": {"dsn": f"host=127.0.0.1 port={port} dbname=x user=x", "timeout": "2s"}},
        "redis": {"main": {"url": f"redis://127.0.0.1:{port}/0", "timeout": "2s"}},
        "prometheus": {"main": {"url": f"http://127.0.0.1:{port}", "timeout": "2s"}},
        "http": {"loki": {"url": f"http://127.0.0.1:{port}/ready", "timeout": "2s"}},
    }
    places = [
        {"table": "t", "column": "ts"},
        {"stream": "s"},
        {"prometheus": "main"},
        {"loki": "loki"},
    ]
    classes = {f"class-{n}": {"keep_at_least": "1d", **place} for n, place in enumerate(places)}

    result = run_job("retention_compliance", {"classes": classes}, targets)

    assert not_ok(result) == {f"{name}: can be read": UNKNOWN for name in classes}, result.text()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("app-2026-03-01.log", "2026-03-01T23:59:59+00:00"),
        ("access.log-20260301.gz", "2026-03-01T23:59:59+00:00"),
        ("set-20260301T020304Z", "2026-03-01T02:03:04+00:00"),
        ("backup_2026_03_01_020304.tar", "2026-03-01T02:03:04+00:00"),
        ("app-2026-02-30.log", None),
        ("app-20261301.log", None),
        ("id-120260301.log", None),
        ("app.log.1", None),
        ("from-2026-01-01-to-2026-02-01.csv", "2026-02-01T23:59:59+00:00"),
    ],
)
def test_the_date_of_a_name(name: str, expected: str | None) -> None:
    found = date_in(name)

    assert (None if found is None else found.isoformat()) == expected


@pytest.mark.parametrize(
    "policy",
    [
        {"keep_at_most": "1d"},
        {"folder": "a", "reports": True, "keep_at_most": "1d"},
        {"folder": "a"},
        {"table": "a", "keep_at_most": "1d"},
        {"folder": "a", "keep_at_least": "2d", "keep_at_most": "1d"},
        {"folder": "a", "keep_at_most": "1d", "hold_since": "2026-01-01"},
    ],
)
def test_a_policy_that_is_not_clear_is_refused(policy: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"exactly one|give keep|needs|longer"):
        DataClass.model_validate(policy)
