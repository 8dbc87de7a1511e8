"""Retention of the journal, written by a real journald, and of Loki, from a real HTTP server.

Loki itself cannot be installed here (it is no Debian or Python package); the bodies follow its documentation.
"""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.clock import now_within_a_day
from support.http_services import Reply, http_service, json_reply, port_that_hangs
from support.job_runs import JobResult, run_job
from support.servers.journal import JournalMessage, journal

from maintd.checks.logs.journal_size import limit_of, read_settings
from maintd.checks.logs.loki_retention import parse_period
from maintd.errors import TargetError
from maintd.model.evidence import ChangeState, CheckStatus

pytestmark = pytest.mark.usefixtures("own_now")

NOW = now_within_a_day()
ID = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def journal_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that a real journald wrote."""
    folder = journal(tmp_path_factory.mktemp("journald"), [JournalMessage("sshd", b"hello")])
    return next(folder.glob("*/*.journal"))


@pytest.fixture
def root(tmp_path: Path, journal_file: Path) -> Path:
    """The root of a host with a current and four archived files of the journal."""
    folder = tmp_path / "host/var/log/journal" / ID
    folder.mkdir(parents=True)
    shutil.copy(journal_file, folder / "system.journal")
    for number in range(1, 5):
        at = int((NOW - timedelta(days=10 * number)).timestamp() * 1_000_000)
        shutil.copy(journal_file, folder / f"system@{ID}-{5 - number:016x}-{at:016x}.journal")
    (tmp_path / "logs").mkdir()
    return tmp_path / "host"


def clean(root: Path, targets: dict[str, Any] | None = None, *, dry_run: bool = False, **params: Any) -> JobResult:
    given = {"root": str(root.parent / "logs"), "rotation": None, **params}
    hosts = {"host": {"local": {"root": str(root)}}}
    return run_job("log_cleanup", given, hosts | (targets or {}), dry_run=dry_run)


def files(root: Path) -> int:
    return len(list(root.glob("var/log/journal/*/*.journal")))


def configure(root: Path, place: str, text: str) -> None:
    path = root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_journal_is_measured_and_nothing_of_it_is_deleted_unasked(root: Path) -> None:
    result = clean(root)

    assert result.check("local: journal").status is CheckStatus.OK, result.text()
    assert int(str(result.check("local: journal").observed)) > 1 << 20
    assert files(root) == 5
    assert not result.changes


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("etc/systemd/journald.conf", "[Journal]\nSystemMaxUse=1M\n"),
        ("etc/systemd/journald.conf.d/size.conf", "# ours\n[Journal]\nSystemMaxUse = 1024K\n"),
        ("usr/lib/systemd/journald.conf.d/10-size.conf", "[Journal]\nCompress=yes\nSystemMaxUse=1048576\n"),
        ("run/systemd/journald.conf", "[Journal]\nStorage=persistent\nSystemMaxUse=1MB\n"),
    ],
)
def test_a_journal_above_journalds_own_limit_warns(root: Path, place: str, text: str) -> None:
    configure(root, place, text)

    found = clean(root).check("local: journal")

    assert found.status is CheckStatus.WARN
    assert "SystemMaxUse" in found.hint


def test_the_settings_of_journald_have_its_precedence(tmp_path: Path) -> None:
    configure(tmp_path, "usr/lib/systemd/journald.conf", "[Journal]\nSystemMaxUse=9G\nStorage=volatile\n")
    configure(tmp_path, "etc/systemd/journald.conf", "[Journal]\n#SystemMaxUse=8G\nSystemMaxUse=7G\nstorage=x\n")
    configure(tmp_path, "etc/systemd/journald.conf.d/a.conf", "[Journal]\nSystemMaxUse=6G\n[Other]\nSystemMaxUse=5G\n")
    configure(tmp_path, "run/systemd/journald.conf.d/a.conf", "[Journal]\nSystemMaxUse=4G\n")
    configure(tmp_path, "usr/lib/systemd/journald.conf.d/0.conf", "[Journal]\nSystemMaxUse=3G\n")

    found = read_settings(tmp_path)

    assert (found["SystemMaxUse"], found.get("Storage")) == ("6G", None)
    assert limit_of(found, tmp_path)[0] == 6 << 30


@pytest.mark.parametrize("text", ["many", "-1", "1X", "10 %", "²", "G"])
def test_a_limit_that_is_no_size_is_unknown(root: Path, text: str) -> None:
    configure(root, "etc/systemd/journald.conf", f"[Journal]\nSystemMaxUse={text}\n")

    result = clean(root)

    assert CheckStatus.UNKNOWN in [one.status for one in result.checks if one.name == "local: journal"], result.text()


@pytest.mark.parametrize(
    ("limits", "left"), [({"keep_bytes": "1B"}, 1), ({"keep": "25d"}, 3), ({"keep": "25d", "keep_bytes": "1B"}, 1)]
)
def test_archived_files_are_deleted_when_asked_for_and_the_effect_is_recorded(
    root: Path, limits: dict[str, str], left: int
) -> None:
    result = clean(root, journal=limits)

    assert files(root) == left, result.text()
    change = next(one for one in result.changes if one.action == "vacuum journal")
    assert change.state is ChangeState.DONE
    assert int(str(change.details["bytes_after"])) < int(str(change.details["bytes_before"]))


def test_a_dry_run_deletes_nothing_of_the_journal(root: Path) -> None:
    result = clean(root, dry_run=True, journal={"keep_bytes": "1B"})

    assert files(root) == 5
    assert [one.state for one in result.changes] == [ChangeState.PLANNED]


def test_a_journal_without_archived_files_is_refused_and_warns(root: Path) -> None:
    for path in root.glob("var/log/journal/*/system@*"):
        path.unlink()

    result = clean(root, journal={"keep_bytes": "1B"})

    assert [one.state for one in result.changes] == [ChangeState.REFUSED], result.text()
    assert result.check("local: journal made smaller").status is CheckStatus.WARN


def test_a_host_without_a_journal_is_no_alarm_unless_one_is_configured(root: Path) -> None:
    shutil.rmtree(root / "var/log/journal")

    without = clean(root)
    configure(root, "etc/systemd/journald.conf", "[Journal]\nStorage=persistent\n")
    missing = clean(root)

    assert without.outcome == "succeeded", without.text()
    assert missing.check("local: journal").status is CheckStatus.UNKNOWN


# --- Loki ---


def config(
    enabled: bool = True, period: str = "31d", streams: str = "[]", more: str = "", compactor: str = ""
) -> dict[str, Reply]:
    text = f"""target: all
auth_enabled: false
compactor:
  working_directory: /loki/compactor
  compaction_interval: 10m0s
  retention_enabled: {str(enabled).lower()}
  retention_delete_delay: 2h0m0s
  delete_request_store: filesystem
{compactor}
limits_config:
  ingestion_rate_mb: 4
  retention_period: {period}
  retention_stream: {streams}
  deletion_mode: filter-and-delete
{more}
"""
    return {"/config": Reply(text.encode(), content_type="text/yaml"), "/loki/api/v1/delete": json_reply([])}


def retention(root: Path, replies: dict[str, Any], **params: Any) -> JobResult:
    with http_service(replies) as url:
        return clean(root, {"http": {"loki": {"url": f"{url}/ready"}}}, loki="loki", **params)


@pytest.mark.parametrize(
    ("replies", "days"),
    [
        (config(), 31),
        (config(period="744h"), 31),
        (config(period="720h0m0s", streams="[{period: 24h, priority: 1, selector: '{app=\"x\"}'}]"), 30),
        (config(period="8d", streams="[{period: 5w, priority: 1, selector: '{app=\"x\"}'}]"), 35),
        (
            config(
                False, "0s", more="table_manager:\n  retention_deletes_enabled: true\n  retention_period: 336h0m0s\n"
            ),
            14,
        ),
    ],
)
def test_lokis_retention_is_read(root: Path, replies: dict[str, Reply], days: int) -> None:
    result = retention(root, replies)

    assert result.outcome == "succeeded", result.text()
    assert result.measure("loki_retention_days") == days


@pytest.mark.parametrize(
    "replies",
    [
        config(False),
        config(period="0s"),
        config(period="0"),
        config(streams="[{period: 0s, priority: 1, selector: '{app=\"x\"}'}]"),
        config(False, more="table_manager:\n  retention_deletes_enabled: false\n  retention_period: 336h0m0s\n"),
    ],
)
def test_a_loki_that_never_deletes_warns(root: Path, replies: dict[str, Reply]) -> None:
    found = retention(root, replies).check("loki loki: retention")

    assert (found.status, found.observed) == (CheckStatus.WARN, "never deletes")
    assert "retention_enabled" in found.hint


def test_a_retention_outside_of_the_limits_warns(root: Path) -> None:
    long = retention(root, config(period="90d"), loki_limits={"at_most": "60d"})
    short = retention(root, config(period="1d"))

    assert long.check("loki loki: retention").status is CheckStatus.WARN
    assert short.check("loki loki: retention, at least").status is CheckStatus.WARN


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"", 403),
        Reply(b"404 page not found", 404),
        Reply(b"<html>login</html>"),
        Reply(b"{a: [", content_type="text/yaml"),
        Reply(b"[" * 50_000, content_type="text/yaml"),
        Reply(b"limits_config: {}\n", content_type="text/yaml"),
        Reply(b"compactor: {retention_enabled: maybe}\nlimits_config: {}\n", content_type="text/yaml"),
        Reply(b"compactor: {retention_enabled: true}\nlimits_config: {retention_period: soon}\n"),
        Reply(b"compactor: {retention_enabled: true}\nlimits_config: []\n"),
    ],
)
def test_an_answer_without_a_retention_is_unknown(root: Path, reply: Reply) -> None:
    result = retention(root, {"/config": reply})

    assert result.check("loki loki: retention").status is CheckStatus.UNKNOWN, result.text()
    assert result.outcome == "unknown"


def test_a_loki_that_does_not_answer_is_unknown(root: Path) -> None:
    with port_that_hangs() as port:
        target = {"url": f"http://127.0.0.1:{port}", "timeout": "500ms"}
        result = clean(root, {"http": {"loki": target}}, loki="loki")

    assert result.check("loki loki: retention").status is CheckStatus.UNKNOWN, result.text()


def test_a_delete_request_that_waits_for_days_warns(root: Path) -> None:
    old, new = ((NOW - timedelta(days=days)).timestamp() for days in (5, 1))
    requests = [
        {"request_id": "a1", "status": "received", "created_at": old, "query": "{app='x'}"},
        {"request_id": "b2", "status": "received", "created_at": new},
        {"request_id": "c3", "status": "processed", "created_at": old},
    ]

    found = retention(root, config() | {"/loki/api/v1/delete": json_reply(requests)})

    check = found.check("loki loki: delete requests not carried out")
    assert (check.status, check.observed) == (CheckStatus.WARN, 1)
    assert "a1" in check.hint


def test_overrides_of_tenants_are_named_without_an_alarm(root: Path) -> None:
    result = retention(root, config(more="runtime_config:\n  file: /etc/loki/overrides.yaml\n"))

    assert result.check("loki loki: retention of each tenant").status is CheckStatus.UNKNOWN
    assert result.outcome == "succeeded"


@pytest.mark.parametrize("text", ["soon", "1", "-1h", "1h1", "9" * 40 + "h", "", "1e3s", "٣d"])
def test_what_is_no_period_is_an_error(text: str) -> None:
    with pytest.raises(TargetError):
        parse_period(text)


def test_json_is_yaml_too(root: Path) -> None:
    body = {"compactor": {"retention_enabled": True}, "limits_config": {"retention_period": "10d"}}

    assert retention(root, {"/config": Reply(json.dumps(body).encode())}).measure("loki_retention_days") == 10
