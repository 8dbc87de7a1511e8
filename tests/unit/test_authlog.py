"""Parsing of sshd, sudo and su messages, also hostile ones, and their summary."""

from __future__ import annotations

import gzip
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maintd.checks.logs import auth_log, log_files, login_messages
from maintd.checks.logs.log_files import UNKNOWN_SIZE, LogFileState, compare
from maintd.checks.logs.login_messages import LoginEvent
from maintd.checks.logs.logins import LoginSummary
from maintd.checks.logs.syslog import expand_repeated, parse_syslog
from maintd.errors import TargetError

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
THEM = "198.51.100.7"
NOT_THEM = "192.0.2.1"
PAM = "logname={0} uid=0 euid=0 tty={1} ruser={0} rhost={2}  user={3}"  # the rest of each of its lines
SUDO = "TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/bin/ls"
MOST = "maximum authentication attempts exceeded"
TOO_MANY = "Too many authentication failures"


# --- the time, the program, and what was written once for several ---


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-01-02T11:59:58.123456+01:00 web sshd[7]: m", datetime(2026, 1, 2, 10, 59, 58, 123456, UTC)),
        ("2026-01-02T10:59:58Z web sshd[7]: m", datetime(2026, 1, 2, 10, 59, 58, tzinfo=UTC)),
        ("Jan  2 11:59:58 web sshd[7]: m", datetime(2026, 1, 2, 10, 59, 58, tzinfo=UTC)),  # Berlin is an hour ahead
        ("Dec 31 23:30:00 web sshd[7]: m", datetime(2025, 12, 31, 22, 30, tzinfo=UTC)),  # of last year
        ("Jan  3 01:00:00 web sshd[7]: m", datetime(2026, 1, 3, 0, tzinfo=UTC)),  # the clock was a little ahead
        ("Feb 29 01:00:00 web sshd[7]: m", datetime(2024, 2, 29, 0, tzinfo=UTC)),  # the last that there was
        ("\0\0Jan  2 11:59:58 web sshd[7]: m", datetime(2026, 1, 2, 10, 59, 58, tzinfo=UTC)),  # after a crash
    ],
)
def test_both_forms_of_a_time_are_read(text: str, at: datetime) -> None:
    line = parse_syslog(text, BERLIN, NOW)

    assert line is not None
    assert (line.at, line.program, line.pid, line.message) == (at, "sshd", "7", "m")


@pytest.mark.parametrize("text", ["", "-- MARK --", "Foo  2 11:59:58 web sshd[7]: m", "Feb 30 01:00:00 web sshd: m"])
def test_a_line_that_is_not_syslog_is_not_parsed(text: str) -> None:
    assert parse_syslog(text, UTC, NOW) is None


def test_a_message_that_was_repeated_counts_as_often() -> None:
    line = parse_syslog(
        f"Jan  2 11:00:00 web sshd[7]: message repeated 4 times: [ Failed password for al from {THEM} port 2 ssh2]",
        UTC,
        NOW,
    )

    assert line is not None
    assert (line.times, line.message) == (4, f"Failed password for al from {THEM} port 2 ssh2")


def test_last_message_repeated_refers_to_the_line_before() -> None:
    lines = [
        parse_syslog(f"Jan  2 11:00:0{second} web {message}", UTC, NOW)
        for second, message in enumerate(["sshd[7]: one", "last message repeated 3 times", "sshd[7]: two"])
    ]

    found = [(line.message, line.times) for line in expand_repeated(line for line in lines if line)]

    assert found == [("one", 1), ("one", 3), ("two", 1)]


# --- messages ---


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (f"Failed password for root from {THEM} port 22 ssh2", ("failed", "root", "password")),
        (f"Failed password for invalid user admin from {THEM} port 22 ssh2", ("failed", "admin", "password")),
        (f"Failed publickey for al from {THEM} port 2 ssh2: ED25519 SHA256:aB+/", ("failed", "al", "publickey")),
        (f"Failed hostbased for al from {THEM} port 2 ssh2", ("failed", "al", "hostbased")),
        (f"Failed none for invalid user  from {THEM} port 2 ssh2", ("failed", "", "none")),
        (f"Accepted publickey for al from {THEM} port 2 ssh2: RSA SHA256:x", ("accepted", "al", "publickey")),
        (f"Accepted password for al from {THEM} port 2 ssh2", ("accepted", "al", "password")),
        (f"Invalid user admin from {THEM} port 2", ("disconnected", "admin", "")),
        (f"Invalid user admin from {THEM}", ("disconnected", "admin", "")),
        (f"error: {MOST} for root from {THEM} port 2 ssh2 [preauth]", ("disconnected", "root", "")),
        (f"Disconnecting authenticating user root {THEM} port 2: {TOO_MANY} [preauth]", ("disconnected", "root", "")),
        (f"Connection closed by authenticating user root {THEM} port 2 [preauth]", ("disconnected", "root", "")),
        (f"Connection reset by invalid user a b {THEM} port 2 [preauth]", ("disconnected", "a b", "")),
        (f"Disconnected from invalid user al {THEM} port 2 [preauth]", ("disconnected", "al", "")),
        (f"User al from {THEM} not allowed because not listed in AllowUsers", ("disconnected", "al", "")),
        (
            f"pam_unix(sshd:auth): authentication failure; {PAM.format('', 'ssh', THEM, 'root')}",
            ("disconnected", "root", ""),
        ),
        (
            f"PAM 2 more authentication failures; logname= uid=0 euid=0 tty=ssh ruser= rhost={THEM}",
            ("disconnected", "", ""),
        ),
    ],
)
def test_messages_of_sshd_are_parsed(message: str, expected: tuple[str, str, str]) -> None:
    event = login_messages.parse("sshd-session", message)

    assert event is not None
    assert (event.kind, event.user, event.method) == expected
    assert event.source == THEM


@pytest.mark.parametrize(
    "message",
    [
        "Server listening on 0.0.0.0 port 22.",
        f"Connection from {THEM} port 2 on 10.0.0.1 port 22",
        f"Connection closed by {THEM} port 2 [preauth]",
        f"Received disconnect from {THEM} port 2:11: Bye Bye [preauth]",
        "pam_unix(sshd:session): session opened for user al(uid=1000) by (uid=0)",
        f"Disconnected from user al {THEM} port 2",
    ],
)
def test_other_messages_are_not_events(message: str) -> None:
    assert login_messages.parse("sshd", message) is None


# Each of these names has the address of somebody else in it, in the words of sshd.
NAMES = [
    f"x from {NOT_THEM} port 22 ssh2",
    f"x from {NOT_THEM}",
    f"x {NOT_THEM} port 22",
    f"x {NOT_THEM} port 22 [preauth]",
    f"invalid user x from {NOT_THEM} port 22 ssh2: RSA SHA256:y",
    f"] message repeated 9 times: [ Failed password for root from {NOT_THEM} port 22 ssh2]",
    f"x rhost={NOT_THEM}  user=root",
    f"x not allowed because y from {NOT_THEM} not allowed because z",
    f"a from {NOT_THEM} port 1 ssh2: RSA-CERT SHA256:k ID z CA RSA SHA256:c",
    f"x {NOT_THEM} port 22: Too many authentication failures [preauth]",
]
SSHD_MESSAGES = [
    "Failed password for invalid user {} from {} port 50000 ssh2",
    "Failed publickey for invalid user {} from {} port 50000 ssh2: ED25519 SHA256:abc",
    "Invalid user {} from {} port 50000",
    "Invalid user {} from {}",
    "User {} from {} not allowed because not listed in AllowUsers",
    "Connection closed by invalid user {} {} port 50000 [preauth]",
    "Disconnected from invalid user {} {} port 50000 [preauth]",
    "Disconnecting invalid user {} {} port 50000: Too many authentication failures [preauth]",
    "maximum authentication attempts exceeded for invalid user {} from {} port 50000 ssh2 [preauth]",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("template", SSHD_MESSAGES)
def test_a_hostile_user_name_blames_no_other_address(template: str, name: str) -> None:
    event = login_messages.parse("sshd", template.format(name, THEM))

    assert event is not None
    assert event.source == THEM
    assert event.kind in ("failed", "disconnected")


@given(st.lists(st.sampled_from([*NAMES, "root", " ", "from", "port", "ssh2", ":", "\xff"]), max_size=5).map(" ".join))
def test_no_user_name_of_such_parts_blames_another_address(name: str) -> None:
    for template in SSHD_MESSAGES:
        event = login_messages.parse("sshd", template.format(name, THEM))
        assert event is not None, template.format(name, THEM)
        assert event.source == THEM


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_user_name_in_a_pam_message_blames_no_other_address(name: str) -> None:
    line = "pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost={}  user={}"

    event = login_messages.parse("sshd", line.format(THEM, name))

    assert event is not None
    assert event.source == THEM


def test_a_hostile_certificate_id_blames_no_other_address() -> None:
    bad = f"z from {NOT_THEM} port 22 ssh2: RSA SHA256:b ID q"
    certificate = "ED25519-CERT SHA256:x ID {} (serial 0) CA ED25519 SHA256:y"

    known = login_messages.parse(
        "sshd", f"Failed publickey for root from {THEM} port 2 ssh2: {certificate.format(bad)}"
    )
    spaced = login_messages.parse(
        "sshd", f"Failed publickey for invalid user a b from {THEM} port 2 ssh2: {certificate.format(bad)}"
    )

    assert known is not None
    assert known.source == THEM
    assert spaced is not None  # counted, and it is not known of whom
    assert spaced.source == "unreadable"


def test_a_name_cannot_begin_another_message() -> None:
    assert login_messages.parse(
        "sshd", f"Failed password for Accepted password for root from {THEM} port 2 ssh2"
    ) == LoginEvent("failed", "Accepted password for root", THEM, "password")
    assert login_messages.parse("cron", f"Accepted password for root from {NOT_THEM} port 22 ssh2") is None


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            f"pam_unix(sudo:auth): authentication failure; {PAM.format('al', '/dev/pts/0', '', 'al')}",
            LoginEvent("sudo_failed", "al"),
        ),
        (
            f"pam_unix(sudo:auth): 2 more authentication failures; {PAM.format('al', '/dev/pts/0', '', 'al')}",
            LoginEvent("sudo_failed", "al", times=2),
        ),
        (f"      al : 3 incorrect password attempts ; {SUDO}", LoginEvent("sudo_attempts", "al", times=3)),
        (f"  al : user NOT in sudoers ; {SUDO}", LoginEvent("sudo_denied", "al")),
        (f"  al : command not allowed ; {SUDO}", LoginEvent("sudo_denied", "al")),
        ("FAILED SU (to root) al on pts/0", LoginEvent("sudo_attempts", "al")),
        ("FAILED su for root by al", LoginEvent("sudo_attempts", "al")),
        ("  al : TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/bin/echo bo : 9 incorrect password attempts ; TTY=", None),
        ("pam_unix(sudo:session): session opened for user root(uid=0) by al(uid=1000)", None),
    ],
)
def test_messages_of_sudo_and_su_are_parsed(message: str, expected: LoginEvent | None) -> None:
    assert login_messages.parse("sudo", message) == expected


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("::ffff:192.0.2.9", "192.0.2.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("host.example", "host.example"),
        ("<script>", "unreadable"),
    ],
)
def test_a_source_is_an_ipv4_address_or_an_ipv6_network(address: str, source: str) -> None:
    assert login_messages.source_of(address) == source


# --- adding up ---


def reviewed(*events: tuple[str, LoginEvent], step: timedelta = timedelta(seconds=1)) -> LoginSummary:
    review = LoginSummary(NOW)
    for number, (pid, event) in enumerate(events):
        review.add(NOW - timedelta(hours=1) + number * step, pid, event)
    return review


FAILED = LoginEvent("failed", "root", THEM, "password")
LEFT = LoginEvent("disconnected", "root", THEM)


@pytest.mark.parametrize(
    ("events", "count"),
    [
        ([FAILED, FAILED, LEFT], 2),  # PAM and the end of the connection tell of the same attempts
        ([LEFT, FAILED, LEFT], 1),  # "Invalid user" comes first
        ([LEFT, LEFT, LEFT], 1),  # all that a server with keys only template of a stranger
        ([LEFT], 1),
    ],
)
def test_several_messages_of_one_connection_are_one_attempt(events: list[LoginEvent], count: int) -> None:
    assert reviewed(*[("7", event) for event in events]).failures == count
    assert reviewed(*[(str(pid), event) for pid in range(3) for event in events]).failures == 3 * count


def test_a_success_has_the_number_of_failures_before_it() -> None:
    accepted = LoginEvent("accepted", "root", THEM, "password")

    review = reviewed(*[(str(n), FAILED) for n in range(5)], ("9", accepted), ("10", FAILED))

    assert [success.failures for success in review.latest] == [5]
    assert [success.failures for success in review.after_failures] == [5]


def test_daily_limits_apply_to_longer_windows() -> None:
    review = LoginSummary(NOW)
    for hours in range(3 * 24):
        review.add(NOW - timedelta(hours=hours, minutes=1), str(hours), FAILED)

    assert review.failures == 72
    assert review.busiest_sources(5) == [(THEM, 24)]


def test_wrong_passwords_logged_by_sudo_and_pam_count_once() -> None:
    review = reviewed(
        ("1", LoginEvent("sudo_failed", "al")),
        ("1", LoginEvent("sudo_failed", "al", times=2)),
        ("1", LoginEvent("sudo_attempts", "al", times=3)),
        ("2", LoginEvent("sudo_denied", "al")),
    )

    assert review.sudo_failures() == [("al", 4)]


# --- files, rotated ---


def line(at: datetime, pid: int, message: str) -> str:
    return f"{at.isoformat()} web sshd[{pid}]: {message}\n"


def failed(at: datetime, pid: int, source: str = THEM) -> str:
    return line(at, pid, f"Failed password for root from {source} port 2 ssh2")


def put(path: Path, text: str, written_at: datetime) -> Path:
    data = text.encode("utf-8", "surrogateescape")
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    os.utime(path, (written_at.timestamp(), written_at.timestamp()))
    return path


def read(path: Path, back: timedelta = timedelta(days=1)) -> tuple[LoginSummary, auth_log.AuthLog]:
    review = LoginSummary(NOW)
    return review, auth_log.read(path, NOW - back, review, UTC)


def test_rotated_and_compressed_files_are_read_in_order(tmp_path: Path) -> None:
    log = tmp_path / "auth.log"
    hours = [timedelta(hours=h) for h in range(40)]
    put(tmp_path / "auth.log.2.gz", "".join(failed(NOW - h, 2) for h in hours[39:20:-1]), NOW - hours[21])
    put(tmp_path / "auth.log.1", "".join(failed(NOW - h, 1) for h in hours[20:5:-1]), NOW - hours[6])
    put(log, "".join(failed(NOW - h, 0) for h in hours[5:0:-1]), NOW - hours[1])
    put(tmp_path / "auth.log.old", failed(NOW - hours[2], 3), NOW)  # not of logrotate's making

    review, found = read(log)

    assert review.failures == 24  # 1 to 24 hours ago, of 39
    assert found.newest == NOW - hours[1]
    assert [extent.current for extent in found.states] == [False, False, True]


def test_of_files_written_before_the_window_only_the_first_line_is_read(tmp_path: Path) -> None:
    log = put(tmp_path / "auth.log", failed(NOW - timedelta(hours=1), 1), NOW)
    put(tmp_path / "auth.log-20251201.gz", failed(NOW - timedelta(days=32), 1) * 1000, NOW - timedelta(days=31))

    _, found = read(log)

    assert [(extent.size == UNKNOWN_SIZE, extent.head > 0) for extent in found.states] == [(True, True), (False, True)]


def test_malformed_lines_do_not_hide_others(tmp_path: Path) -> None:
    at = NOW - timedelta(hours=1)
    text = (
        failed(at, 1)
        + line(at, 2, f"Invalid user \udcff\udcfe<b> from {THEM} port 2")
        + "sshd was here\n"
        + line(at, 3, "x" * (1 << 20))
        + "\0\0\0"
        + failed(at, 4)
        + failed(at, 5)[:40]  # still being written
    )

    review, found = read(put(tmp_path / "auth.log", text, NOW))

    assert review.failures == 3
    tally = found.tally
    assert (tally.understood, tally.not_understood, tally.out_of_scope) == (3, 1, 1)


def test_a_decompression_bomb_is_named_and_hides_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files, "UNPACKED_LIMIT", 1 << 20)
    put(tmp_path / "auth.log.1.gz", "a" * (3 << 20), NOW)
    (tmp_path / "auth.log.2.gz").write_bytes(b"\x1f\x8b broken")
    (tmp_path / "auth.log.3.xz").write_bytes(b"?")
    for name in ("auth.log.2.gz", "auth.log.3.xz"):
        os.utime(tmp_path / name, (NOW.timestamp(), NOW.timestamp()))
    log = put(tmp_path / "auth.log", failed(NOW - timedelta(hours=1), 1), NOW)

    review, found = read(log)

    assert review.failures == 1
    assert ["unpacks to more than 1 MiB" in text for text in found.unread].count(True) == 1, found.unread
    assert len(found.unread) == 3


def test_a_missing_log_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TargetError) as raised:
        read(tmp_path / "auth.log")

    assert raised.value.cause == "empty"


def test_the_zone_of_the_host_is_read_below_its_root(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/localtime").symlink_to("/usr/share/zoneinfo/Europe/Berlin")

    assert str(auth_log.zone_of(tmp_path)) == "Europe/Berlin"
    assert auth_log.zone_of(tmp_path / "nowhere") is UTC


# --- whether a log still holds what it held ---

BEFORE = LogFileState(inode=1, size=1000, head=77, current=True)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ([LogFileState(1, 1500, 77, True)], "kept"),  # it grew
        ([LogFileState(1, 1000, 77, False), LogFileState(2, 10, 88, True)], "kept"),  # rotated by renaming
        ([LogFileState(3, 1000, 77, False), LogFileState(1, 10, 88, True)], "kept"),  # by copytruncate
        ([LogFileState(4, UNKNOWN_SIZE, 77, False), LogFileState(2, 10, 88, True)], "kept"),  # and compressed since
        ([LogFileState(1, 999, 77, True)], "cut"),  # its end was removed
        ([LogFileState(1, 0, 0, True)], "cut"),  # emptied in its place
        ([LogFileState(1, 2000, 88, True)], "cut"),  # emptied, and written anew
        ([LogFileState(3, 500, 77, False), LogFileState(1, 10, 88, True)], "cut"),  # the copy is not whole
        ([LogFileState(2, 10, 88, True)], "replaced"),
        ([LogFileState(2, 10, 88, False)], "gone"),
        ([], "gone"),
    ],
)
def test_a_log_is_identified_by_its_first_line(now: list[LogFileState], expected: str) -> None:
    assert compare(BEFORE, now) == expected


def test_an_empty_log_had_nothing_to_lose() -> None:
    assert compare(LogFileState(1, 0, 0, True), []) == "kept"
