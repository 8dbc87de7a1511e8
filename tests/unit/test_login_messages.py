"""Framings of syslog daemons, and the messages of services other than OpenSSH about failed logins."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from maintd.checks.logs import log_files, login_messages
from maintd.checks.logs.login_messages import LoginEvent
from maintd.checks.logs.syslog import parse_syslog
from maintd.checks.logs.unfamiliar_logins import LoginForms, LoginTally
from tests.support.effort import grows_in_proportion

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
    tally = LoginTally()

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
    tally = LoginTally()

    assert login_messages.read(program, message, tally) is None
    assert (tally.not_understood, tally.out_of_scope) == (0, 1)


@given(st.sampled_from(["sshd", "dropbear", "sudo", "vsftpd", "proftpd"]), st.text(max_size=200))
def test_any_message_is_read_without_an_error(program: str, message: str) -> None:
    tally = LoginTally()

    login_messages.read(program, message, tally)

    assert tally.total == 1


@pytest.mark.parametrize(
    "part",
    [": RSA-CERT SHA256:k ID z CA RSA SHA256:c", " from 1.2.3.4 port 1", " rhost=1", "\t", ">, rip=1", "[", " user="],
)
@pytest.mark.parametrize(
    "start", ["Failed publickey for ", "authentication failure; logname= uid=0 euid=0 tty= ruser="]
)
def test_the_cost_of_a_hostile_message_grows_with_its_length_only(start: str, part: str) -> None:
    message = start + part * 100_000

    def read(length: int) -> None:
        for program in ("sshd", "vsftpd"):
            login_messages.read(program, message[:length], LoginTally())

    assert grows_in_proportion(read, 6_000, 60_000)


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


# What OpenSSH 9.2 (Debian 12) and 10 (Debian 13), sudo, logind and others write on an ordinary day, beside events.
ORDINARY = [
    ("sshd", "Server listening on 0.0.0.0 port 22."),
    ("sshd", "Server listening on :: port 22."),
    ("sshd", "Received signal 15; terminating."),
    ("sshd", "Received SIGHUP; restarting."),
    ("sshd", f'Connection from {THEM} port 40022 on 10.0.0.1 port 22 rdomain ""'),
    ("sshd", f"Connection closed by {THEM} port 40022 [preauth]"),
    ("sshd", f"Connection closed by authenticating user root {THEM} port 40022 [preauth]"),
    ("sshd", f"Connection reset by {THEM} port 40022 [preauth]"),
    ("sshd", f"Disconnected from user al {THEM} port 40022"),
    ("sshd", f"Received disconnect from {THEM} port 40022:11: disconnected by user"),
    (
        "sshd",
        f"Disconnecting authenticating user al {THEM} port 2: Change of username not allowed",
    ),
    ("sshd", f"Postponed publickey for al from {THEM} port 40022 ssh2 [preauth]"),
    ("sshd", f"Partial publickey for al from {THEM} port 40022 ssh2: ED25519 SHA256:x"),
    ("sshd", "Accepted key ED25519 SHA256:x found at /home/al/.ssh/authorized_keys:1"),
    ("sshd", 'Accepted certificate ID "al" (serial 7) signed by ED25519 CA SHA256:x via /etc/ssh/ca.pub'),
    ("sshd", "Accepted ED25519 public key SHA256:x from al@box.example"),
    ("sshd", "Authorized to al, krb5 principal al@EXAMPLE.COM (krb5_kuserok)"),
    ("sshd", "Root login accepted for forced command."),
    ("sshd", "User child is on pid 4711"),
    ("sshd", f"Starting session: shell on pts/0 for al from {THEM} port 40022 id 0"),
    ("sshd", f"Starting session: subsystem 'sftp' for al from {THEM} port 40022 id 0"),
    ("sshd", f"Close session: user al from {THEM} port 40022 id 0"),
    ("sshd", "subsystem request for sftp by user al"),
    ("sshd", 'Changed root directory to "/srv/al"'),
    ("sshd", "Transferred: sent 4096, received 2048 bytes"),
    ("sshd", f"Closing connection to {THEM} port 40022"),
    ("sshd", f"Timeout before authentication for connection from {THEM} to 10.0.0.1, pid = 4711"),
    ("sshd", f"Timeout, client not responding from user al {THEM} port 40022"),
    ("sshd", f"terminating inactive connection from user al {THEM} port 40022"),
    ("sshd", f"Read error from remote host {THEM} port 40022: Connection timed out"),
    ("sshd", 'error: kex_exchange_identification: client sent invalid protocol identifier "GET / HTTP/1.1"'),
    ("sshd", f"banner exchange: Connection from {THEM} port 2: could not read protocol version"),
    (
        "sshd",
        f"Unable to negotiate with {THEM} port 2: no matching host key type found. Their offer: x",
    ),
    ("sshd", f"ssh_dispatch_run_fatal: Connection from {THEM} port 2: Connection corrupted [preauth]"),
    ("sshd", f"drop connection #10 from [{THEM}]:2 on [10.0.0.1]:22 past MaxStartups"),
    ("sshd", f"drop connection #0 from [{THEM}]:2 on [10.0.0.1]:22 penalty: failed authentication"),
    (
        "sshd",
        f"srclimit_penalise: ipv4: new {THEM}/32 deferred penalty of 5 seconds for penalty: x",
    ),
    ("sshd", "exited MaxStartups throttling after 00:01:12, 5 connections dropped"),
    ("sshd", "beginning MaxStartups throttling"),
    ("sshd", f"Session process 4711 unpriv child crash for connection from {THEM} to 10.0.0.1"),
    ("sshd", f"scanned from {THEM} port 2 with SSH-1.5-NmapNSE_1.0.  Don't panic."),
    ("sshd", f"probed from {THEM} port 2 with SSH-1.5-Server_1.0.  Don't panic."),
    ("sshd", f"reverse mapping checking getaddrinfo for box.example [{THEM}] failed."),
    ("sshd", f"Address {THEM} maps to box.example, but this does not map back to the address."),
    ("sshd", f'Nasty PTR record "box" is set up for {THEM}, ignoring'),
    ("sshd", f"refused local port forward: originator {THEM} port 2, target 10.0.0.9 port 5432"),
    ("sshd", f"Received request from {THEM} port 2 to connect to host 10.0.0.9 port 22, but the request was denied."),
    ("sshd", "bind [127.0.0.1]:8080: Address already in use"),
    ("sshd", f"User root from {THEM} not allowed because not listed in AllowUsers"),
    ("sshd", "User al password has expired (password aged)"),
    ("sshd", "Account al has expired"),
    ("sshd", "Could not open user 'al' authorized keys '/home/al/.ssh/authorized_keys': Permission denied"),
    (
        "sshd",
        f"/home/al/.ssh/authorized_keys:3: Authentication tried for al from a host not permitted ({THEM}).",
    ),
    ("sshd", f"administratively prohibited connection for al from {THEM} port 2"),
    ("sshd", "debug1: userauth-request for user al service ssh-connection method none [preauth]"),
    ("sshd", "rexec line 12: Deprecated option UsePrivilegeSeparation"),
    ("sshd", "pam_unix(sshd:session): session opened for user al(uid=1000) by (uid=0)"),
    ("sshd", "pam_unix(sshd:session): session closed for user al"),
    ("sshd", f"pam_sss(sshd:auth): authentication success; logname= uid=0 euid=0 tty=ssh ruser= rhost={THEM} user=al"),
    ("sshd", "pam_env(sshd:session): deprecated reading of user environment enabled"),
    ("sshd", "pam_systemd(sshd:session): New sd-bus connection (system-bus-pam-systemd-1) opened."),
    ("sshd", "Accepted google_authenticator for al"),
    ("sftp-server", f"session opened for local user al from [{THEM}]"),
    ("internal-sftp", f'open "/srv/a" flags READ mode 0666 from {THEM}'),
    ("dropbear", f"Child connection from {THEM}:40022"),
    ("dropbear", f"Exit (al) from <{THEM}:40022>: Disconnect received"),
    ("dropbear", f"Exit before auth from <{THEM}:40022>: (user 'al', 0 fails): Exited normally"),
    ("sudo", "      al : TTY=pts/0 ; PWD=/home/al ; USER=root ; COMMAND=/usr/bin/apt update"),
    ("sudo", "pam_unix(sudo:session): session opened for user root(uid=0) by al(uid=1000)"),
    ("sudo", f"      al : HOST=box ; TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/usr/bin/ssh accepted@{THEM}"),
    ("su", "(to root) al on pts/0"),
    ("su", "pam_unix(su-l:session): session opened for user root(uid=0) by al(uid=1000)"),
    ("systemd-logind", "New session 7 of user al."),
    ("systemd-logind", "New session '7' of user 'al' with class 'user' and type 'tty'."),
    ("systemd-logind", "Session 7 logged out. Waiting for processes to exit."),
    ("systemd-logind", "Removed session 7."),
    ("systemd-logind", "Watching system buttons on /dev/input/event0 (Power Button)"),
    ("systemd", "pam_unix(systemd-user:session): session opened for user al(uid=1000) by al(uid=0)"),
    ("CRON", "pam_unix(cron:session): session opened for user root(uid=0) by root(uid=0)"),
    ("login", "ROOT LOGIN  on '/dev/tty1'"),
    (
        "polkitd",
        "Operator of unix-session:1 successfully authenticated as unix-user:root to gain authorization",
    ),
    ("polkitd", "Registered Authentication Agent for unix-session:1 (system bus name :1.42 [/usr/bin/gnome-shell])"),
    ("useradd", "new user: name=bo, UID=1001, GID=1001, home=/home/bo, shell=/bin/bash, from=/dev/pts/0"),
    ("passwd", "pam_unix(passwd:chauthtok): password changed for bo"),
    ("sshguard", f'Attack from "{THEM}" on service SSH with danger 10.'),
    ("sshguard", f'Blocking "{THEM}/32" for 120 secs (3 attacks in 5 secs, after 1 abuses over 5 secs.)'),
    ("dovecot", f"imap-login: Login: user=<al>, method=PLAIN, rip={THEM}, lip=10.0.0.1, mpid=7, TLS, session=<x>"),
    ("proftpd", f"box ({THEM}[{THEM}]) - USER al: Login successful."),
    ("webmin", f"Successful login as al from {THEM}"),
    ("openvpn", f"{THEM}:1194 TLS: Initial packet from [AF_INET]{THEM}:1194, sid=12345678 90abcdef"),
]


@pytest.mark.parametrize(("program", "message"), ORDINARY)
def test_no_ordinary_message_is_taken_for_an_unknown_success(program: str, message: str) -> None:
    tally = LoginTally()

    event = login_messages.read(program, message, tally)

    assert event is None or event.kind != "accepted"
    assert tally.possible_successes == 0


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("sshd", f"Angenommenes Kennwort für root von {THEM}"),
        ("sshd", f"Login granted: root via password, {THEM}"),
        ("sshd", f"Accepted password for root from {THEM}"),
        ("sshd-session", f"User root authenticated by password from {THEM} port 2"),
        ("sshd-session", "Session of user root begins (2001:db8::7)"),
        ("gitlab-sshd", f"connection authenticated for git, {THEM}"),
        ("tinysshd", f"root from {THEM}: welcome"),
        ("dropbear", f"One-time code of 'root' accepted, {THEM}:40022"),
        ("dropbear", f"Keyboard auth succeeded for 'root' via {THEM}:40022"),
        ("sshd", f"Accepted password for failed from {THEM}"),  # a name is no word of a failure where success is one
        ("remoted", f"Accepted password for root from {THEM} port 2 ssh2"),
        ("in.telnetd", f"root logged in from {THEM}"),
        ("", f"@400000006755d2f0 sshd[7]: Accepted password for root from {THEM} port 2 ssh2"),
    ],
)
def test_one_message_of_unknown_form_may_be_a_success(program: str, message: str) -> None:
    tally = LoginTally()

    event = login_messages.read(program, message, tally)

    assert event is None
    assert (tally.possible_successes, tally.not_understood) == (1, 1)
    assert message[:20] in tally.success_samples[0]


@pytest.mark.parametrize(
    ("message", "method", "key"),
    [
        (f"Accepted gssapi-with-mic for al from {THEM} port 2 ssh2: al@EXAMPLE.COM", "gssapi-with-mic", ""),
        (
            f'Accepted hostbased for al from {THEM} port 2 ssh2: ED25519 SHA256:x, client user " from {NOT_THEM}"',
            "hostbased",
            "ED25519 SHA256:x",
        ),
        (f"Accepted publickey for al from {THEM} port 2 ssh2: ED25519-SK SHA256:x", "publickey", "ED25519-SK SHA256:x"),
        (f"Accepted keyboard-interactive/pam for al from {THEM} port 2 ssh2", "keyboard-interactive/pam", ""),
    ],
)
def test_a_success_is_read_with_whatever_follows_the_address(message: str, method: str, key: str) -> None:
    assert login_messages.parse("sshd", message) == LoginEvent("accepted", "al", THEM, method, key)


def test_a_refused_login_of_root_is_counted() -> None:
    event = login_messages.parse("sshd", f"ROOT LOGIN REFUSED FROM {THEM} port 40022 [preauth]")

    assert event == LoginEvent("disconnected", "", THEM)


def test_the_operator_describes_forms_of_logins() -> None:
    forms = LoginForms(
        accepted=(r"welcome (?P<user>\S+) from (?P<address>\S+)",),
        failed=(r"go away (?P<user>.*) from (?P<address>\S+)",),
        ignored=(r"user \S+ has mail from \S+",),
    )
    tally = LoginTally(forms=forms)

    found = [
        login_messages.read("sshd", message, tally)
        for message in (
            f"welcome al from {THEM}",
            f"go away x from {NOT_THEM} from {THEM}",
            f"user al has mail from {THEM}",
            f"and welcome al from {THEM}",
        )
    ]

    assert found == [LoginEvent("accepted", "al", THEM), LoginEvent("failed", f"x from {NOT_THEM}", THEM), None, None]
    assert (tally.understood, tally.out_of_scope, tally.possible_successes) == (2, 1, 1)


@pytest.mark.parametrize("forms", [{"accepted": ["welcome (.*)"]}, {"ignored": ["("]}, {"failed": ["x"]}, {"more": []}])
def test_a_form_that_cannot_be_used_is_an_error(forms: dict[str, list[str]]) -> None:
    with pytest.raises(ValidationError):
        LoginForms.model_validate(forms)
