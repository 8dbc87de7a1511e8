"""Rights by sudo: /etc/sudoers with its includes. Source: sudoers(5)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from maintd.checks.access.accounts import MAX_BYTES
from maintd.checks.hints import printable
from maintd.clients.rooted_files import RootedFiles
from maintd.errors import TargetError

_MOST_FILES = 128
_RULE = re.compile(r"(?P<who>(?:\\.|\"[^\"]*\"|[^\s\\=,]|\s*,\s*)+)\s+(?P<hosts>[^=]+?)\s*=\s*(?P<rest>.+)", re.DOTALL)
_TAG = re.compile(
    r"\b(NOPASSWD|PASSWD|NOEXEC|EXEC|SETENV|NOSETENV|LOG_INPUT|LOG_OUTPUT|FOLLOW|NOFOLLOW|MAIL|NOMAIL)\s*:"
)
_ALIAS_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
_COMMENT = re.compile(r"(?<!\\)#(?!\d).*")


@dataclass(frozen=True)
class Grant:
    """What a user or `%group` may run. every: all commands as root.

    Commands can have secrets in their arguments: of the whole rule with the aliases in it, only a digest is kept.
    """

    who: str
    every: bool
    no_password: bool
    file: str
    digest: str

    @property
    def text(self) -> str:
        """`all commands without a password`."""
        return ("all commands" if self.every else "some commands") + (" without a password" if self.no_password else "")

    @property
    def rule(self) -> str:
        """What distinguishes it from each other rule of this user: `all commands, rule 1a2b3c4d`."""
        return f"{self.text}, rule {self.digest}"


@dataclass
class Sudoers:
    """The grants, files that could not be read with the errors, and lines that were not understood."""

    grants: list[Grant] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    aliases: dict[str, tuple[str, ...]] = field(default_factory=dict)  # of users
    definitions: dict[str, str] = field(default_factory=dict)  # of aliases of commands, hosts and users to run as
    no_authentication: bool = False  # Defaults !authenticate: sudo asks for no password
    read: int = 0  # files


def read_sudoers(root: Path) -> Sudoers:
    """Read sudoers and what it includes. Raises TargetError when the first file cannot be read."""
    found = Sudoers()
    _read(RootedFiles(root), "etc/sudoers", found, [], first=True)
    found.grants = [
        Grant(
            who,
            each.every,
            each.no_password or found.no_authentication,
            each.file,
            _digest(each.digest, found.definitions),
        )
        for each in found.grants
        for who in _members(each.who, found.aliases)
    ]
    return found


def _members(who: str, aliases: Mapping[str, tuple[str, ...]]) -> list[str]:
    """The users and groups of a user alias with those in it; of another name, itself."""
    members: list[str] = []
    seen, waiting = {who}, [who]
    while waiting:
        each = waiting.pop()
        inner = aliases.get(each)
        if inner is None:
            members.append(each)
        else:
            waiting += [name for name in inner if name not in seen]
            seen.update(inner)
    return sorted(members) or [who]


def _digest(rule: str, definitions: Mapping[str, str]) -> str:
    """Eight hex digits of the text of a rule, and of the aliases in it."""
    seen: set[str] = set()
    waiting, parts = [rule], [rule]
    while waiting:
        for name in sorted(set(_ALIAS_NAME.findall(waiting.pop())) - seen):
            seen.add(name)
            if name in definitions:
                waiting.append(definitions[name])
                parts.append(f"{name} = {definitions[name]}")
    return hashlib.sha256("\n".join(sorted(parts)).encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _read(files: RootedFiles, name: str, found: Sudoers, within: list[str], *, first: bool = False) -> None:
    if name in within or found.read >= _MOST_FILES:
        found.unread.append(f"/{name}: included in itself, or too many files")
        return
    try:
        lines = files.lines(name, MAX_BYTES)
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
        _line(files, name, number, text.strip(), found, [*within, name])
        text = ""
    if text.strip():
        found.damaged.append(f"/{name}: its last line is continued")


def _line(files: RootedFiles, name: str, number: int, line: str, found: Sudoers, within: list[str]) -> None:
    include = re.fullmatch(r"[#@](include|includedir)\s+(\"[^\"]+\"|\S+)", line)
    if include:
        path = include[2].strip('"')
        path = path.strip("/") if path.startswith("/") else f"{name.rpartition('/')[0]}/{path}"
        if "%h" in path:
            found.unread.append(f"/{path}: names the host")
        elif include[1] == "include":
            _read(files, path, found, within)
        else:
            _read_folder(files, path, found, within)
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
        for definition in re.split(r"(?<!\\):", alias[2]):
            title, _, members = definition.partition("=")
            if alias[1] == "User":
                found.aliases[title.strip()] = tuple(each.strip() for each in members.split(",") if each.strip())
            else:
                earlier = found.definitions.get(title.strip(), "")
                found.definitions[title.strip()] = f"{earlier} {_plain(members)}".strip()
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
        text = f"{_plain(rule['hosts'])} = {_plain(rule['rest'])}"
        found.grants.append(Grant(shown, "ALL" in commands, "NOPASSWD" in tags, f"/{name}", text))


def _plain(text: str) -> str:
    return " ".join(text.split())


def _read_folder(files: RootedFiles, folder: str, found: Sudoers, within: list[str]) -> None:
    try:
        names = files.names(folder)
    except TargetError as error:
        if error.cause != "not_found":
            found.unread.append(f"{error.cause}: {error.message}")
        return
    for each in names:
        if not each.endswith("~") and "." not in each:  # as sudo: editors and package managers leave others
            _read(files, f"{folder}/{each}", found, within)
