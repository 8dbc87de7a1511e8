"""Who has access: logins of the month, a host's accounts, keys and rights, Postgres, Grafana, and the sign-off."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clock import now_within_a_day
from support.http_services import http_service, json_reply
from support.job_runs import JobResult, run_job
from support.servers.base import wait_for
from support.servers.maintd import RunningDaemon, maintd_daemon
from support.servers.postgres import BIN, PostgresServer
from support.users import as_unprivileged_user, folder_for_all

from maintd.checks.access import grafana_accounts
from maintd.checks.access.accounts import read_shadow
from maintd.checks.access.keys import parse
from maintd.checks.access.table import Access, digest_of, from_csv, from_note, note_of, rows_of, to_csv
from maintd.errors import UsageError
from maintd.job.attempt_info import Point
from maintd.model.access import Role, Token
from maintd.model.evidence import CheckStatus
from maintd.model.run import DecisionKind, GateDecision
from maintd.model.target import HttpTarget

OK, WARN, FAIL, UNKNOWN = CheckStatus.OK, CheckStatus.WARN, CheckStatus.FAIL, CheckStatus.UNKNOWN
pytestmark = pytest.mark.usefixtures("own_now")

NOW = now_within_a_day()
DAY = timedelta(days=1)
ROLES = Path(__file__).parents[2] / "deploy/roles.sql"
HASH = "$6$salt$0123456789abcdefHASHHASH"
KEPT = "logins: kept by the daily reviews"
UNUSED = "host local: accounts with a shell and no login for 90 days"
UNUSED_KEYS = "host local: keys that were not used for 90 days"


def packed(*parts: bytes) -> str:
    return base64.b64encode(b"".join(struct.pack(">I", len(part)) + part for part in parts)).decode()


def ed25519(number: int) -> str:
    return f"ssh-ed25519 {packed(b'ssh-ed25519', bytes([number]) * 32)}"


def fingerprint(number: int) -> str:
    key = parse("x", ed25519(number))
    assert key is not None
    return key.fingerprint


class Host:
    """A host on which all is in order."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.passwd = [
            "root:x:0:0::/root:/bin/bash",
            "daemon:x:1:1::/:/usr/sbin/nologin",
            "al:x:1000:1000::/home/al:/bin/sh",
        ]
        self.groups = ["root:x:0:", "sudo:x:27:al", "docker:x:999:"]
        self.shadow = ["root:*:20000:0:99999:7:::", f"al:{HASH}:20000:0:365:7:::"]
        self.write("home/al/.ssh/authorized_keys", f"# mine\n{ed25519(1)} al@laptop\n")
        self.write(
            "etc/sudoers",
            "Defaults env_reset\nroot ALL=(ALL:ALL) ALL\n%sudo ALL=(ALL) ALL\n@includedir /etc/sudoers.d\n",
        )
        self.write("etc/sudoers.d/README", "#comment\n")
        self.save()

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, errors="surrogateescape")
        return path

    def save(self) -> None:
        for name, lines in (("passwd", self.passwd), ("group", self.groups), ("shadow", self.shadow)):
            self.write(f"etc/{name}", "\n".join(lines) + "\n")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "host")


def kept(days: int, *logins: tuple[str, str, str, str, int], **more: float) -> dict[str, dict[str, list[Point]]]:
    """What daily reviews have kept for so many days; a login is user, source, key, method and days ago."""
    ago = range(days, -1, -1)
    of_job = {
        "logins_counted_from": [Point(NOW - each * DAY, (NOW - (each + 1) * DAY).timestamp()) for each in ago],
        "reviewed_until": [
            Point(NOW - each * DAY, (NOW - each * DAY).timestamp(), {"source": "logins"}) for each in ago
        ],
        "logins_accepted": [
            Point(NOW - each * DAY, 1, {"user": user, "source": source, "key": key, "method": method})
            for user, source, key, method, each in sorted(logins, key=lambda login: -login[-1])
        ],
    }
    return {"security_log_review": of_job | {name: [Point(NOW, value)] for name, value in more.items()}}


def mine(ago: int = 1, user: str = "al") -> tuple[str, str, str, str, int]:
    return user, "192.0.2.7", f"ED25519 {fingerprint(1)}", "publickey", ago


CONSOLE = [("root", "console", "", "password", days) for days in (60, 3)]
ALL = kept(100, mine(), mine(60), *CONSOLE)


def review(host: Host | None, series_of: Mapping[str, Any] = ALL, **params: Any) -> JobResult:
    attempt = {name: params.pop(name) for name in ("series", "targets", "tokens", "folder") if name in params}
    root = {"root": str(host.root)} if host is not None else {}
    return run_job("access_review", {**root, **params}, series_of=series_of, **({"tokens": ()} | attempt))


def not_ok(result: JobResult) -> dict[str, CheckStatus]:
    return {check.name: check.status for check in result.checks if check.status is not OK}


def everything(result: JobResult) -> str:
    return result.text() + "".join(Path(artifact.path).read_text() for artifact in result.artifacts)


def table(result: JobResult) -> list[dict[str, str]]:
    path = next(artifact.path for artifact in result.artifacts if artifact.name == "access-review.csv")
    return list(csv.DictReader(io.StringIO(Path(path).read_text())))


# --- the host -----------------------------------------------------------------------------------------------------


def test_a_host_in_order_passes_and_each_access_is_listed_without_any_hash(host: Host) -> None:
    result = review(host)

    assert (result.outcome, not_ok(result)) == ("succeeded", {}), result.text()
    shown = {(row["kind"], row["name"]): row["last used"] for row in table(result)}
    assert set(shown) == {
        ("account", "al"),
        ("account", "root"),
        ("group member", "sudo: al"),
        ("key", f"al: {fingerprint(1)}"),
        ("sudo rule", "%sudo"),
        ("sudo rule", "root"),
    }
    assert shown["key", f"al: {fingerprint(1)}"] == f"{NOW - DAY:%Y-%m-%d}"
    assert "HASHHASH" not in everything(result)
    assert "salt" not in everything(result)


@pytest.mark.parametrize(
    ("name", "change", "status"),
    [
        ("accounts with uid 0 beside root", "toor:x:0:0::/root:/bin/sh", FAIL),
        ("system accounts with a shell", "www:x:33:33::/var/www:/bin/sh", WARN),
    ],
)
def test_an_account_that_must_not_be_is_named_with_the_change(
    host: Host, name: str, change: str, status: CheckStatus
) -> None:
    host.passwd.append(change)
    host.save()
    check = review(host).check(f"host local: {name}")
    assert (check.status, check.observed) == (status, change.partition(":")[0])
    assert "on the host: user" in check.hint
    assert check.rule


@pytest.mark.parametrize(
    ("line", "name", "status"),
    [
        ("al::20000:0:365:7:::", "empty passwords", FAIL),
        (f"al:{HASH}:20000:0:99999:7:::", "passwords that never expire", WARN),
        ("al:$1$salt$HASHHASH:20000:0:365:7:::", "passwords with a weak hash", WARN),
        ("al:!:20000:0:99999:7:::", "", OK),
    ],
)
def test_of_a_password_only_its_kind_is_reported(host: Host, line: str, name: str, status: CheckStatus) -> None:
    host.shadow[1] = line
    host.save()
    result = review(host)
    assert not_ok(result) == ({f"host local: {name}": status} if name else {}), result.text()
    assert "HASHHASH" not in everything(result)


PASSWORDS = ("empty passwords", "passwords that never expire", "passwords with a weak hash")


def test_an_empty_password_in_passwd_fails_whether_or_not_shadow_can_be_read(host: Host) -> None:
    host.passwd.append("bob::1001:1001::/nonexistent:/bin/bash")
    host.save()
    check = review(host).check("host local: empty passwords")
    assert (check.status, check.observed) == (FAIL, "bob")
    (host.root / "etc/shadow").unlink()
    result = review(host)
    assert result.check("host local: empty passwords").status is FAIL
    assert result.check("host local: passwords").status is UNKNOWN


@pytest.mark.parametrize(("field", "weak"), [("$1$salt$HASHHASH", "bob: md5"), ("*", "none")])
def test_a_password_in_passwd_itself_needs_no_line_in_shadow(host: Host, field: str, weak: str) -> None:
    host.passwd.append(f"bob:{field}:1001:1001::/nonexistent:/bin/bash")
    host.save()
    result = review(host)
    assert result.check("host local: passwords with a weak hash").observed == weak
    assert "host local: passwords" not in not_ok(result)
    assert "HASHHASH" not in everything(result)


def test_an_account_with_a_shell_and_no_line_in_shadow_is_named_and_nothing_is_known_of_its_password(
    host: Host,
) -> None:
    host.write("etc/shadow", "")
    result = review(host)
    assert not_ok(result) == {f"host local: {name}": UNKNOWN for name in ("passwords", *PASSWORDS)}, result.text()
    for name in PASSWORDS:
        assert result.check(f"host local: {name}").observed == "unknown: partial: shadow: root: no line; al: no line"


def test_the_kind_of_a_password_counts_also_in_a_short_line_and_the_line_is_named(host: Host) -> None:
    host.shadow = ["root:$1$salt$HASHHASH", "al::", "nonsense", ":$6$a:1:0:365:7:::"]
    host.save()
    result = review(host)
    assert not_ok(result) == {
        "host local: passwords": UNKNOWN,
        "host local: empty passwords": FAIL,
        "host local: passwords that never expire": UNKNOWN,
        "host local: passwords with a weak hash": WARN,
    }, result.text()
    named = [f"{name}: damaged line" for name in ("root", "al", "shadow line 3", "shadow line 4")]
    assert result.check("host local: passwords").observed == f"unknown: partial: shadow: {'; '.join(named)}"
    assert "HASHHASH" not in everything(result)


@pytest.mark.parametrize("field", ["x", "plain text", "$unheard$of$HASHHASH", "0123456789ab:", "a b c d e f g"])
def test_a_password_of_no_known_form_is_named_and_its_hash_is_not_known_to_be_strong(host: Host, field: str) -> None:
    host.shadow[1] = f"al:{field.rstrip(':')}:20000:0:365:7:::"
    host.save()

    result = review(host)

    names = ("passwords", "passwords with a weak hash")
    assert not_ok(result) == {f"host local: {name}": UNKNOWN for name in names}, result.text()
    assert all("al: no known kind of hash" in str(result.check(f"host local: {name}").observed) for name in names)
    assert "HASHHASH" not in everything(result)


def test_a_copy_of_shadow_with_the_kinds_of_the_hashes_only_is_enough(host: Host) -> None:
    host.shadow = ["root:*:20000:0:99999:7:::", "al:$y$:20000:0:365:7:::"]
    host.save()
    assert not_ok(review(host)) == {}
    host.shadow[1] = "al:$1$:20000:0:365:7:::"
    host.save()
    assert not_ok(review(host)) == {"host local: passwords with a weak hash": WARN}


def test_a_password_that_never_expires_warns_also_if_its_kind_is_not_known(host: Host) -> None:
    host.shadow[1] = "al:x:20000:0:99999:7:::"
    host.save()
    assert not_ok(review(host))["host local: passwords that never expire"] is WARN


@pytest.mark.parametrize("uid", ["9" * 5000, "4294967296", "٣", "²", "-1", ""])
def test_a_uid_that_is_none_is_a_damaged_line_and_the_host_is_still_reviewed(host: Host, uid: str) -> None:
    host.passwd.append(f"bob:x:{uid}:1001::/nonexistent:/bin/bash")
    host.groups.append(f"ops:x:{uid}:al")
    host.save()
    result = review(host)
    unseen = ("lines of passwd and group", "accounts with uid 0 beside root", "system accounts with a shell")
    assert not_ok(result) == {f"host local: {name}": UNKNOWN for name in unseen}, result.text()
    check = result.check("host local: lines of passwd and group")
    assert check.observed == "unknown: unfamiliar: passwd line 4; group line 4"
    assert ("account", "al") in {(row["kind"], row["name"]) for row in table(result)}


def test_an_age_of_5000_digits_in_shadow_is_no_end(host: Host) -> None:
    host.shadow[1] = f"al:{HASH}:20000:0:{'9' * 5000}:7:::"
    host.save()
    assert not_ok(review(host)) == {"host local: passwords that never expire": WARN}


def test_keys_have_fingerprints_of_ssh_keygen_options_without_values_and_weak_types(host: Host, tmp_path: Path) -> None:
    weak = "ssh-rsa " + packed(b"ssh-rsa", b"\x01\x00\x01", b"\x00\x80" + bytes(127))
    dsa = f"ssh-dss {packed(b'ssh-dss', *[bytes([1]) * 20] * 4)}"
    restricted = f'restrict,command="/bin/send --token s3cret \\"x y\\"",from="10.*" {ed25519(1)} back up'
    path = host.write("home/al/.ssh/authorized_keys", "\n".join([weak, dsa, restricted, ""]))

    result = review(host)

    check = result.check("host local: weak keys")
    assert check.status is WARN
    assert "RSA with 1024 bits" in str(check.observed)
    assert "DSA" in str(check.observed)
    row = next(row for row in table(result) if row["name"] == f"al: {fingerprint(1)}")
    assert row["rights"] == "ssh-ed25519, back up, options restrict,command,from"
    assert "s3cret" not in everything(result)
    path.write_text(ed25519(1) + "\n")
    listed = (
        subprocess.run(["ssh-keygen", "-lf", path], capture_output=True, text=True, check=False) if _keygen() else None
    )
    assert listed is None or fingerprint(1) in listed.stdout


def _keygen() -> bool:
    return any((Path(folder) / "ssh-keygen").exists() for folder in ("/usr/bin", "/bin"))


@given(st.text(st.characters(exclude_characters="\n"), max_size=60))
def test_any_line_of_a_file_is_read_or_named(text: str) -> None:
    for line in (text, f"ssh-rsa {text}", f"{text} {ed25519(1)}"):
        key = parse("al", line)
        assert key is None or key.fingerprint.startswith("SHA256:")
    assert all(len(each.kind) < 20 for each in read_shadow([text, f"al:{text}:1:2:3:4:5:6:7"])[0].values())


def test_a_line_that_is_no_key_and_a_file_that_is_a_link_are_unknown(host: Host) -> None:
    host.write("home/al/.ssh/authorized_keys", "ssh-ed25519 AAAA\n")
    assert not_ok(review(host))["host local: keys in authorized_keys"] is UNKNOWN
    path = host.root / "home/al/.ssh/authorized_keys"
    path.unlink()
    path.symlink_to("/etc/hostname")
    assert "is a link" in str(review(host).check("host local: keys in authorized_keys").observed)


@pytest.mark.parametrize("fault", ["a line", "a link", "denied"])
def test_no_key_is_weak_or_unused_only_if_all_could_be_read(fault: str) -> None:
    with folder_for_all() as folder:
        host = Host(folder / "host")
        path = host.write("root/.ssh/authorized_keys", "ssh-ed25519 AAAA\n")
        if fault == "a link":
            path.unlink()
            path.symlink_to("/etc/hostname")
        with as_unprivileged_user(folder):
            if fault == "denied":
                path.chmod(0)
            result = review(host, folder=folder / "artifacts")

    expected = dict.fromkeys(("keys in authorized_keys", "weak keys", UNUSED_KEYS.partition(": ")[2]), UNKNOWN)
    found = {name.partition(": ")[2]: status for name, status in not_ok(result).items() if "key" in name}
    assert found == expected, result.text()


@pytest.mark.parametrize("link", ["/data/al", "../../outside", "{outside}", "al", "..//../outside/./", "/etc/passwd"])
def test_a_home_that_is_a_link_to_nothing_below_the_root_is_unknown_and_nothing_outside_is_read(
    host: Host, tmp_path: Path, link: str
) -> None:
    outside = tmp_path / "outside/.ssh"
    outside.mkdir(parents=True)
    (outside / "authorized_keys").write_text(f"{ed25519(7)} of this machine\n")
    (host.root / "home/al").rename(host.root / "home/before")
    (host.root / "home/al").symlink_to(link.format(outside=outside.parent))
    result = review(host)
    check = result.check("host local: keys in authorized_keys")
    assert check.status is UNKNOWN
    assert ("al: unfamiliar" in str(check.observed)) or ("Too many levels" in str(check.observed))
    assert fingerprint(7) not in everything(result)


@pytest.mark.parametrize("link", ["/data/al", "../data/al", "../../../data/al", "/data/of/../al", "/hop/al"])
def test_a_home_that_is_a_link_to_a_folder_below_the_root_is_read_as_on_the_host(host: Host, link: str) -> None:
    (host.root / "data/of").mkdir(parents=True)
    (host.root / "hop").symlink_to("/data")
    (host.root / "home/al").rename(host.root / "data/al")
    (host.root / "home/al").symlink_to(link)
    host.passwd.append("no:x:1002:1002::/home/al/none:/usr/sbin/nologin")
    host.save()
    result = review(host)
    check = result.check("host local: keys in authorized_keys")
    assert (check.status, check.observed) == (OK, "1 read"), result.text()
    assert f"al: {fingerprint(1)}" in {row["name"] for row in table(result)}


def test_the_keys_of_an_account_whose_home_is_the_root_are_those_of_the_host(host: Host) -> None:
    assert "daemon:x:1:1::/:/usr/sbin/nologin" in host.passwd
    host.write(".ssh/authorized_keys", f"{ed25519(3)}\n")
    assert f"daemon: {fingerprint(3)}" in {row["name"] for row in table(review(host))}


@pytest.mark.parametrize("what", ["sudoers.d", "etc"])
def test_a_link_that_leads_out_of_the_root_is_not_taken_for_a_host_without_rules(
    host: Host, tmp_path: Path, what: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "evil").write_text("mallory ALL=(ALL) NOPASSWD: ALL\n")
    path = host.root / ("etc" if what == "etc" else "etc/sudoers.d")
    path.rename(host.root / "before")
    path.symlink_to(outside)
    result = review(host)
    unknown = ["accounts"] if what == "etc" else ["sudoers", "sudo without a password"]
    assert not_ok(result) == {f"host local: {name}": UNKNOWN for name in unknown}
    assert "mallory" not in everything(result)


def test_a_folder_of_sudo_rules_that_is_not_there_has_none(host: Host) -> None:
    (host.root / "etc/sudoers.d/README").unlink()
    (host.root / "etc/sudoers.d").rmdir()
    assert not_ok(review(host)) == {}


def test_what_was_not_used_for_90_days_warns_only_if_all_of_that_time_was_seen(host: Host) -> None:
    unused = {UNUSED: WARN, UNUSED_KEYS: WARN}
    late = review(host, kept(100, mine(95), *CONSOLE))
    assert not_ok(late) == unused, late.text()
    assert late.check(UNUSED).observed == "al"
    assert "usermod -L -e 1 al" in late.check(UNUSED).hint

    short = review(host, kept(40, ("root", "console", "", "password", 38)))

    assert not_ok(short) == dict.fromkeys(unused, UNKNOWN), short.text()
    assert "kept without a gap only since" in str(short.check(UNUSED).observed)


def test_sudo_is_read_with_its_includes_aliases_and_options(host: Host) -> None:
    host.write(
        "etc/sudoers.d/10-all",
        "User_Alias OPS = bob, \\\n  eve\nOPS ALL=(ALL) NOPASSWD: ALL\n"
        '"domain user" ALL=(root) NOPASSWD: /usr/bin/send --token=s3cret\n#1000 ALL=ALL\n',
    )
    host.write("etc/sudoers.d/left.dpkg-old", "mallory ALL=(ALL) NOPASSWD: ALL\n")

    result = review(host)

    check = result.check("host local: sudo without a password")
    assert (check.status, str(check.observed).count("without a password")) == (WARN, 3), result.text()
    assert "domain user: some commands" in str(check.observed)
    assert {row["name"] for row in table(result) if row["kind"] == "sudo rule"} == {
        *("#1000", "%sudo", "bob", "domain user", "eve", "root")
    }
    assert "s3cret" not in everything(result)
    assert "mallory" not in everything(result)


def test_sudoers_that_may_not_be_read_or_are_not_understood_are_unknown() -> None:
    with folder_for_all() as folder:
        host = Host(folder / "host")
        (host.root / "etc/sudoers").chmod(0)
        (host.root / "etc/shadow").chmod(0)
        with as_unprivileged_user(folder):
            denied = review(host, folder=folder / "artifacts")
        assert not_ok(denied) == {"host local: sudoers": UNKNOWN, "host local: passwords": UNKNOWN}, denied.text()
        assert "denied" in str(denied.check("host local: sudoers").observed)
        (host.root / "etc/sudoers").chmod(0o600)
        (host.root / "etc/shadow").chmod(0o600)
        host.write("etc/sudoers", "this is no rule\n@include sudoers\n")
        assert not_ok(review(host)) == {
            "host local: sudoers": UNKNOWN,
            "host local: sudo without a password": UNKNOWN,
        }


def test_users_with_a_space_and_with_unicode_are_shown_and_control_characters_are_not(host: Host) -> None:
    host.passwd += ["jörg müller:x:1001:1001::/home/j:/bin/sh", "e\x1b[31m:x:1002:1002::/nonexistent:/bin/sh"]
    host.groups[2] = "docker:x:999:jörg müller"
    host.save()
    result = review(host, kept(100, mine(), mine(1, "root"), mine(2, "jörg müller"), mine(2, "e\\x1b[31m")))
    names = {row["name"] for row in table(result)}
    assert {"jörg müller", "docker: jörg müller", "e\\x1b[31m"} <= names
    assert "\x1b" not in everything(result)
    assert (
        next(row for row in table(result) if row["name"] == "jörg müller")["last used"] == f"{NOW - 2 * DAY:%Y-%m-%d}"
    )


def test_without_a_host_or_logins_nothing_is_green() -> None:
    result = review(None, {}, targets={"host": {}})
    assert getattr(result.error, "cause", "") == "not_configured", result.text()
    assert not result.checks


def test_a_host_of_which_nothing_can_be_read_is_no_host_that_is_not_configured(tmp_path: Path) -> None:
    result = review(None, {}, targets={"host": {"local": {"root": str(tmp_path)}}})

    assert getattr(result.error, "cause", "") == "failed", result.text()
    assert result.check(KEPT).status is UNKNOWN


def test_a_damaged_passwd_is_unknown_and_a_missing_one_too(host: Host) -> None:
    host.write("etc/passwd", "root:x:0:0::/root:/bin/bash\nnonsense\n")
    assert not_ok(review(host))["host local: lines of passwd and group"] is UNKNOWN
    (host.root / "etc/passwd").unlink()
    assert not_ok(review(host))["host local: accounts"] is UNKNOWN


# --- logins -------------------------------------------------------------------------------------------------------


def test_logins_of_the_month_are_counted_by_user_source_key_and_method_and_new_ones_named(host: Host) -> None:
    other = ("al", "198.51.100.9", "", "password", 2)
    result = review(host, kept(100, mine(1), mine(2), mine(60), ("root", "console", "", "password", 80), other))

    assert not_ok(result) == {"logins: new users, sources and keys of the month": WARN}, result.text()
    assert "al from 198.51.100.9, password" in str(
        result.check("logins: new users, sources and keys of the month").observed
    )
    kept_logins = json.loads(next(Path(a.path).read_text() for a in result.artifacts if a.name == "access-logins.json"))
    counts = {(each["user"], each["source"], each["method"]): each["logins"] for each in kept_logins}
    assert counts["al", "192.0.2.7", "publickey"] == 2, "that of 60 days ago is not of the month"
    assert result.measure("access_logins") == 3


@pytest.mark.parametrize("fault", ["gap", "old", "others", "not understood"])
def test_a_month_that_was_not_seen_as_a_whole_is_unknown(host: Host, fault: str) -> None:
    series = kept(100, mine(), mine(1, "root"))
    job = series["security_log_review"]
    if fault == "gap":
        for name in ("logins_counted_from", "reviewed_until"):
            del job[name][80:90]
    elif fault == "old":
        for name in ("logins_counted_from", "reviewed_until"):
            del job[name][-4:]
    else:
        job["logins_accepted_others" if fault == "others" else "logins_not_understood"] = [Point(NOW, 3)]
    assert review(host, series).check(KEPT).status is UNKNOWN


@pytest.mark.parametrize("form", ["rfc3339", "rfc3164"])
def test_the_daily_review_keeps_each_login_once_of_both_formats_of_time(tmp_path: Path, form: str) -> None:
    log = tmp_path / "auth.log"

    def line(at: datetime, message: str) -> str:
        return f"{at.isoformat() if form == 'rfc3339' else f'{at:%b %e %H:%M:%S}'} web sshd[7]: {message}\n"

    key = f"Accepted publickey for al from 192.0.2.7 port 2 ssh2: ED25519 {fingerprint(1)}"
    times = [NOW - timedelta(hours=hours) for hours in (20, 3, 2)]
    log.write_text(
        "".join(line(at, key) for at in times)
        + line(NOW - timedelta(hours=1), "Accepted password for al from 192.0.2.8 port 2 ssh2")
    )
    params = {"requests": False, "auth_log": str(log), "timezone": "UTC"}
    targets = {"host": {"main": {"root": str(tmp_path)}}}
    last = NOW - timedelta(hours=10)

    first = run_job("security_log_review", params, targets)
    later = run_job(
        "security_log_review",
        params,
        targets,
        series={"reviewed_until": [Point(last, last.timestamp(), {"source": "logins"})]},
    )

    labels = {"user": "al", "source": "192.0.2.7", "key": f"ED25519 {fingerprint(1)}", "method": "publickey"}
    assert first.measure("logins_accepted", **labels) == 3, first.text()
    assert later.measure("logins_accepted", **labels) == 2, "the review before has counted one"
    assert later.measure("logins_accepted", method="password") == 1
    assert later.measure("logins_counted_from") == pytest.approx(last.timestamp(), abs=1)


# --- Postgres, Grafana, files, tokens -----------------------------------------------------------------------------


def test_roles_of_postgres_are_read_with_the_login_of_roles_sql(own_postgres: PostgresServer) -> None:
    url = own_postgres.create("trading")
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("CREATE ROLE trader LOGIN; CREATE ROLE \"od'd; --\" LOGIN CREATEROLE VALID UNTIL '2020-01-01'")
        conn.execute("CREATE ROLE boss LOGIN SUPERUSER; CREATE ROLE loader LOGIN; CREATE ROLE team")
        conn.execute("GRANT pg_execute_server_program TO team; GRANT team TO loader")
    variables = ["-v", "owner=trader", "-v", "ro_password='a'", "-v", "op_password='b'"]
    subprocess.run([BIN / "psql", url, *variables, "-f", ROLES], check=True, capture_output=True)
    targets = {"postgres": {"main": {"dsn": url.replace("postgres@", "maintd_ro@")}}}

    with psycopg.connect(url.replace("postgres@", "trader@"), autocommit=True):
        result = review(None, ALL, targets=targets)

    shown = {row["name"]: (row["rights"], row["last used"]) for row in table(result)}
    assert result.check("postgres main: superusers that can log in").observed == "boss", result.text()
    strong = str(result.check("postgres main: roles with powerful rights").observed)
    assert "loader: member of pg_execute_server_program" in strong
    assert "od'd; --" in str(result.check("postgres main: roles whose password has ended").observed)
    assert shown["trader"] == ("login", f"{datetime.now(UTC):%Y-%m-%d}")
    assert shown["loader"][1].startswith("unknown")
    later = review(
        None,
        ALL,
        targets=targets,
        series={"role_seen": [Point(NOW, (NOW - 9 * DAY).timestamp(), {"place": "postgres main", "role": "loader"})]},
    )
    assert next(row for row in table(later) if row["name"] == "loader")["last used"] == f"{NOW - 9 * DAY:%Y-%m-%d}"


def test_no_role_is_powerful_only_if_all_roles_were_read(own_postgres: PostgresServer) -> None:
    url = own_postgres.create("trading")
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("DO $$ BEGIN FOR i IN 1..1001 LOOP EXECUTE format('CREATE ROLE r%s LOGIN', i); END LOOP; END $$")

    result = review(None, ALL, targets={"postgres": {"main": {"dsn": url}}})

    unknown = {name for name, status in not_ok(result).items() if status is UNKNOWN and name.startswith("postgres")}
    names = ("all roles", "superusers that can log in", "roles with powerful rights", "roles whose password has ended")
    assert unknown == {f"postgres main: {name}" for name in names}, result.text()


USERS = [
    {
        "orgId": 1,
        "userId": 1,
        "login": "admin",
        "role": "Admin",
        "lastSeenAt": f"{NOW:%Y-%m-%dT%H:%M:%SZ}",
        "isDisabled": False,
    },
    {
        "orgId": 1,
        "userId": 2,
        "login": "gone",
        "role": "Viewer",
        "lastSeenAt": "2016-01-01T00:00:00Z",
        "isDisabled": False,
    },
]
ACCOUNTS = {
    "totalCount": 1,
    "serviceAccounts": [{"id": 4, "name": "maintd", "role": "Viewer", "isDisabled": False, "tokens": 1}],
}
TOKENS = [
    {
        "id": 1,
        "name": "t1",
        "created": "2024-01-01T00:00:00Z",
        "lastUsedAt": None,
        "expiration": None,
        "hasExpired": False,
    }
]


def test_accounts_of_grafana_have_their_age_and_last_use_and_what_is_denied_is_unknown(host: Host) -> None:
    replies = {
        "/api/org/users": json_reply(USERS),
        "/api/serviceaccounts/search": json_reply(ACCOUNTS),
        "/api/serviceaccounts/4/tokens": json_reply(TOKENS),
        "/api/auth/keys": json_reply({"message": "Not found"}, 404),
    }
    with http_service(replies) as url:
        result = review(host, grafana="g", targets={"http": {"g": {"url": url}}})
    assert not_ok(result) == {"grafana g: not used for 90 days": WARN, "grafana g: tokens that never expire": WARN}
    assert result.check("grafana g: not used for 90 days").observed == "user gone; token maintd / t1"
    denied = json_reply({"message": "You'll need additional permissions", "accessErrorId": "ACE1"}, 403)
    with http_service({**replies, "/api/serviceaccounts/search": denied, "/api/auth/keys": denied}) as url:
        result = review(host, grafana="g", targets={"http": {"g": {"url": url}}})
    unknown = {name for name, status in not_ok(result).items() if status is UNKNOWN}
    # Tokens are of service accounts: whether one never expires is not known.
    parts = ("service accounts", "API keys", "tokens that never expire")
    assert unknown == {f"grafana g: {part}" for part in parts}, result.text()
    assert "serviceaccounts:read" in result.check("grafana g: service accounts").hint


def grafana_review(host: Host, replies: Mapping[str, Any], timeout: str = "10s") -> JobResult:
    base = {"/api/org/users": json_reply(USERS[:1]), "/api/auth/keys": json_reply({"message": "Not found"}, 404)}
    with http_service({**base, **replies}) as url:
        return review(host, grafana="g", targets={"http": {"g": {"url": url, "timeout": timeout}}})


def service_accounts(*names: str) -> Any:
    listed = [{"id": number, "name": name, "role": "Viewer"} for number, name in enumerate(names)]
    return json_reply({"totalCount": len(listed), "serviceAccounts": listed})


def tokens(*names: str) -> Any:
    return json_reply([{**TOKENS[0], "name": name} for name in names])


def test_each_token_is_in_the_table_also_if_service_accounts_of_grafana_have_the_same_name(host: Host) -> None:
    replies = {
        "/api/serviceaccounts/search": service_accounts("same", "same", "same (id 0)", "same / t0"),
        **{f"/api/serviceaccounts/{number}/tokens": tokens(f"t{number}") for number in range(4)},
    }

    result = grafana_review(host, replies)

    names = {row["name"] for row in table(result) if row["kind"] == "token"}
    assert names == {
        "same (id 0) / t0",
        "same (id 1) / t1",
        "same (id 0) (id 2) / t2",
        "same / t0 (id 3) / t3",
    }
    accounts = [row for row in table(result) if row["kind"] == "service account"]
    assert len({row["name"] for row in accounts}) == 4


@pytest.mark.parametrize("answer", [None, [], {}, "", 0, [None], [{}]])
def test_an_answer_of_grafana_that_is_not_its_list_is_never_0_accounts(host: Host, answer: object) -> None:
    paths = ("/api/org/users", "/api/serviceaccounts/search", "/api/auth/keys")

    result = grafana_review(host, {path: json_reply(answer) for path in paths})

    unknown = {name for name, status in not_ok(result).items() if status is UNKNOWN}
    parts = {"users", "service accounts", "not used for 90 days", "tokens that never expire"}
    parts |= {"API keys"} if answer != [] else set()  # an empty list is that of a Grafana without keys
    assert unknown == {f"grafana g: {part}" for part in parts}, result.text()
    for name in unknown:
        assert "permission" not in result.check(name).hint


@pytest.mark.parametrize("answer", [None, {}, [{}]])
def test_tokens_of_grafana_that_were_not_understood_are_not_none(host: Host, answer: object) -> None:
    replies = {
        "/api/serviceaccounts/search": service_accounts("a"),
        "/api/serviceaccounts/0/tokens": json_reply(answer),
    }

    result = grafana_review(host, replies)

    parts = ("tokens of service account a", "not used for 90 days", "tokens that never expire")
    assert not_ok(result) == {f"grafana g: {part}": UNKNOWN for part in parts}, result.text()


def test_a_grafana_that_hangs_for_tokens_is_named_and_the_review_goes_on(host: Host) -> None:
    stopped = threading.Event()

    def hang() -> Any:
        stopped.wait(60)
        return json_reply([])

    names = [f"s{number}" for number in range(60)]
    replies = {
        "/api/serviceaccounts/search": service_accounts(*names),
        "/api/serviceaccounts/0/tokens": tokens("t0"),
        **{f"/api/serviceaccounts/{number}/tokens": hang for number in range(1, 60)},
    }
    try:
        with_answers = {**replies, "/api/org/users": json_reply(USERS[:1])}
        with http_service({**with_answers, "/api/auth/keys": json_reply([])}) as url:
            result = review(host, grafana="g", targets={"http": {"g": {"url": url, "timeout": "500ms"}}})
            stopped.set()
    finally:
        stopped.set()

    check = result.check("grafana g: tokens of all service accounts")
    assert check.status is UNKNOWN
    assert str(check.observed).startswith("unknown: timed_out: Grafana was not asked for those of 56, as ")
    assert "s4; s5; " in str(check.observed)
    assert "s0 / t0" in {row["name"] for row in table(result)}
    assert {row["name"] for row in table(result) if row["kind"] == "service account"} == set(names)


def test_all_requests_to_grafana_share_one_time(host: Host) -> None:
    def slow() -> Any:
        time.sleep(0.4)
        return tokens("t")

    replies = {
        "/api/org/users": json_reply(USERS[:1]),
        "/api/auth/keys": json_reply([]),
        "/api/serviceaccounts/search": service_accounts(*(f"s{number}" for number in range(50))),
        **{f"/api/serviceaccounts/{number}/tokens": slow for number in range(50)},
    }
    with http_service(replies) as url:
        found = grafana_accounts.collect(HttpTarget(url=url), timedelta(seconds=2))

    assert found.left_out_cause == "after 2s"
    assert len(found.left_out) + len(found.tokens) == 50
    assert len(found.left_out) >= 45


def test_no_hash_of_basic_authentication_is_weak_only_if_all_lines_were_understood(host: Host, tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text("ada:$2y$05$HASHHASH\nnot a line\n")

    result = review(host, basic_auth=[str(file)])

    names = ("readable", "weak hashes")
    assert not_ok(result) == {f"basic auth {file}: {name}": UNKNOWN for name in names}, result.text()


def test_basic_authentication_and_tokens_are_listed_without_anything_secret(host: Host, tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text("ada:$2y$05$HASHHASH\nbob:{SHA}HASHHASH=\nnot a line\n")
    at = NOW - 200 * DAY
    token = Token(name="ci", role=Role.OPERATOR, created_at=at, created_by="ada", expires_at=NOW + 9 * DAY)

    result = review(
        host, basic_auth=[str(file)], tokens=(token, token.model_copy(update={"name": "old", "revoked_at": at}))
    )

    assert not_ok(result) == {
        f"basic auth {file}: readable": UNKNOWN,
        f"basic auth {file}: weak hashes": WARN,
        "maintd: tokens that were not used for 90 days": WARN,
    }
    assert {row["name"] for row in table(result)} >= {"ada", "bob", "ci"}
    assert "HASHHASH" not in everything(result)


# --- the sign-off -------------------------------------------------------------------------------------------------


def listed(result: JobResult, ago: timedelta) -> dict[str, list[Point]]:
    points = [Point(NOW - ago, 1, item.labels) for item in result.measures if item.name == "access_listed"]
    return {"access_listed": points}


def decided(result: JobResult, ago: timedelta, revoked: str = "") -> dict[str, dict[str, list[Point]]]:
    rows = table(result)
    points = [Point(NOW - ago, row["name"] != revoked, {"id": row["id"]}) for row in rows]
    return {**ALL, "access_sign_off": {"access_decision": points}}


def test_what_was_to_be_revoked_and_still_exists_fails_and_what_was_not_reviewed_warns(host: Host) -> None:
    before = review(host)
    month = 30 * DAY

    signed = review(host, decided(before, month - DAY, "sudo: al"), series=listed(before, month))
    unsigned = review(host, series=listed(before, month))
    recent = review(host, series=listed(before, DAY))

    assert not_ok(signed) == {"host local: group member sudo: al is revoked, as decided": FAIL}, signed.text()
    open_name = "sign-off: accesses that were not reviewed in time"
    assert not_ok(unsigned) == {open_name: WARN}, unsigned.text()
    assert "account root, listed" in str(unsigned.check(open_name).observed)
    assert not_ok(recent) == {}, "there is still time"


def test_the_difference_of_groups_from_the_last_review_is_named(host: Host) -> None:
    before = review(host)
    host.groups[1:] = ["sudo:x:27:", "docker:x:999:al"]
    host.save()
    check = review(host, series=listed(before, DAY)).check("host local: groups and sudo rules since the last review")
    assert (check.status, check.observed) == (WARN, "+docker: al (group member); -sudo: al (group member)")


SINCE = "host local: groups and sudo rules since the last review"


def changed_sudo(host: Host, before: str, after: str, *, former: bool = False) -> tuple[JobResult, JobResult]:
    """A review with one file of sudoers.d, and the next one with another. former: names only were kept of the first."""
    path = host.write("etc/sudoers.d/team", before)
    first = review(host)
    path.write_text(after)
    series = listed(first, DAY)
    if former:
        series = {"access_listed": [Point(each.at, 1, former_labels(each.labels)) for each in series["access_listed"]]}
    return first, review(host, series=series)


def former_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """As stored before rules were kept: each id depended on kind, place and name only."""
    return {
        "id": Access(labels["kind"], labels["place"], labels["name"]).id,
        **{name: labels[name] for name in ("kind", "place", "name")},
    }


LS = "al ALL=(ALL) /bin/ls\n"


@pytest.mark.parametrize(
    ("before", "after", "added", "gone"),
    [
        (LS, LS + "al ALL=(ALL) ALL\n", "+al: all commands", ""),
        (LS + "al ALL=(ALL) ALL\n", "al ALL=(ALL) ALL\n", "", "-al: some commands"),
        (LS, "al ALL=(ALL) /bin/ls, /bin/sh\n", "+al: some commands", "-al: some commands"),
        (LS, "al ALL=(ALL) NOPASSWD: /bin/ls\n", "+al: some commands without", "-al: some commands"),
        ("al web1=(www) ALL\n", "al web1=(root) ALL\n", "+al: all commands", "-al: all commands"),
        ("al web1=ALL\n", "al ALL=ALL\n", "+al: all commands", "-al: all commands"),
        (
            "Cmnd_Alias C = D\nCmnd_Alias D = /bin/ls\nal ALL=C\n",
            "Cmnd_Alias C = D\nCmnd_Alias D = /bin/sh\nal ALL=C\n",
            "+al: some commands",
            "-al: some commands",
        ),
        (
            "User_Alias A = B\nUser_Alias B = al\nA ALL=ALL\n",
            "User_Alias A = B\nUser_Alias B = al, bo\nA ALL=ALL\n",
            "+bo: all commands",
            "",
        ),
    ],
)
def test_a_rule_of_sudo_that_is_new_or_changed_is_named_also_of_a_user_who_had_one(
    host: Host, before: str, after: str, added: str, gone: str
) -> None:
    check = changed_sudo(host, before, after)[1].check(SINCE)
    assert check.status is WARN
    shown = str(check.observed).split("; ")
    assert len(shown) == bool(added) + bool(gone), shown
    assert all(any(each.startswith(begin) for each in shown) for begin in (added, gone) if begin), shown


def test_the_same_rules_in_another_order_with_other_spaces_and_files_are_the_same(host: Host) -> None:
    result = changed_sudo(host, LS + "al  ALL=(ALL)  ALL\n", "al ALL = (ALL) ALL # all\n" + LS)[1]
    assert (result.check(SINCE).status, result.check(SINCE).observed) == (OK, "the same")


@pytest.mark.parametrize(("after", "status"), [(LS, UNKNOWN), (LS + "bo ALL=ALL\n", WARN)])
def test_a_review_of_which_only_names_were_kept_is_never_the_same(host: Host, after: str, status: CheckStatus) -> None:
    check = changed_sudo(host, LS, after, former=True)[1].check(SINCE)
    assert check.status is status
    assert ("only names" if status is UNKNOWN else "+bo: all commands") in str(check.observed)


@pytest.mark.parametrize("part", ["sudoers.d/other", "sudoers", "group"])
@pytest.mark.parametrize("added", [False, True])
def test_rules_and_groups_are_not_the_same_while_a_part_of_them_was_not_read(
    host: Host, part: str, added: bool
) -> None:
    series = listed(review(host), DAY)
    if part == "group":
        host.groups.append("nonsense")
    else:
        (host.root / "etc" / part).unlink(missing_ok=True)
        (host.root / "etc" / part).symlink_to("/mnt/elsewhere")
    if added:
        host.groups[2] = "docker:x:999:al"
    host.save()

    check = review(host, series=series).check(SINCE)

    assert check.status is (WARN if added else UNKNOWN), check
    assert str(check.observed).startswith("+docker: al" if added else "unknown: partial: ")
    assert "-" not in str(check.observed).partition(":")[0], "what was not read is not known to be gone"


@pytest.mark.parametrize("former", [False, True])
def test_a_decision_to_keep_a_rule_of_sudo_does_not_cover_a_wider_one(host: Host, former: bool) -> None:
    path = host.write("etc/sudoers.d/team", LS)
    first = review(host)
    path.write_text("al ALL=(ALL) ALL\n")
    wider = review(host)
    ids = {row["id"] for row in table(wider)} - {row["id"] for row in table(first)}
    assert len(ids) == 1
    series = listed(wider, 30 * DAY)
    kept_before = decided(first, 29 * DAY)
    if former:
        kept_before["access_sign_off"]["access_decision"].append(
            Point(NOW - 29 * DAY, 1, {"id": Access("sudo rule", "host local", "al").id})
        )
    result = review(host, kept_before, series=series)
    check = result.check("sign-off: accesses that were not reviewed in time")
    assert (check.status, "sudo rule al: all commands" in str(check.observed)) == (WARN, True), result.text()
    assert "al: some" not in str(check.observed)
    assert review(host, decided(wider, 29 * DAY), series=series).check(check.name).status is OK


@pytest.mark.parametrize("again", [False, True])
def test_a_rule_of_sudo_that_was_revoked_by_its_name_only_still_fails_until_it_is_decided_again(
    host: Host, again: bool
) -> None:
    host.write("etc/sudoers.d/team", LS)
    first = review(host)
    decisions = decided(first, DAY) if again else {**ALL, "access_sign_off": {"access_decision": []}}
    former = Point(NOW - 40 * DAY, 0, {"id": Access("sudo rule", "host local", "al").id})
    decisions["access_sign_off"]["access_decision"].insert(0, former)
    failed = [name for name, status in not_ok(review(host, decisions)).items() if status is FAIL]
    assert len(failed) == (0 if again else 1)
    assert all(name.startswith("host local: sudo rule al: some commands, rule ") for name in failed)


def test_decisions_are_bound_to_the_table_and_a_partial_one_is_reported() -> None:
    rows = rows_of((Access("account", "host a", name) for name in ("al", "=cmd", "bo, b")), 1)
    ids, digest = [row[0] for row in rows], digest_of(rows)
    filled = to_csv(rows, {ids[0]: "keep", ids[1]: "revoke"})

    found, of_file, decisions = from_csv(filled.replace(",keep\n", ", KEEP \n"))

    assert (found, of_file, decisions) == (digest, ids, {ids[0]: "keep", ids[1]: "revoke"})
    made = from_note(note_of(digest, ids, decisions) + " -- by phone", digest, ids)
    assert (made.by_id, made.undecided) == (decisions, (ids[2],))
    assert from_note(f"table={digest} keep=all", digest, ids).undecided == ()
    assert from_csv(filled.replace("bo, b", "bob"))[0] != digest
    for note in (
        "keep=all",
        f"table={digest} keep=all revoke=rest",
        f"table={digest} keep=12345678",
        "table=0 keep=all",
    ):
        with pytest.raises(UsageError):
            from_note(note, digest, ids)
    for text in ("", "a,b\n", filled.replace("keep", "maybe")):
        with pytest.raises(UsageError):
            from_csv(text)


@pytest.mark.parametrize("note", ["all", "partial", "other table", "rejected", "no decision"])
def test_the_step_after_the_gate_records_the_decision_or_why_there_is_none(host: Host, note: str) -> None:
    made = review(host)
    ids = [row["id"] for row in table(made)]
    digest = made.handed["access_table"]["digest"]
    text = {"all": f"table={digest} keep=rest revoke={ids[0]}", "partial": f"table={digest} keep={ids[0]}"}.get(
        note, "table=1"
    )
    kind = DecisionKind.REJECTED if note == "rejected" else DecisionKind.APPROVED
    decision = GateDecision(step=1, kind=kind, by="ada", at=NOW, note=text)

    result = run_job(
        "access_sign_off", handed=made.handed, gate_decisions={} if note == "no decision" else {"gate": decision}
    )

    expected = {"all": OK, "partial": WARN}.get(note, FAIL)
    assert result.check("sign-off: decided").status is expected, result.text()
    assert bool(result.artifacts) is (expected is not FAIL)
    if note == "all":
        evidence = json.loads(next(Path(a.path).read_text() for a in result.artifacts if a.name.endswith(".json")))
        assert (evidence["reviewer"], [each["id"] for each in evidence["revoke"]]) == ("ada", ids[:1])


CALENDAR = """
timezone: UTC
targets: {{host: {{local: {{root: {root}, proc: {root}/proc}}}}}}
entries:
  access-review:
    on_failure: continue
    steps:
      - access_review: {{root: {root}}}
      - gate: {{ask: Sign off, decisions: access-review.csv, approve: {{role: operator}}, timeout: 1h}}
    always: [access_sign_off]
"""


def shown(daemon: RunningDaemon, number: int) -> dict[str, Any]:
    found: dict[str, Any] = daemon.maintd("show", str(number), "--json").json
    return found


def wait_at_gate(daemon: RunningDaemon, number: int) -> dict[str, Any]:
    wait_for(lambda: shown(daemon, number)["state"] == "waiting", f"run {number} waits", seconds=120)
    return shown(daemon, number)


def wait_ended(daemon: RunningDaemon, number: int) -> dict[str, Any]:
    ended = ("succeeded", "warned", "failed", "unknown")
    wait_for(lambda: shown(daemon, number)["state"] in ended, f"run {number} ends", seconds=120)
    return shown(daemon, number)


def saved(daemon: RunningDaemon, run: dict[str, Any], name: str) -> Path:
    artifacts = [each for step in run["steps"] for attempt in step["attempts"] for each in attempt["artifacts"]]
    return daemon.state_dir / "artifacts" / next(each["path"] for each in artifacts if each["name"] == name)


@contextmanager
def daemon_with(host: Host, folder: Path) -> Iterator[RunningDaemon]:
    folder.mkdir()
    with maintd_daemon(folder, CALENDAR.format(root=host.root)) as daemon:
        yield daemon


@pytest.mark.server
def test_a_person_signs_off_at_the_gate_and_the_next_review_finds_what_was_not_revoked(
    host: Host, tmp_path: Path
) -> None:
    host.passwd.append("toor:x:0:0::/root:/bin/sh")  # a finding that fails does not keep a person from the table
    host.save()
    with daemon_with(host, tmp_path / "daemon") as daemon:
        requested = daemon.maintd("trigger", "access-review")
        assert requested.code == 0, requested.err + daemon.log_text()
        run = wait_at_gate(daemon, 1)
        rows = saved(daemon, run, "access-review.csv")
        for remark in ((), ("--note", "looks fine")):
            undecided = daemon.maintd("approve", "1", *remark)
            assert undecided.code == 4, undecided.err
            assert "maintd approve 1 --decisions access-review.csv" in undecided.err
        assert "maintd approve 1 --decisions access-review.csv" in daemon.maintd("gates").out
        lines = rows.read_text().splitlines()
        filled = [lines[0], *(line + ("revoke" if ",toor," in line else "keep") for line in lines[1:])]
        file = tmp_path / "review.csv"
        file.write_text("\n".join(filled).replace("uid 0", "uid 1") + "\n")
        refused = daemon.maintd("approve", "1", "--decisions", str(file))
        assert refused.code != 0
        assert "is not the table of run 1" in refused.err
        file.write_text("\n".join(filled) + "\n")
        os.mkfifo(tmp_path / "pipe")
        for hostile, reason in ((tmp_path / "pipe", "is not a regular file"), ("/dev/zero", "is not a regular file")):
            refused = daemon.maintd("approve", "1", "--decisions", str(hostile))
            assert (refused.code, reason in refused.err) == (2, True), refused.err

        assert daemon.maintd("approve", "1", "--decisions", str(file)).code == 0

        ended = wait_ended(daemon, 1)
        assert saved(daemon, ended, "access-sign-off.csv").read_text() == file.read_text()
        evidence = json.loads(saved(daemon, ended, "access-sign-off.json").read_text())
        assert [each["name"] for each in evidence["revoke"]] == ["toor"]
        daemon.maintd("trigger", "access-review")
        again = wait_at_gate(daemon, 2)
        checks = {check["name"]: check["status"] for check in again["steps"][0]["attempts"][-1]["checks"]}
        assert checks["host local: account toor is revoked, as decided"] == "fail"
        refused = daemon.maintd("approve", "2", "--decisions", str(file))
        assert (refused.code, "is not the table of run 2" in refused.err) == (2, True), "the rows are the same"
        daemon.maintd("reject", "2", "--why", "later")
        last = wait_ended(daemon, 2)["steps"][-1]
        assert (last["name"], last["state"]) == ("access_sign_off", "failed")
        assert "nothing was signed off: rejected" in json.dumps(last)
