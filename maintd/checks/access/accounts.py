"""Accounts and groups of a host from passwd, group and shadow; of a password only its kind, never its hash."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maintd.clients.rooted_files import RootedFiles
from maintd.errors import TargetError

MAX_BYTES = 4 << 20
"""Of one file with accounts, keys or rights."""

_NO_SHELL = ("nologin", "false", "sync", "shutdown", "halt", "git-shell")
FIRST_PERSON = 1000  # UID_MIN of login.defs on Debian, Ubuntu and Fedora
_OVERFLOW_UID = 65534  # of files whose owner is not known
_NO_END_DAYS = 99_999  # PASS_MAX_DAYS of login.defs
_MOST_ID = 2**32 - 1  # uid_t and gid_t of Linux
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
class Password:
    """An account's password. kind: `empty`, `locked`, the kind of its hash, or `unfamiliar`. expires: None if its line
    is damaged."""

    kind: str
    expires: bool | None

    @property
    def usable(self) -> bool:
        """Whether one can log in with it, or it is not known whether one can."""
        return self.kind != "locked"


@dataclass(frozen=True)
class Account:
    """A line of passwd. password: the one in passwd itself; None where it is in shadow."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str
    password: Password | None = None

    @property
    def has_shell(self) -> bool:
        """Whether it can get a shell; an empty field is /bin/sh."""
        return self.shell.rpartition("/")[2] not in _NO_SHELL

    @property
    def is_system(self) -> bool:
        """Whether it is of a service, by its number."""
        return 0 < self.uid < FIRST_PERSON or self.uid == _OVERFLOW_UID


@dataclass(frozen=True)
class Accounts:
    """The accounts and groups of a host. passwords: the error of reading shadow instead. damaged: lines of passwd and
    group that were not understood. damaged_passwords: of shadow, the account of such a line, or its number."""

    accounts: tuple[Account, ...]
    groups: dict[str, tuple[str, ...]]
    passwords: dict[str, Password] | TargetError
    damaged: tuple[str, ...] = ()
    damaged_passwords: tuple[str, ...] = ()

    def members(self, group: str) -> tuple[str, ...]:
        """The members of a group by its line, and those whose primary group it is."""
        return tuple(sorted(set(self.groups.get(group, ()))))


def read_accounts(root: Path) -> Accounts:
    """Read the accounts. Raises TargetError when passwd or group cannot be read, or passwd has no account."""
    files, accounts, damaged = RootedFiles(root), [], []
    for number, line in enumerate(files.lines("etc/passwd", MAX_BYTES), 1):
        fields = line.split(":")
        if not line.strip() or line.startswith(("#", "+", "-")):
            continue
        uid, gid = (_number(fields[2]), _number(fields[3])) if len(fields) == 7 else (None, None)
        if uid is None or gid is None or not fields[0]:
            damaged.append(f"passwd line {number}")
            continue
        in_shadow = fields[1] == "x" or fields[1].startswith("##")
        password = None if in_shadow else Password(kind_of(fields[1]), expires=False)
        accounts.append(Account(fields[0], uid, gid, fields[5], fields[6].strip(), password))
    if not accounts:
        raise TargetError(f"{root}/etc/passwd has no account", cause="empty")
    groups: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(files.lines("etc/group", MAX_BYTES), 1):
        fields = line.split(":")
        if not line.strip() or line.startswith(("#", "+", "-")):
            continue
        group_id = _number(fields[2]) if len(fields) == 4 else None
        if group_id is None:
            damaged.append(f"group line {number}")
            continue
        primary = [each.name for each in accounts if each.gid == group_id and each.name != fields[0]]
        groups[fields[0]] = tuple(sorted({*filter(None, (one.strip() for one in fields[3].split(","))), *primary}))
    passwords: dict[str, Password] | TargetError
    damaged_passwords: list[str] = []
    try:
        passwords, damaged_passwords = read_shadow(files.lines("etc/shadow", MAX_BYTES))
    except TargetError as error:
        passwords = error
    return Accounts(tuple(accounts), groups, passwords, tuple(damaged), tuple(damaged_passwords))


def _number(text: str) -> int | None:
    """A uid or gid; None: it is none."""
    if not re.fullmatch(r"0*[0-9]{1,10}", text):
        return None
    number = int(text.lstrip("0") or "0")
    return number if number <= _MOST_ID else None


def read_shadow(lines: Sequence[str]) -> tuple[dict[str, Password], list[str]]:
    """The passwords by account, and the accounts or numbers of lines that are damaged. Nothing of a hash is kept.

    Of a line that is too short or too long, the kind is still read: it may be empty or weak.
    """
    found: dict[str, Password] = {}
    damaged: list[str] = []
    for number, line in enumerate(lines, 1):
        fields = line.split(":")
        if not line.strip() or line.startswith(("#", "+", "-")):
            continue
        whole = 8 <= len(fields) <= 9
        if not whole or not fields[0]:
            damaged.append(fields[0] if fields[0] and len(fields) > 1 else f"shadow line {number}")
        if not fields[0] or len(fields) == 1:
            continue
        limit = fields[4].strip() if whole else ""
        expires = bool(re.fullmatch(r"[0-9]{1,5}", limit)) and int(limit) < _NO_END_DAYS
        # the first line of an account counts, as for getspnam(3)
        found.setdefault(fields[0], Password(kind_of(fields[1]), expires if whole else None))
    return found, damaged


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
    return "des" if re.fullmatch(r"[./0-9A-Za-z]{13}", field) else "unfamiliar"
