"""Framings of syslog daemons, and the messages of services other than OpenSSH about failed logins."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maintd.checks.logs import log_files, login_messages
from maintd.checks.logs.login_messages import LoginEvent
from maintd.checks.logs.syslog import parse_syslog
from maintd.checks.read_tally import ReadTally

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)
AT = datetime(2026, 1, 2, 11, 59, 58, tzinfo=UTC)
THEM = "198.51.100.7"
NOT_THEM = "192.0.2.1"
FAILED = f"Failed password for root from {THEM} port 2 ssh2"


@pytest.mark.parametrize(
    "framing",
    [
        "Jan  2 11:59:58 web sshd[7]: ",  # rsyslog, syslog-ng
        "Jan 02 11:59:58 web sshd[7]: ",
        "Jan  2 11:59:58 web auth.info sshd[7]: ",  # busybox
        "Jan  2 11:59:58 web authpriv.warning sshd[7]: ",
        "Jan  2 11:59:58 web <auth.info> sshd[7]: ",  # FreeBSD, syslogd -v
        "Jan  2 11:59:58 <4.6> web sshd[7]: ",
        "Jan  2 11:59:58 web sshd[7]: [ID 800047 auth.info] ",  # Solaris
        "Jan  2 11:59:58 sshd[7]: ",  # no host
        "Jan  2 11:59:58 fe80::1 sshd[7]: ",
        "Jan  2 11:59:58 web /usr/sbin/sshd[7]: ",
        "Jan  2 11:59:58 web sshd[7] ",
        "Jan  2 2026 11:59:58 web sshd[7]: ",
        "2026 Jan  2 11:59:58 web sshd[7]: ",
        "Jan  2 11:59:58.123 web sshd[7]: ",
        "<38>Jan  2 11:59:58 web sshd[7]: ",
        "<38>1 2026-01-02T11:59:58.000Z web sshd 7 - - ",  # RFC 5424
        '<38>1 2026-01-02T11:59:58Z web sshd 7 ID47 [x@1 a="b \\] c"][y@1] ',
        "2026-01-02T12:59:58+0100 web sshd[7]: ",
        "2026-01-02 11:59:58 web sshd[7]: ",
        "2026-01-02T11:59:58,000 web auth.info sshd[7]: ",
    ],
)
def test_a_failure_is_found_in_each_framing(framing: str) -> None:
    line = parse_syslog(framing + FAILED, UTC, NOW)

    assert line is not None
    assert (line.at.replace(microsecond=0), line.program, line.pid, line.message) == (AT, "sshd", "7", FAILED)


@pytest.mark.parametrize(
    "text",
    [
        '{"MESSAGE": "' + FAILED + '", "_COMM": "sshd"}',
        "0001-01-01T00:00:00+14:00 web sshd[7]: " + FAILED,
        "2026-13-01T00:00:00Z web sshd[7]: " + FAILED,
        "@400000006755d2f0 sshd[7]: " + FAILED,
        "1767355198 web sshd[7]: " + FAILED,
    ],
)
def test_an_unknown_framing_is_no_line_of_syslog(text: str) -> None:
    assert parse_syslog(text, UTC, NOW) is None


PAM = "authentication failure; logname={0} uid=0 euid=0 tty={1} ruser={0} rhost={2}"
PROFTPD = f"box ({THEM}[{THEM}])"


@pytest.mark.parametrize(
    ("program", "message", "user", "method"),
    [
        ("auth", f"pam_unix(dovecot:auth): {PAM.format('office', 'dovecot', THEM)}", "office", "dovecot"),
        ("vsftpd", f"pam_unix(vsftpd:auth): {PAM.format('admin', 'ftp', THEM)}", "admin", "vsftpd"),
        ("cockpit-session", f"pam_unix(cockpit:auth): {PAM.format('', '', THEM)}  user=root", "root", "cockpit"),
        ("xrdp-sesman", f"pam_sss(xrdp-sesman:auth): {PAM.format('', 'xrdp', THEM)} user=al", "al", "xrdp-sesman"),
        ("openvpn", f"pam_ldap(openvpn:auth): {PAM.format('', '', THEM)} user=al", "al", "openvpn"),
        ("pvedaemon", f"authentication failure; rhost=::ffff:{THEM} user=root@pam msg=bad", "root@pam", ""),
        (
            "dovecot",
            f"imap-login: Disconnected (auth failed, 3 attempts in 9 s): user=<al>, method=PLAIN, rip={THEM}, lip=::1",
            "al",
            "imap",
        ),
        ("smtpd", f"warning: unknown[{THEM}]: SASL LOGIN authentication failed: UGFzc3dvcmQ6", "", "LOGIN"),
        ("proftpd", f"{PROFTPD} - USER al (Login failed): Incorrect password", "al", ""),
        ("proftpd", f"{PROFTPD} - USER al: no such user found from {THEM} [{THEM}] to 10.0.0.1:21", "al", ""),
        ("pure-ftpd", f"(?@{THEM}) [WARNING] Authentication failed for user [al]", "al", ""),
        ("webmin", f"Invalid login as root from {THEM}", "root", ""),
        ("login", f"invalid password for 'root' on 'pts/0' from '{THEM}'", "root", ""),
        ("dropbear", f"Bad password attempt for 'root' from {THEM}:5022", "root", "password"),
        ("dropbear", f"Login attempt for nonexistent user from {THEM}:5022", "", ""),
        ("dropbear", f"Bad PAM password attempt for 'al' from [::ffff:{THEM}]:5022", "al", "password"),
    ],
)
def test_a_failed_login_at_any_service_is_counted_with_its_address(
    program: str, message: str, user: str, method: str
) -> None:
    event = login_messages.parse(program, message)

    assert event is not None
    assert (event.kind, event.user, event.source, event.method) == ("failed", user, THEM, method)


def test_freebsds_and_dropbears_successes_and_failures_are_distinguished() -> None:
    assert login_messages.parse(
        "sshd", f"error: PAM: Authentication error for illegal user x from {THEM}"
    ) == LoginEvent("disconnected", "x", THEM)
    assert login_messages.parse("dropbear", f"Password auth succeeded for 'root' from {THEM}:2") == LoginEvent(
        "accepted", "root", THEM, "password"
    )
    key = "ssh-ed25519 key SHA256:abc"
    assert login_messages.parse("dropbear", f"Pubkey auth succeeded for 'al' with {key} from {THEM}:2") == LoginEvent(
        "accepted", "al", THEM, "publickey", key
    )


@pytest.mark.parametrize(
    ("program", "message", "user"),
    [
        ("login", f"pam_unix(login:auth): {PAM.format('LOGIN', '/dev/tty1', '')}  user=al", "al"),
        ("gdm-password", f"pam_unix(gdm-password:auth): {PAM.format('', '/dev/tty1', '')}  user=al", "al"),
        ("login", "FAILED LOGIN (1) on '/dev/tty1' FOR 'al', Authentication failure", "al"),
        ("login", "FAILED LOGIN 1 FROM tty1 FOR al, Authentication failure", "al"),
        ("login", "invalid password for 'al' on 'tty1'", "al"),
    ],
)
def test_a_failure_without_an_address_is_counted_for_its_user(program: str, message: str, user: str) -> None:
    event = login_messages.parse(program, message)

    assert event is not None
    assert event.kind in ("sudo_failed", "sudo_attempts")
    assert (event.user, event.source) == (user, "")


@pytest.mark.parametrize("name", [f"x rhost={NOT_THEM}", f"x rhost={NOT_THEM}  user=root", f"rhost={NOT_THEM} rhost="])
def test_a_name_with_an_address_blames_no_other_address_where_the_service_passes_it_on(name: str) -> None:
    event = login_messages.parse("vsftpd", f"pam_unix(vsftpd:auth): {PAM.format(name, 'ftp', THEM)}")

    assert event is None or event.source in (THEM, "unreadable")
    assert event is not None or login_messages.may_concern_login("vsftpd", f"pam_unix: {PAM.format(name, 'ftp', THEM)}")


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("sshd", f"Fehlgeschlagene Anmeldung: password failed for root, {THEM}"),
        ("sshd", f"Rejected password for root from {THEM}"),
        ("dropbear", f"Wrong one-time password of 'root' ({THEM})"),
        ("su", "root login from pts/0 denied"),
        ("exim", f"login authenticator failed for (x) [{THEM}]: 535 Incorrect authentication data"),
        ("charon", f"authentication of 'al' with EAP failed, peer {THEM}"),
        ("gitea", f"Failed authentication attempt for al from {THEM}:4"),
        ("asterisk", f"Registration from 'x' failed for '{THEM}' - Wrong password"),
    ],
)
def test_a_message_that_may_be_about_a_login_is_not_understood(program: str, message: str) -> None:
    tally = ReadTally()

    event = login_messages.read(program, message, tally)

    assert event is None
    assert (tally.understood, tally.not_understood) == (0, 1), message


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("sshd", "Server listening on 0.0.0.0 port 22."),
        (
            "sshd",
            f"error: Received disconnect from {THEM} port 2:3: com.jcraft.jsch.JSchException: Auth fail [preauth]",
        ),
        ("sshd", "pam_unix(sshd:auth): check pass; user unknown"),
        ("sshd", "pam_sss(sshd:auth): received for user al: 7 (Authentication failure)"),
        ("sshd", "pam_systemd(sshd:session): Failed to create session: Connection timed out"),
        ("sshd", f"banner exchange: Connection from {THEM} port 2: invalid format"),
        ("sshd", "Accepted key ED25519 SHA256:x found at /home/al/.ssh/authorized_keys:1"),
        ("sshd", "Authentication refused: bad ownership or modes for directory /home/al"),
        ("dropbear", f"Exit before auth from <{THEM}:5>: (user 'root', 3 fails): Exited normally"),
        ("sudo", "      al : TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/bin/grep failed password"),
        ("systemd", "Failed to start Unattended upgrades."),
        ("CRON", "pam_unix(cron:session): session opened for user root"),
        ("systemd-logind", "New session 7 of user al."),
    ],
)
def test_other_messages_are_out_of_scope(program: str, message: str) -> None:
    tally = ReadTally()

    assert login_messages.read(program, message, tally) is None
    assert (tally.not_understood, tally.out_of_scope) == (0, 1)


@given(st.sampled_from(["sshd", "dropbear", "sudo", "vsftpd", "proftpd"]), st.text(max_size=200))
def test_any_message_is_read_without_an_error(program: str, message: str) -> None:
    tally = ReadTally()

    login_messages.read(program, message, tally)

    assert tally.total == 1


@pytest.mark.parametrize(
    "part",
    [": RSA-CERT SHA256:k ID z CA RSA SHA256:c", " from 1.2.3.4 port 1", " rhost=1", "\t", ">, rip=1", "[", " user="],
)
@pytest.mark.parametrize(
    "start", ["Failed publickey for ", "authentication failure; logname= uid=0 euid=0 tty= ruser="]
)
def test_a_long_hostile_message_costs_no_more_than_a_fraction_of_a_second(start: str, part: str) -> None:
    message = (start + part * 100_000)[:60_000]

    before = time.process_time()
    for program in ("sshd", "vsftpd"):
        login_messages.read(program, message, ReadTally())
        login_messages.read(program, message[:8_000], ReadTally())

    assert time.process_time() - before < 5


@pytest.mark.parametrize(
    ("names", "written_ago"),
    [
        # The times of the last writes are not in the order of the names: a copy without them, or a late compression.
        (["auth.log.10.gz", "auth.log.9.gz", "auth.log.2.gz", "auth.log.1", "auth.log"], [1, 2, 3, 4, 0]),
        (["auth.log-20251230.gz", "auth.log-20251231.gz", "auth.log-20260101", "auth.log"], [1, 3, 2, 0]),
        (["auth.log-2025-12-30", "auth.log-2025-12-31", "auth.log-2026-01-01", "auth.log"], [1, 3, 2, 0]),
        (["auth.log-20251230", "auth.log-20251231", "auth.log.2", "auth.log.1", "auth.log"], [9, 8, 1, 2, 0]),
    ],
)
def test_rotated_files_are_in_the_order_of_their_names(
    tmp_path: Path, names: list[str], written_ago: list[int]
) -> None:
    for name, hours in zip(names, written_ago, strict=True):
        (tmp_path / name).write_bytes(b"x\n")
        at = (NOW - timedelta(hours=hours)).timestamp()
        os.utime(tmp_path / name, (at, at))

    found = log_files.log_files(tmp_path / "auth.log")

    assert [file.path.name for file in found] == names
