"""sshd's effective settings from its files: drop-ins, Include, the first value of a keyword, and Match blocks.

Source: sshd_config(5). The server itself is not asked; a value given on its command line is not seen. A keyword that
no file sets has OpenSSH's default.
"""

from __future__ import annotations

import errno
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from maintd.checks.audit.rule import Blind, Outcome, Rule, Violation
from maintd.checks.hints import printable
from maintd.clients.causes import cause_of
from maintd.clients.files import read_regular, shown
from maintd.errors import TargetError
from maintd.model.evidence import CheckStatus

CONFIG = "etc/ssh/sshd_config"
MAX_FILE = 1 << 20
MAX_DEPTH = 16
"""Of Include. Source: SERVCONF_MAX_DEPTH of OpenSSH's servconf.c."""
MAX_LINKS = 40
"""On the way to one file. Source: MAXSYMLINKS of Linux."""
_HINT = "read it as root: files of sshd are 0600 on some distributions"

FAIL, WARN = CheckStatus.FAIL, CheckStatus.WARN
_CIS = "CIS Debian Linux 12 Benchmark, 5.1, and sshd_config(5)"


@dataclass(frozen=True)
class Setting:
    """A keyword, OpenSSH's default, and the values that the rule allows. most: instead of them, the largest number."""

    rule: Rule
    keyword: str
    default: str
    allowed: tuple[str, ...] = ()
    most: int | None = None

    def broken(self, value: str) -> bool:
        """Whether the rule is broken by this value."""
        if self.most is not None:
            return not value.isdecimal() or int(value) > self.most
        return value.lower() not in self.allowed


def _setting(
    name: str, severity: CheckStatus, title: str, keyword: str, default: str, *allowed: str, most: int | None = None
) -> Setting:
    wanted = f"{keyword} {allowed[0] if allowed else most}"
    change = (
        f"write {wanted} into /etc/ssh/sshd_config.d/00-audit.conf; sshd -t; systemctl reload ssh, with a session open"
    )
    return Setting(Rule(f"sshd-{name}", severity, title, _CIS, wanted, change), keyword, default, allowed, most)


SETTINGS = (
    _setting(
        "root-login",
        FAIL,
        "password logins of root",
        "PermitRootLogin",
        "prohibit-password",
        "no",
        "prohibit-password",
        "without-password",
        "forced-commands-only",
    ),
    _setting("password", WARN, "password logins", "PasswordAuthentication", "yes", "no"),
    _setting("empty-password", FAIL, "empty passwords at logins", "PermitEmptyPasswords", "no", "no"),
    _setting("keyboard", WARN, "logins by keyboard-interactive", "KbdInteractiveAuthentication", "yes", "no"),
    _setting("host-based", FAIL, "logins by host", "HostbasedAuthentication", "no", "no"),
    _setting("rhosts", FAIL, "use of .rhosts files", "IgnoreRhosts", "yes", "yes", "shosts-only"),
    _setting("environment", WARN, "environments that users set", "PermitUserEnvironment", "no", "no"),
    _setting("x11", WARN, "forwarding of X11", "X11Forwarding", "no", "no"),
    _setting("tries", WARN, "many attempts in a connection", "MaxAuthTries", "6", most=4),
    _setting("pam", FAIL, "logins without PAM", "UsePAM", "no", "yes"),
)
RULES = tuple(setting.rule for setting in SETTINGS)

_ALIASES = {"challengeresponseauthentication": "kbdinteractiveauthentication"}


@dataclass
class Block:
    """Keywords with their first value and its place. `name`: empty for what applies to all, else the Match line."""

    name: str
    values: dict[str, tuple[str, str, int]] = field(default_factory=dict)


def read(root: Path) -> list[Block] | None:
    """The blocks, the first of which applies to all; None where sshd is not installed. Raises TargetError."""
    if not _matches(root, CONFIG):
        if not (root / "etc").is_dir():
            raise TargetError(f"{root}: has no /etc", "mount the host's root", cause="not_found")
        return None
    blocks = [Block("")]
    _read(root, root / CONFIG, blocks, 0)
    return blocks


def _read(root: Path, path: Path, blocks: list[Block], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise TargetError(f"{path}: more than {MAX_DEPTH} levels of Include", cause="malformed")
    shown = "/" + str(path.relative_to(root))
    current = blocks[-1]
    for number, line in enumerate(_text(root, path).splitlines(), 1):
        words = _words(line)
        if not words:
            continue
        keyword, values = words[0].lower(), words[1:]
        if keyword == "match":
            # A Match of an included file ends with the file.
            name = printable(" ".join(values))[:100]
            current = Block(f"Match {name}")
            blocks.append(current)
        elif keyword == "include":
            for pattern in values:
                inner = pattern if pattern.startswith("/") else f"/etc/ssh/{pattern}"
                for found in _matches(root, inner):
                    blocks.append(current)
                    _read(root, found, blocks, depth + 1)
                    blocks.append(current)
        elif values:
            current.values.setdefault(_ALIASES.get(keyword, keyword), (" ".join(values), shown, number))


def _text(root: Path, path: Path) -> str:
    """The text of a file of the host; a link is followed within its root."""
    return read_regular(_followed(root, path), MAX_FILE, _HINT).decode(errors="replace")


def _matches(root: Path, pattern: str) -> list[Path]:
    """What a pattern of Include names, in order. Raises TargetError for a folder that cannot be listed.

    pathlib's glob is no help: it passes over such a folder, whose files could set anything.
    """
    if "\0" in pattern:
        raise TargetError(f"{shown(root / CONFIG)}: an Include has a NUL byte", cause="malformed")
    found = [root]
    for part in pattern.split("/"):
        if part not in ("", "."):
            found = [match for folder in found for match in _matching(root, folder, part)]
    return sorted(found)


def _matching(root: Path, folder: Path, part: str) -> list[Path]:
    at = _followed(root, folder)
    try:
        if part == "..":
            return [folder / part]
        if not any(char in part for char in "*?["):
            (at / part).lstat()
            return [folder / part]
        # As in glob(3), a wildcard matches no dot at the beginning.
        names = (one.name for one in at.iterdir() if part.startswith(".") or not one.name.startswith("."))
        return [folder / name for name in names if fnmatchcase(name, part)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise TargetError(f"{shown(folder)}: {error.strerror}", _HINT, cause=cause_of(error) or "failed") from error


def _followed(root: Path, path: Path) -> Path:
    """The path without links, each of which is followed within the root. Raises TargetError."""
    waiting, at, links = list(reversed(path.relative_to(root).parts)), root, 0
    while waiting:
        part = waiting.pop()
        if part == "..":
            if at == root:
                raise TargetError(f"{shown(path)}: leads out of the host's root", _HINT, cause="malformed")
            at = at.parent
            continue
        try:
            to = (at / part).readlink()
        except (FileNotFoundError, NotADirectoryError) as error:
            if links:
                text = f"{shown(path)}: is a link to what does not exist here"
                raise TargetError(text, "mount what it leads to, or remove it", cause="not_found") from error
            at /= part
        except OSError as error:
            if error.errno != errno.EINVAL:
                text = f"{shown(path)}: {error.strerror}"
                raise TargetError(text, _HINT, cause=cause_of(error) or "failed") from error
            at /= part  # no link
        else:
            links += 1
            if links > MAX_LINKS:
                raise TargetError(f"{shown(path)}: more than {MAX_LINKS} links", _HINT, cause="malformed")
            at = root if to.is_absolute() else at
            waiting += reversed([one for one in to.parts if one != "/"])
    return at


def _words(line: str) -> list[str]:
    """`Keyword value`, `Keyword=value` and `Keyword "value"`, without a comment."""
    text = line.strip()
    if not text or text.startswith("#"):
        return []
    try:
        words = shlex.split(text, comments=True)
    except ValueError:
        words = text.split()
    if not words:
        return []
    first, separator, rest = words[0].partition("=")
    if separator:
        return [first, *([rest] if rest else []), *words[1:]]
    return [first, *(words[2:] if words[1:2] == ["="] else words[1:])]


def outcomes(place: str, blocks: list[Block] | TargetError | None) -> list[Outcome]:
    """What was seen of each keyword, for all and in each Match block that sets it."""
    found = []
    for setting in SETTINGS:
        if isinstance(blocks, TargetError):
            blind = Blind("sshd", f"{blocks.cause}: {blocks.message}", blocks.hint or "")
            found.append(Outcome(setting.rule, place, 0, blind=(blind,)))
        elif blocks is None:
            found.append(Outcome(setting.rule, place, 0, not_applicable="sshd is not installed"))
        else:
            found.append(_outcome(place, setting, {id(block): block for block in blocks}))
    return found


def _outcome(place: str, setting: Setting, blocks: Mapping[int, Block]) -> Outcome:
    examined, violations = 0, []
    for block in blocks.values():
        given = block.values.get(setting.keyword.lower())
        if not block.name:
            # `Match all` comes after what applies to all, and overrides it.
            over = (
                one.values.get(setting.keyword.lower()) for one in blocks.values() if one.name.lower() == "match all"
            )
            given = next((one for one in over if one is not None), given)
        elif block.name.lower() == "match all":
            continue
        if given is None and block.name:
            continue  # what applies to all applies to it
        value, file, line = given or (setting.default, "", 0)
        examined += 1
        if setting.broken(value):
            where = f" in {file}:{line}" if file else ", the default"
            observed = f"{setting.keyword} {printable(value)[:60]}{where}"
            violations.append(Violation(block.name or "all logins", observed, file=file, line=line))
    return Outcome(setting.rule, place, examined, tuple(violations))
