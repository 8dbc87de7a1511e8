"""Accounts and groups of a host from passwd, group and shadow; of a password only its kind, never its hash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maintd.checks.access.host_files import read_lines
from maintd.errors import TargetError

_NO_SHELL = ("nologin", "false", "sync", "shutdown", "halt", "git-shell")
FIRST_PERSON = 1000  # UID_MIN of login.defs on Debian, Ubuntu and Fedora
_OVERFLOW_UID = 65534  # of files whose owner is not known
_KINDS = {
    "y": "yescrypt",
    "gy": "gost-yescrypt",
    "7": "scrypt",
    "6": "sha512",
    "5": "sha256",
    "1": "md5",
    "sha1": "sha1",
}
WEAK = ("des", "md5", "sha1")
"""Kinds of hash that are broken in little time."""


@dataclass(frozen=True)
class Account:
    """A line of passwd."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str

    @property
    def has_shell(self) -> bool:
        """Whether it can get a shell; an empty field is /bin/sh."""
        return self.shell.rpartition("/")[2] not in _NO_SHELL

    @property
    def is_system(self) -> bool:
        """Whether it is of a service, by its number."""
        return 0 < self.uid < FIRST_PERSON or self.uid == _OVERFLOW_UID


@dataclass(frozen=True)
class Password:
    """The entry of shadow for an account's password. kind: `empty`, `locked`, the kind of its hash, or `unfamiliar`."""

    kind: str
    expires: bool

    @property
    def usable(self) -> bool:
        """Whether one can log in with it."""
        return self.kind not in ("locked", "unfamiliar")


@dataclass(frozen=True)
class Accounts:
    """The accounts and groups of a host. passwords: the error of reading shadow instead. damaged: lines of passwd and
    group that were not understood."""

    accounts: tuple[Account, ...]
    groups: dict[str, tuple[str, ...]]
    passwords: dict[str, Password] | TargetError
    damaged: tuple[str, ...] = ()

    def members(self, group: str) -> tuple[str, ...]:
        """The members of a group by its line, and those whose primary group it is."""
        return tuple(sorted(set(self.groups.get(group, ()))))


def read_accounts(root: Path) -> Accounts:
    """Read the accounts. Raises TargetError when passwd or group cannot be read, or passwd has no account."""
    accounts, damaged = [], []
    for number, line in enumerate(read_lines(root, "etc/passwd"), 1):
        fields = line.split(":")
        if not line.strip() or line.startswith(("#", "+", "-")):
            continue
        if len(fields) != 7 or not (fields[2].isdecimal() and fields[3].isdecimal()) or not fields[0]:
            damaged.append(f"passwd line {number}")
            continue
        accounts.append(Account(fields[0], int(fields[2]), int(fields[3]), fields[5], fields[6].strip()))
    if not accounts:
        raise TargetError(f"{root}/etc/passwd has no account", cause="empty")
    groups: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(read_lines(root, "etc/group"), 1):
        fields = line.split(":")
        if not line.strip() or line.startswith(("#", "+", "-")):
            continue
        if len(fields) != 4 or not fields[2].isdecimal():
            damaged.append(f"group line {number}")
            continue
        primary = [each.name for each in accounts if each.gid == int(fields[2]) and each.name != fields[0]]
        groups[fields[0]] = tuple(sorted({*filter(None, (one.strip() for one in fields[3].split(","))), *primary}))
    passwords: dict[str, Password] | TargetError
    try:
        passwords = read_shadow(read_lines(root, "etc/shadow"))
    except TargetError as error:
        passwords = error
    return Accounts(tuple(accounts), groups, passwords, tuple(damaged))


def read_shadow(lines: Sequence[str]) -> dict[str, Password]:
    """The passwords by account. Nothing of a hash is kept."""
    found = {}
    for line in lines:
        fields = line.split(":")
        if len(fields) < 8 or not fields[0]:
            continue
        limit = fields[4].strip()
        expires = limit.isdecimal() and int(limit) < 99_999
        found[fields[0]] = Password(kind_of(fields[1]), expires)
    return found


def kind_of(field: str) -> str:
    """The kind of a password by the field of shadow or htpasswd."""
    if field == "":
        return "empty"
    if field.startswith(("!", "*")):
        return "locked"
    if field.startswith(("$2a$", "$2b$", "$2y$")):
        return "bcrypt"
    if field.startswith("$apr1$"):
        return "apr1-md5"
    if field.startswith("{SHA}"):
        return "sha1"
    if field.startswith("$"):
        return _KINDS.get(field[1:].partition("$")[0], "unfamiliar")
    return "des" if len(field) == 13 else "unfamiliar"
