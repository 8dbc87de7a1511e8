"""Rights by sudo: /etc/sudoers with its includes. Source: sudoers(5)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from maintd.checks.access.host_files import names_in, read_lines
from maintd.checks.hints import printable
from maintd.errors import TargetError

_MOST_FILES = 128
_RULE = re.compile(r"(?P<who>(?:\\.|\"[^\"]*\"|[^\s\\=,]|\s*,\s*)+)\s+(?P<hosts>[^=]+?)\s*=\s*(?P<rest>.+)", re.DOTALL)
_TAG = re.compile(
    r"\b(NOPASSWD|PASSWD|NOEXEC|EXEC|SETENV|NOSETENV|LOG_INPUT|LOG_OUTPUT|FOLLOW|NOFOLLOW|MAIL|NOMAIL)\s*:"
)
_COMMENT = re.compile(r"(?<!\\)#(?!\d).*")


@dataclass(frozen=True)
class Grant:
    """What a user, `%group` or alias may run. every: all commands as root; commands themselves are not kept."""

    who: str
    every: bool
    no_password: bool
    file: str

    @property
    def text(self) -> str:
        """`all commands without a password`."""
        return ("all commands" if self.every else "some commands") + (" without a password" if self.no_password else "")


@dataclass
class Sudoers:
    """The grants, files that could not be read with the errors, and lines that were not understood."""

    grants: list[Grant] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    aliases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    no_authentication: bool = False  # Defaults !authenticate: sudo asks for no password
    read: int = 0  # files


def read_sudoers(root: Path) -> Sudoers:
    """Read sudoers and what it includes. Raises TargetError when the first file cannot be read."""
    found = Sudoers()
    _read(root, "etc/sudoers", found, [], first=True)
    found.grants = [
        Grant(who, each.every, each.no_password or found.no_authentication, each.file)
        for each in found.grants
        for who in found.aliases.get(each.who, (each.who,))
    ]
    return found


def _read(root: Path, name: str, found: Sudoers, within: list[str], *, first: bool = False) -> None:
    if name in within or found.read >= _MOST_FILES:
        found.unread.append(f"/{name}: included in itself, or too many files")
        return
    try:
        lines = read_lines(root, name)
    except TargetError as error:
        if first:
            raise
        found.unread.append(f"{error.cause}: {error.message}")
        return
    found.read += 1
    text = ""
    for number, raw in enumerate(lines, 1):
        text += raw
        if text.endswith("\\"):
            text = text[:-1] + " "
            continue
        _line(root, name, number, text.strip(), found, [*within, name])
        text = ""
    if text.strip():
        found.damaged.append(f"/{name}: its last line is continued")


def _line(root: Path, name: str, number: int, line: str, found: Sudoers, within: list[str]) -> None:
    include = re.fullmatch(r"[#@](include|includedir)\s+(\"[^\"]+\"|\S+)", line)
    if include:
        path = include[2].strip('"')
        path = path.strip("/") if path.startswith("/") else f"{name.rpartition('/')[0]}/{path}"
        if "%h" in path:
            found.unread.append(f"/{path}: names the host")
        elif include[1] == "include":
            _read(root, path, found, within)
        else:
            _read_folder(root, path, found, within)
        return
    line = _COMMENT.sub("", line).strip()
    if not line:
        return
    if line.startswith("Defaults"):
        if re.match(r"Defaults\s", line) and re.search(r"!\s*authenticate\b", line):
            found.no_authentication = True
        elif re.search(r"!\s*authenticate\b", line):
            found.damaged.append(f"/{name} line {number}: authenticate for some only")
        return
    alias = re.fullmatch(r"(User|Runas|Host|Cmnd|Cmd)_Alias\s+(.+)", line, re.DOTALL)
    if alias:
        if alias[1] == "User":
            for definition in re.split(r"(?<!\\):", alias[2]):
                title, _, members = definition.partition("=")
                found.aliases[title.strip()] = tuple(each.strip() for each in members.split(",") if each.strip())
        return
    rule = _RULE.fullmatch(line)
    if rule is None:
        found.damaged.append(printable(f"/{name} line {number}"))
        return
    rest = re.sub(r"\([^)]*\)", "", rule["rest"])
    tags = _TAG.findall(rest)
    commands = [each.strip() for each in _TAG.sub("", rest).split(",")]
    for who in re.split(r"(?<!\\),", rule["who"]):
        shown = re.sub(r"\\(.)", r"\1", who.strip().strip('"'))
        found.grants.append(Grant(shown, "ALL" in commands, "NOPASSWD" in tags, f"/{name}"))


def _read_folder(root: Path, folder: str, found: Sudoers, within: list[str]) -> None:
    try:
        names = names_in(root, folder)
    except TargetError as error:
        if error.cause != "not_found":
            found.unread.append(f"{error.cause}: {error.message}")
        return
    for each in names:
        if not each.endswith("~") and "." not in each:  # as sudo: editors and package managers leave others
            _read(root, f"{folder}/{each}", found, within)
