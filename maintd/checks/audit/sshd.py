"""sshd's effective settings from its files: drop-ins, Include, the first value of a keyword, and Match blocks.

Source: sshd_config(5). The server itself is not asked; a value given on its command line is not seen. A keyword that
no file sets has OpenSSH's default.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from maintd.checks.audit.rule import Blind, Outcome, Rule, Violation
from maintd.checks.hints import printable
from maintd.clients.files import shown
from maintd.clients.rooted_files import RootedFiles
from maintd.errors import TargetError
from maintd.model.evidence import CheckStatus

CONFIG = "etc/ssh/sshd_config"
MAX_FILE = 1 << 20
MAX_DEPTH = 16
"""Of Include. Source: SERVCONF_MAX_DEPTH of OpenSSH's servconf.c."""
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
    files = RootedFiles(root, _HINT)
    if not files.exists(CONFIG):
        if not files.exists("etc"):
            raise TargetError(f"{shown(root)}: has no /etc", "mount the host's root", cause="not_found")
        return None
    blocks = [Block("")]
    _read(files, CONFIG, blocks, 0)
    return blocks


def _read(files: RootedFiles, name: str, blocks: list[Block], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise TargetError(f"/{shown(name)}: more than {MAX_DEPTH} levels of Include", cause="malformed")
    current = blocks[-1]
    text = files.read(name, MAX_FILE).decode(errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        words = _words(line)
        if not words:
            continue
        keyword, values = words[0].lower(), words[1:]
        if keyword == "match":
            # A Match of an included file ends with the file.
            title = printable(" ".join(values))[:100]
            current = Block(f"Match {title}")
            blocks.append(current)
        elif keyword == "include":
            for pattern in values:
                inner = pattern if pattern.startswith("/") else f"/etc/ssh/{pattern}"
                for found in files.glob(inner):
                    blocks.append(current)
                    _read(files, found, blocks, depth + 1)
                    blocks.append(current)
        elif values:
            place = (" ".join(values), f"/{shown(name)}", number)
            current.values.setdefault(_ALIASES.get(keyword, keyword), place)


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
