"""Review of logins and denied requests from real files, a real journal and a real Docker engine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.clock import now_within_a_day
from support.job_runs import JobResult, run_job
from support.sample_logs import corpus, minutes, request, wrapped
from support.servers.docker import DockerEngine
from support.servers.journal import JournalMessage, journal
from support.users import as_unprivileged_user, folder_for_all

from maintd.job.attempt_info import Point
from maintd.model.evidence import CheckStatus

THEM = "198.51.100.7"
pytestmark = pytest.mark.usefixtures("own_now")

NOW = now_within_a_day()
HOUR = timedelta(hours=1)


def syslog(at: datetime, pid: int, message: str, program: str = "sshd") -> str:
    return f"{at.isoformat()} web {program}[{pid}]: {message}\n"


def failed(at: datetime, pid: int, source: str = THEM, user: str = "root") -> str:
    return syslog(at, pid, f"Failed password for {user} from {source} port 2 ssh2")


def accepted(at: datetime, pid: int, source: str = THEM, user: str = "al", method: str = "password") -> str:
    return syslog(at, pid, f"Accepted {method} for {user} from {source} port 2 ssh2")


def cron(at: datetime) -> str:
    return syslog(at, 1, "pam_unix(cron:session): session opened for user root", "CRON")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root of a host without a journal; its auth.log has one line of just now."""
    (tmp_path / "var/log").mkdir(parents=True)
    (tmp_path / "var/log/auth.log").write_text(cron(NOW - timedelta(minutes=1)))
    return tmp_path


def write(root: Path, *lines: str, name: str = "auth.log", before: bool = True) -> Path:
    path = root / "var/log" / name
    path.write_text("".join([*lines, cron(NOW - timedelta(minutes=1))]) if before else "".join(lines))
    return path


def review_logins(root: Path, params: dict[str, Any] | None = None, **more: Any) -> JobResult:
    targets = {"host": {"local": {"root": str(root)}}}
    return run_job("security_log_review", {"requests": False} | (params or {}), targets, **more)


def reviewed(ago: timedelta, source: str = "logins", **more: Any) -> dict[str, list[Point]]:
    """What a run so long ago left."""
    at = NOW - ago
    return {"reviewed_until": [Point(at, at.timestamp(), {"source": source})], **more}


# --- logins ---


@pytest.mark.parametrize(
    "line",
    [
        f"Jan  2 login granted to root ({THEM})",
        f"Accepted password for root from {THEM}",
        f"Angenommenes Kennwort für root von {THEM}",
        f"user root came from {THEM}",
    ],
)
def test_one_line_that_may_be_a_login_is_unknown_until_its_form_is_described(root: Path, line: str) -> None:
    known = [accepted(NOW - HOUR, n, method="publickey") for n in range(1000)]
    write(root, *known, syslog(NOW - HOUR, 2000, line))
    address = r".*?(?P<user>root).*?(?P<address>[\d.]+)\)?"

    unknown = review_logins(root)
    described = review_logins(root, {"login_forms": {"accepted": [address]}})
    ignored = review_logins(root, {"login_forms": {"ignored": [".*root.*"]}})

    found = unknown.check("logins: possible successes not understood")
    assert (unknown.outcome, found.status) == ("unknown", CheckStatus.UNKNOWN), unknown.text()
    assert "root" in str(found.observed)
    assert "login_forms" in found.hint
    assert described.check("logins: root by password").observed == 1, described.text()
    assert ignored.outcome == "succeeded", ignored.text()


def spread(count: int, since: datetime, user: str = "root") -> list[str]:
    """One failure from each of this many IPv6 networks, or of IPv4 addresses while they suffice."""
    return [
        failed(since + timedelta(milliseconds=20 * n), n, f"2001:db8:{n >> 16:x}:{n & 0xFFFF:x}::1", user)
        for n in range(count)
    ]


def test_a_success_after_failures_is_unknown_when_not_every_address_was_counted(root: Path) -> None:
    one_address = [failed(NOW - HOUR / 2, pid, user="al") for pid in range(50_001, 55_001)]
    write(root, *spread(50_001, NOW - HOUR), *one_address, accepted(NOW - HOUR / 3, 60_000))

    result = review_logins(root)

    assert result.outcome == "unknown", result.text()
    for name in ("logins: success after failures", "logins: failures from one address in a day"):
        assert result.check(name).status is CheckStatus.UNKNOWN, result.text()
        assert "only the first 50,000" in str(result.check(name).observed)
    assert result.check("logins: failures in a day").observed == 55_001


def test_many_ordinary_logins_hide_no_suspicious_one(root: Path) -> None:
    ordinary = [accepted(NOW - 2 * HOUR, pid, "203.0.113.9", method="publickey") for pid in range(1_001)]
    guessed = [failed(NOW - HOUR, pid, user="bo") for pid in range(2_000, 2_005)] + [accepted(NOW - HOUR, 2_006)]
    by_root = accepted(NOW - HOUR, 3_000, "192.0.2.9", "root")
    hour = (NOW - HOUR / 2).hour
    at_night = accepted(NOW - HOUR / 2, 3_001, "192.0.2.10", method="publickey")
    write(root, *ordinary, *guessed, by_root, at_night)

    result = review_logins(
        root,
        {"login_limits": {"hours": [(hour + 1) % 24, hour]}},
        series=reviewed(HOUR, login_source=[Point(NOW - HOUR, 1, {"user": "x", "source": "y", "key": ""})]),
    )

    for name, count in (("success after failures", 1), ("root by password", 1), ("from new sources", 4)):
        assert result.check(f"logins: {name}").observed == count, result.text()
    assert int(str(result.check("logins: at odd hours").observed)) >= 1, result.text()


def test_logins_of_too_many_users_make_new_sources_unknown(root: Path) -> None:
    write(root, *[accepted(NOW - HOUR, n, user=f"user{n}", method="publickey") for n in range(5_001)])
    known = [Point(NOW - HOUR, 1, {"user": f"user{n}", "source": THEM, "key": ""}) for n in range(5_001)]

    result = review_logins(root, series=reviewed(HOUR, login_source=known))

    assert result.check("logins: from new sources").status is CheckStatus.UNKNOWN, result.text()


def test_sudo_failures_of_too_many_users_are_unknown(root: Path) -> None:
    write(
        root,
        *[
            syslog(NOW - HOUR, n, f"user{n} : 1 incorrect password attempt ; TTY=x ; COMMAND=/bin/ls", "sudo")
            for n in range(1_001)
        ],
    )

    result = review_logins(root)

    assert result.check("logins: sudo and su failures of one user").status is CheckStatus.UNKNOWN, result.text()


@pytest.mark.parametrize(
    ("count", "usual", "status"),
    [
        (500, None, CheckStatus.OK),
        (600, None, CheckStatus.WARN),
        (99, 2, CheckStatus.OK),
        (100, 2, CheckStatus.WARN),
        (4_000, 1_000, CheckStatus.OK),
        (5_001, 1_000, CheckStatus.WARN),
    ],
)
def test_failures_from_many_addresses_are_compared_with_the_typical_number(
    root: Path, count: int, usual: int | None, status: CheckStatus
) -> None:
    write(root, *spread(count, NOW - HOUR))
    days = [] if usual is None else [Point(NOW - timedelta(days=day), usual) for day in range(1, 6)]

    result = review_logins(root, series={"auth_failures_total_24h": days})

    check = result.check("logins: failures in a day")
    assert (check.observed, check.status) == (count, status), result.text()
    assert result.measure("auth_failures_total_24h") == count


def bsd(at: datetime) -> str:
    return f"{at:%b} {at.day:2d} {at:%H:%M:%S}"


FORMS: dict[str, Callable[[datetime, int], str]] = {
    "busybox": lambda at, n: f"{bsd(at)} box auth.info sshd[{n}]: Failed password for root from {THEM} port 2 ssh2",
    "freebsd": lambda at, n: f"{bsd(at)} box <auth.info> sshd[{n}]: Failed password for root from {THEM} port 2 ssh2",
    "rfc5424": lambda at, n: (
        f"<38>1 {at:%Y-%m-%dT%H:%M:%SZ} box sshd {n} - - Failed password for root from {THEM} port 2 ssh2"
    ),
    "dropbear": lambda at, n: (
        f"{bsd(at)} box authpriv.warn dropbear[{n}]: Bad password attempt for 'root' from {THEM}:5"
    ),
    "vsftpd": lambda at, n: (
        f"{bsd(at)} mx vsftpd: pam_unix(vsftpd:auth): authentication failure; logname= uid=0 euid=0 tty=ftp "
        f"ruser=admin rhost={THEM}"
    ),
    "proxmox": lambda at, n: f"{bsd(at)} pve pvedaemon[9]: authentication failure; rhost={THEM} user=root@pam msg=bad",
}


@pytest.mark.parametrize("form", FORMS)
def test_failures_are_counted_in_every_framing_and_of_every_service(root: Path, form: str) -> None:
    write(root, *[FORMS[form](NOW - timedelta(minutes=160 - n), n) + "\n" for n in range(150)])

    result = review_logins(root, {"timezone": "UTC"})

    check = result.check("logins: failures from one address in a day")
    assert (check.observed, check.status) == (150, CheckStatus.FAIL), result.text()
    assert result.check("logins: lines not understood").observed == 0


UNKNOWN_FORMS: dict[str, Callable[[datetime, int], str]] = {
    "json": lambda at, n: f'{{"at":"{at.isoformat()}","program":"sshd","text":"Failed password for root from {THEM}"}}',
    "tai64n": lambda at, n: f"@4000000067{n:06x}00000000 sshd[{n}]: Failed password for root from {THEM} port 2 ssh2",
    "an unknown service": lambda at, n: syslog(at, n, f"login failed for root, peer {THEM}", "charon").rstrip(),
    "sshd in other words": lambda at, n: syslog(at, n, f"Rejected password of root, peer {THEM}").rstrip(),
}


@pytest.mark.parametrize("form", UNKNOWN_FORMS)
def test_lines_that_may_be_failed_logins_and_are_not_understood_are_unknown(root: Path, form: str) -> None:
    lines = [UNKNOWN_FORMS[form](NOW - timedelta(minutes=160 - n), n) + "\n" for n in range(150)]
    write(root, *lines)

    result = review_logins(root)

    check = result.check("logins: lines not understood")
    assert check.status is CheckStatus.UNKNOWN, result.text()
    assert "150 lines not understood (100 %), such as" in str(check.observed)
    for name in ("failures from one address in a day", "failures in a day", "success after failures"):
        dependent = result.check(f"logins: {name}")
        assert dependent.status is CheckStatus.UNKNOWN, result.text()
        assert dependent.observed == "unknown: 150 of 150 lines about logins were not understood; so far 0"
    assert result.outcome == "unknown"


def test_a_few_lines_that_are_not_understood_change_no_outcome(root: Path) -> None:
    write(root, *[syslog(NOW - HOUR, n, f"Rejected password of root, peer {THEM}") for n in range(19)])

    result = review_logins(root)

    check = result.check("logins: lines not understood")
    assert (check.observed, check.status, check.expected) == (19, CheckStatus.OK, "at most 19 lines"), result.text()


def test_a_log_that_is_a_link_to_itself_is_unknown(root: Path) -> None:
    (root / "var/log/auth.log").unlink()
    (root / "var/log/auth.log").symlink_to("auth.log")
    (root / "var/log/auth.log.1").write_text(failed(NOW - HOUR, 1))

    result = review_logins(root)

    check = result.check("logins: files that could not be read")
    assert (check.status, result.outcome) == (CheckStatus.UNKNOWN, "unknown"), result.text()
    assert "auth.log: Too many levels of symbolic links" in check.hint
    assert result.measure("auth_failures_total_24h") == 1


@pytest.mark.parametrize("linked", ["auth.log", "."])
def test_a_log_that_is_a_link_out_of_the_root_is_unknown_and_not_read(tmp_path: Path, root: Path, linked: str) -> None:
    outside = tmp_path / "of this machine"
    outside.mkdir()
    (outside / "auth.log").write_text(failed(NOW - HOUR, 50))
    place = root / "var/log" / linked
    place.unlink() if linked == "auth.log" else place.rename(root / "var/before")
    place.symlink_to(outside / linked)

    result = review_logins(root)

    assert result.outcome in ("unknown", "failed"), result.text()
    assert not any(item.name == "auth_failures_total_24h" and item.value for item in result.measures)


def test_a_quiet_run_forgets_no_login(root: Path) -> None:
    long_ago = {"user": "al", "source": THEM, "key": ""}
    too_long_ago = {"user": "bo", "source": THEM, "key": ""}
    known = [
        Point(NOW - HOUR, (NOW - timedelta(days=360)).timestamp(), long_ago),
        Point(NOW - HOUR, (NOW - timedelta(days=401)).timestamp(), too_long_ago),
    ]

    quiet = review_logins(root, series=reviewed(HOUR, login_source=known))
    left = [Point(NOW, item.value, item.labels) for item in quiet.measures if item.name == "login_source"]
    write(root, accepted(NOW - HOUR / 2, 1), accepted(NOW - HOUR / 2, 2, user="bo"))
    again = review_logins(root, series=reviewed(HOUR, login_source=left))

    assert [(point.labels, point.value) for point in left] == [(long_ago, known[0].value)]
    assert again.check("logins: from new sources").observed == 1, again.text()
    assert "bo from" in again.check("logins: from new sources").hint
    assert again.measure("login_source", user="al") > known[0].value


def test_a_day_without_attempts_succeeds_with_measures(root: Path) -> None:
    result = review_logins(root)

    assert result.outcome == "succeeded", result.text()
    assert result.check("logins: failures from one address in a day").observed == 0
    waited = (datetime.now(UTC) - NOW).total_seconds()  # since the line was written, which is 60 s older
    assert 50 <= float(str(result.check("logins: last line of the log").observed)) <= 65 + waited
    assert abs(result.measure("reviewed_until", source="logins") - datetime.now(UTC).timestamp()) < 60


@pytest.mark.parametrize(
    ("count", "status"), [(19, CheckStatus.OK), (20, CheckStatus.WARN), (99, CheckStatus.WARN), (100, CheckStatus.FAIL)]
)
def test_failures_from_one_address_warn_at_twenty_and_fail_at_a_hundred(
    root: Path, count: int, status: CheckStatus
) -> None:
    write(root, *[failed(NOW - HOUR, pid) for pid in range(count)], failed(NOW - HOUR, 999, "203.0.113.1"))

    result = review_logins(root)

    check = result.check("logins: failures from one address in a day")
    assert (check.observed, check.status) == (count, status), result.text()
    assert (f"{THEM} {count}" in check.hint) == (count >= 20)
    assert result.measure("auth_failures_24h", method="password") == count + 1
    assert result.measure("auth_distinct_source_ips") == 2


def test_a_success_after_five_failures_fails(root: Path) -> None:
    write(root, *[failed(NOW - HOUR, pid) for pid in range(5)], accepted(NOW - HOUR, 9))

    result = review_logins(root)

    check = result.check("logins: success after failures")
    assert check.status is CheckStatus.FAIL, result.text()
    assert f"al from {THEM} by password" in check.hint
    assert "after 5 failures" in check.hint


def test_root_by_password_fails_and_by_key_does_not(root: Path) -> None:
    write(root, accepted(NOW - HOUR, 1, user="root", method="publickey"))
    by_key = review_logins(root)
    write(root, accepted(NOW - HOUR, 1, user="root"))
    by_password = review_logins(root)

    assert by_key.check("logins: root by password").status is CheckStatus.OK, by_key.text()
    assert by_password.check("logins: root by password").status is CheckStatus.FAIL


def test_a_success_from_a_new_source_warns_after_the_first_review(root: Path) -> None:
    write(root, accepted(NOW - HOUR, 1), accepted(NOW - HOUR, 2, "203.0.113.1"))
    first = review_logins(root)
    known = [Point(NOW - HOUR, 1, {"user": "al", "source": THEM, "key": ""})]

    later = review_logins(root, series=reviewed(HOUR, login_source=known))

    assert not first.named("new sources"), first.text()
    assert len([item for item in first.measures if item.name == "login_source"]) == 2
    check = later.check("logins: from new sources")
    assert (check.observed, check.status) == (1, CheckStatus.WARN), later.text()
    assert "203.0.113.1" in check.hint


def test_a_success_at_an_odd_hour_warns_where_hours_are_set(root: Path) -> None:
    at = NOW - HOUR
    write(root, accepted(at, 1))
    hour = at.hour

    odd = review_logins(root, {"login_limits": {"hours": [(hour + 1) % 24, hour]}})
    usual = review_logins(root, {"login_limits": {"hours": [hour, (hour + 1) % 24]}})

    assert odd.check("logins: at odd hours").status is CheckStatus.WARN, odd.text()
    assert usual.check("logins: at odd hours").status is CheckStatus.OK


def test_failures_at_sudo_warn(root: Path) -> None:
    rest = "TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/bin/ls"
    write(root, *[syslog(NOW - HOUR, n, f"  al : 3 incorrect password attempts ; {rest}", "sudo") for n in range(2)])

    result = review_logins(root)

    check = result.check("logins: sudo and su failures of one user")
    assert (check.observed, check.status, check.hint) == (6, CheckStatus.WARN, "ask whether it was them: al 6"), (
        result.text()
    )


def test_a_hostile_user_name_blames_no_other_address_and_is_escaped(root: Path) -> None:
    name = "<script>|`x` \udcff\x1b[31m from 192.0.2.1 port 22 ssh2"
    line = failed(NOW - HOUR, 1, user=f"invalid user {name}").encode("utf-8", "surrogateescape")
    (root / "var/log/auth.log").write_bytes(line * 20)

    result = review_logins(root)

    check = result.check("logins: failures from one address in a day")
    assert check.observed == 20, result.text()
    assert THEM in check.hint
    assert "192.0.2.1" not in check.hint
    table = Path(result.artifacts[0].path).read_text()
    row = next(text for text in table.splitlines() if THEM in text)
    assert row.count("|") - row.count("\\|") == 5  # four cells
    assert "<script>" not in table
    assert "&lt;script&gt;" in row
    assert "\x1b" not in table


def test_a_log_that_is_silent_or_missing_is_unknown(root: Path) -> None:
    log = root / "var/log/auth.log"
    log.write_text(cron(NOW - 25 * HOUR))
    silent = review_logins(root)
    log.write_text("")
    empty = review_logins(root)
    log.unlink()
    missing = review_logins(root)

    for result in (silent, empty):
        assert result.check("logins: last line of the log").status is CheckStatus.UNKNOWN, result.text()
    assert getattr(missing.error, "cause", "") == "not_configured", missing.text()
    assert not [item for item in missing.measures if item.name == "reviewed_until"]


def test_a_log_without_read_permission_is_unknown(root: Path) -> None:
    with folder_for_all() as folder:
        host = folder / "host"
        shutil.copytree(root, host)
        log = host / "var/log/auth.log"
        review_logins(host)  # so that every module is loaded: the user nobody may be unable to read Python's
        log.chmod(0)

        result = review_logins(host, folder=folder / "attempt", around=as_unprivileged_user(folder))

    unread = result.check("logins: files that could not be read")
    assert unread.status is CheckStatus.UNKNOWN, result.text()
    assert "add this process' user to the group adm" in unread.hint
    assert not [item for item in result.measures if item.name == "reviewed_until"]


def test_the_next_run_reads_what_was_missed(root: Path) -> None:
    write(root, *[failed(NOW - h * HOUR + HOUR / 2, h) for h in range(71, 0, -1)])

    daily = review_logins(root, series=reviewed(HOUR))
    after_downtime = review_logins(root, series=reviewed(timedelta(days=2)))
    after_a_month = review_logins(root, series=reviewed(timedelta(days=30)))

    def failures(result: JobResult) -> str:
        return Path(result.artifacts[0].path).read_text().split(" failures")[0].rsplit("\n", 1)[1]

    assert failures(daily) == "24", daily.text()
    assert failures(after_downtime) == "48"
    # Two days of one failure an hour: no day of them had more than 24.
    assert after_downtime.check("logins: failures from one address in a day").observed == 24
    assert after_a_month.check("logins: time without a review").status is CheckStatus.UNKNOWN


def test_rotation_between_two_runs_loses_nothing(root: Path) -> None:
    log = write(root, *[failed(NOW - HOUR, pid) for pid in range(30)])
    first = review_logins(root)
    held = series_of(first)
    log.rename(root / "var/log/auth.log.1")
    write(root, *[failed(NOW - timedelta(minutes=5), pid) for pid in range(7)])

    second = review_logins(root, series=held)

    assert second.check("logins: failures from one address in a day").observed == 37, second.text()
    assert second.check("logins: what the log held").status is CheckStatus.OK


def test_a_truncated_log_fails(root: Path) -> None:
    log = write(root, *[failed(NOW - HOUR, pid) for pid in range(30)])
    held = series_of(review_logins(root))
    with log.open("r+") as file:
        file.truncate(0)
    with log.open("a") as file:
        file.write(cron(NOW))

    result = review_logins(root, series=held)

    check = result.check("logins: what the log held")
    assert (check.observed, check.status) == ("cut", CheckStatus.FAIL), result.text()


def series_of(result: JobResult) -> dict[str, list[Point]]:
    """What a run left, as the next one is handed it."""
    made: dict[str, list[Point]] = {}
    for item in result.measures:
        made.setdefault(item.name, []).append(Point(NOW, item.value, item.labels))
    return made


def test_times_without_a_zone_are_in_the_hosts_time_zone(root: Path) -> None:
    (root / "etc").mkdir()
    (root / "etc/localtime").symlink_to("/usr/share/zoneinfo/Pacific/Kiritimati")  # 14 hours ahead
    local = (NOW - HOUR).astimezone(UTC) + 14 * HOUR
    line = f"message repeated 3 times: [ Failed password for a from {THEM} port 2 ssh2]"
    (root / "var/log/auth.log").write_text(f"{local:%b %e %H:%M:%S} web sshd[1]: {line}\n")

    result = review_logins(root)

    assert result.check("logins: failures from one address in a day").observed == 3, result.text()


# --- the journal ---


@pytest.fixture(scope="module")
def journals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    hostile = (
        b"Failed password for invalid user \xff\n from 192.0.2.1 port 22 ssh2 from " + THEM.encode() + b" port 2 ssh2"
    )
    messages = [JournalMessage("sshd-session", hostile) for _ in range(20)]
    messages += [JournalMessage("logger", b"Accepted password for root from 192.0.2.1 port 22 ssh2")]
    messages += [
        JournalMessage("sudo", b"  al : user NOT in sudoers ; TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/bin/ls")
    ]
    messages += [JournalMessage("sshd", b"Accepted publickey for al from 203.0.113.1 port 2 ssh2: ED25519 SHA256:abc")]
    return journal(tmp_path_factory.mktemp("journald"), messages)


@pytest.mark.server
def test_the_journal_identifies_the_sending_process(journals: Path, tmp_path: Path) -> None:
    result = review_logins(tmp_path, {"journal": str(journals)})

    failures = result.check("logins: failures from one address in a day")
    assert (failures.observed, failures.status) == (20, CheckStatus.WARN), result.text()
    assert THEM in failures.hint
    assert "192.0.2.1" not in failures.hint
    assert result.check("logins: root by password").observed == 0  # it was not sshd who said so
    assert result.measure("auth_success_24h") == 1
    assert result.check("logins: sudo and su failures of one user").observed == 1
    assert result.check("logins: last line of the log").status is CheckStatus.OK


@pytest.mark.server
def test_a_journal_file_is_read_like_a_folder_of_journals(journals: Path, tmp_path: Path) -> None:
    file = next(journals.glob("*/*.journal"))

    result = review_logins(tmp_path, {"journal": str(file)})

    assert result.check("logins: failures from one address in a day").observed == 20, result.text()


@pytest.mark.server
def test_the_journal_of_a_host_is_found_below_its_root(journals: Path, root: Path) -> None:
    shutil.copytree(journals, root / "var/lib/journals")
    (root / "var/log/journal").symlink_to("/var/lib/journals")

    result = review_logins(root)

    assert "journal" in str(result.check("logins: log").observed), result.text()
    assert result.check("logins: failures from one address in a day").observed == 20


@pytest.mark.server
@pytest.mark.parametrize("linked", ["journal", "journal/0123", "journal/system.journal"])
def test_a_link_out_of_the_root_is_not_read_as_the_journal_of_the_host(journals: Path, root: Path, linked: str) -> None:
    place = root / "var/log" / linked
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(next(journals.glob("*/*.journal")) if linked.endswith(".journal") else journals)

    result = review_logins(root)

    assert result.check("logins: log").observed == str(root / "var/log/auth.log"), result.text()


@pytest.mark.server
def test_an_unreadable_journal_is_unknown_or_auth_log_is_read_instead(root: Path) -> None:
    folder = root / "var/log/journal/0123"
    folder.mkdir(parents=True)
    (folder / "system.journal").write_bytes(b"broken" * 1000)

    beside = review_logins(root)
    alone = review_logins(root, {"journal": str(folder)})

    assert "auth.log" in str(beside.check("logins: log").observed), beside.text()
    assert any("the journal cannot be read" in text for text in beside.logs)
    assert alone.check("logins: log").status is CheckStatus.UNKNOWN, alone.text()


# --- denied requests ---


def review_requests(targets: dict[str, Any], params: dict[str, Any] | None = None, **more: Any) -> JobResult:
    return run_job("security_log_review", {"logins": False} | (params or {}), targets, **more)


def of_folder(folder: Path, params: dict[str, Any] | None = None, **more: Any) -> JobResult:
    return review_requests({"folders": {"logs": {"path": str(folder)}}}, {"folder": "logs"} | (params or {}), **more)


USUAL = [Point(NOW - timedelta(days=d), 100.0) for d in range(3, 0, -1)]


def test_denied_requests_are_counted_exactly_in_little_memory(tmp_path: Path) -> None:
    """24 MB in four files; grep for the digits is right about one line in thirty of those it shows."""
    since = datetime.now(UTC) - 20 * HOUR
    counts = [
        corpus(tmp_path / f"agent-{n}.log", 6_000_000, since=since, until=since + 19 * HOUR, seed=n, form=form)
        for n, form in enumerate([wrapped, wrapped, lambda line, _: line, lambda line, _: line])
    ]
    script = (
        "import sys\n"
        f"sys.path[:0] = {[str(Path(__file__).parents[1])]!r}\n"
        "from pathlib import Path\n"
        "from jobs.test_security_log_review import of_folder\n"
        f"found = of_folder(Path({str(tmp_path)!r}))\n"
        "print(found.text())\n"
        "for status in ('401', '403'):\n"
        "    print('COUNT', status, round(found.measure('api_denied_24h', status=status)))\n"
        # Not ru_maxrss: that begins with the memory of the process which this one was forked from.
        "status = Path('/proc/self/status').read_text()\n"
        "print('PEAK', status.split('VmHWM:')[1].split()[0])\n"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)

    words = [line.split() for line in done.stdout.splitlines()]
    found = {word[1]: int(word[2]) for word in words if word[:1] == ["COUNT"]}
    assert found == {str(status): sum(count[status] for count in counts) for status in (401, 403)}, done.stderr
    peak = next(int(word[1]) for word in words if word[:1] == ["PEAK"])
    assert peak < 200 * 1024  # KiB, of the whole process with the test's own modules


def made(folder: Path, count: int, path: str = "/orders", status: int = 401) -> None:
    import random

    rng = random.Random(1)
    lines = [request(rng, at, status, path) for at in minutes(NOW - 20 * HOUR, count)]
    lines.append(request(rng, NOW - timedelta(minutes=1), 200))
    (folder / "agent.log").write_text("\n".join(lines) + "\n")


def test_more_denied_requests_than_five_times_the_typical_number_warn(tmp_path: Path) -> None:
    made(tmp_path, 501)
    more = of_folder(tmp_path, series={"api_denied_total_24h": USUAL})
    made(tmp_path, 500)
    usual = of_folder(tmp_path, series={"api_denied_total_24h": USUAL})
    learning = of_folder(tmp_path)

    assert more.check("requests: denied in a day").status is CheckStatus.WARN, more.text()
    assert "/orders" in more.check("requests: denied in a day").hint
    assert usual.check("requests: denied in a day").status is CheckStatus.OK
    assert not learning.named("denied in a day")
    assert any("after 3 days of history" in text for text in learning.logs)


def test_a_few_denied_requests_never_warn(tmp_path: Path) -> None:
    made(tmp_path, 19)

    result = of_folder(tmp_path, series={"api_denied_total_24h": [Point(p.at, 0.0) for p in USUAL]})

    assert result.outcome == "succeeded", result.text()


@pytest.mark.parametrize(("count", "status"), [(4, CheckStatus.OK), (5, CheckStatus.FAIL)])
def test_denied_requests_of_administrators_fail_at_five(tmp_path: Path, count: int, status: CheckStatus) -> None:
    made(tmp_path, count, "/admin/orders/halt?token=s3cret")

    result = of_folder(tmp_path)

    check = result.check("requests: denied on administrators' paths")
    assert (check.observed, check.status) == (count, status), result.text()
    assert "s3cret" not in result.text()
    assert "s3cret" not in Path(result.artifacts[0].path).read_text()


def test_logs_that_are_missing_or_silent_are_unknown(tmp_path: Path) -> None:
    nothing = of_folder(tmp_path)
    made(tmp_path, 1)
    day = (NOW - 25 * HOUR).timestamp()
    os.utime(tmp_path / "agent.log", (day, day))
    silent = of_folder(tmp_path)
    unconfigured = review_requests({})

    assert nothing.check("requests: logs").status is CheckStatus.UNKNOWN, nothing.text()
    assert silent.check("requests: last line of the logs").status is CheckStatus.UNKNOWN, silent.text()
    assert getattr(unconfigured.error, "cause", "") == "not_configured", unconfigured.text()


def test_a_site_with_one_of_both_kinds_of_logs_is_reviewed_and_the_other_is_optional(root: Path) -> None:
    (root / "var/log/auth.log").write_text(cron(NOW))
    targets = {"host": {"local": {"root": str(root)}}}

    result = run_job("security_log_review", {"timezone": "UTC"}, targets)

    assert result.error is None, result.text()
    assert str(result.check("requests: logs").observed).startswith("unknown: not_configured")
    assert result.check("requests: logs").optional


def test_a_listed_service_that_logs_nothing_is_unknown(tmp_path: Path) -> None:
    made(tmp_path, 1)

    result = of_folder(tmp_path, {"services": ["agent", "risk-manager"]})

    assert result.check("requests: risk-manager").status is CheckStatus.UNKNOWN, result.text()
    assert not result.named("requests: agent")


# --- containers ---


@pytest.fixture
def project(docker_server: DockerEngine) -> Iterator[str]:
    """A compose project of this test's own; its containers are removed afterwards."""
    name = f"sec{uuid.uuid4().hex[:8]}"
    docker_server.busybox()
    yield name
    client = docker_server.client()
    try:
        for container in client.containers.list(all=True, filters={"label": f"com.docker.compose.project={name}"}):
            container.remove(force=True, v=True)
    finally:
        client.close()


def writes(engine: DockerEngine, project: str, service: str, script: str, **more: Any) -> None:
    """A container that writes and ends."""
    labels = {"com.docker.compose.project": project, "com.docker.compose.service": service}
    client = engine.client()
    try:
        made = client.containers.run(
            "maintd-test/busybox:1", ["sh", "-c", script], labels=labels, network_mode="none", detach=True, **more
        )
        made.wait(timeout=60)
    finally:
        client.close()


@pytest.mark.engine
def test_container_logs_are_read_by_the_docker_api(docker_server: DockerEngine, project: str) -> None:
    denied = '{"msg":"http_request","method":"GET","path":"/admin/x","status":401,"remote":"::ffff:10.0.0.1"}'
    other = '{"msg":"http_request","path":"/401","status":200,"durationMs":403}'
    long = '{"msg":"http_request","path":"/' + "a" * 16_340 + '","status":401}'
    lines = f"echo '{denied}'; echo '{other}'; echo '{denied}' >&2; echo '{long}'"
    writes(docker_server, project, "json", lines)
    writes(docker_server, project, "terminal", lines, tty=True)
    writes(
        docker_server,
        project,
        "text",
        r"printf '\033[0mGET /x \033[33m403\033[0m 1.8 ms - -\033[0m\n'; echo 'GET /403 200 403 ms - -'",
    )
    targets = {"docker": {"main": {"url": docker_server.url, "project": project}}}

    result = review_requests(targets, {"services": ["json", "terminal", "text"]})

    assert result.measure("api_denied_24h", service="json", status="401") == 3, result.text()
    assert result.measure("api_denied_24h", service="terminal", status="401") == 3
    assert result.measure("api_denied_24h", service="text", status="403") == 1
    assert result.check("requests: denied on administrators' paths").observed == 4
    assert result.check("requests: lines not understood").observed == 0
    assert not result.named("requests: lines too long")
    assert result.check("requests: last line of the logs").status is CheckStatus.OK


@pytest.mark.engine
def test_a_container_whose_log_the_engine_does_not_keep_is_unknown(docker_server: DockerEngine, project: str) -> None:
    writes(docker_server, project, "kept", "echo '{\"status\":403}'")
    writes(docker_server, project, "lost", "echo '{\"status\":403}'", log_config={"Type": "none"})
    targets = {"docker": {"main": {"url": docker_server.url, "project": project}}}

    result = review_requests(targets)

    unread = result.check("requests: logs that could not be read")
    assert unread.status is CheckStatus.UNKNOWN, result.text()
    assert "lost" in unread.hint
    assert result.measure("api_denied_24h", service="kept", status="403") == 1
    assert not [item for item in result.measures if item.name == "reviewed_until"]


def test_an_engine_that_is_down_is_unknown(tmp_path: Path) -> None:
    result = review_requests({"docker": {"main": {"url": f"unix://{tmp_path}/none.sock"}}})

    assert str(result.check("requests: logs").observed).startswith("unknown: refused"), result.text()
