"""Public keys in authorized_keys: fingerprints, options and comments, and types that are weak."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from maintd.checks.access.accounts import MAX_BYTES, Account
from maintd.checks.hints import printable
from maintd.clients.rooted_files import RootedFiles
from maintd.errors import TargetError

FILES = (".ssh/authorized_keys", ".ssh/authorized_keys2")
_MOST = 1000  # keys of a host
_TYPES = re.compile(
    r"(?:ssh-(?:rsa|dss|ed25519)|ecdsa-sha2-nistp(?:256|384|521)|sk-(?:ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)"
    r"(?:-cert-v01@openssh\.com)?"
)
LEAST_RSA_BITS = 2048


@dataclass(frozen=True)
class Key:
    """A key that can log in as `user`. fingerprint: `SHA256:…`, as sshd logs it. weak: why it is."""

    user: str
    type: str
    fingerprint: str
    md5: str
    options: str
    comment: str
    weak: str


@dataclass
class Keys:
    """The keys of a host, and what could not be read: files with the errors, lines that were not understood."""

    keys: list[Key] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    cut: bool = False


def read_keys(root: Path, accounts: Sequence[Account]) -> Keys:
    """Read the keys of all accounts; a home that is not there has none, one that is a link to nothing is not read."""
    files, found = RootedFiles(root), Keys()
    for account in accounts:
        if not account.home.startswith("/") or account.home == "/nonexistent":
            continue
        for name in FILES:
            path = f"{account.home.strip('/')}/{name}".lstrip("/")
            try:
                lines = files.lines(path, MAX_BYTES, follow=False)
            except TargetError as error:
                if error.cause != "not_found":
                    found.unread.append(f"{printable(account.name)}: {error.cause}: {error.message}")
                continue
            for number, line in enumerate(lines, 1):
                _add(found, account.name, f"/{path} line {number}", line.strip())
    return found


def _add(found: Keys, user: str, where: str, line: str) -> None:
    if not line or line.startswith("#"):
        return
    key = parse(user, line)
    if key is None:
        found.damaged.append(printable(where))
    elif len(found.keys) >= _MOST:
        found.cut = True
    else:
        found.keys.append(key)


def parse(user: str, line: str) -> Key | None:
    """A line of authorized_keys; None: it has no known form. Source: sshd(8), AUTHORIZED_KEYS FILE FORMAT."""
    words = list(re.finditer(r'(?:"(?:\\"|[^"])*"|[^\s"])+', line))
    at = next((number for number, word in enumerate(words[:2]) if _TYPES.fullmatch(word[0])), None)
    if at is None or len(words) < at + 2:
        return None
    try:
        blob = base64.b64decode(words[at + 1][0], validate=True)
    except (binascii.Error, ValueError):
        return None
    parts = _parts(blob)
    kind = words[at][0]
    if not parts or parts[0] != kind.encode():
        return None
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    md5 = hashlib.md5(blob, usedforsecurity=False).hexdigest()
    return Key(
        user,
        kind,
        f"SHA256:{digest}",
        "MD5:" + ":".join(md5[place : place + 2] for place in range(0, 32, 2)),
        printable(_option_names(words[0][0])) if at else "",
        printable(line[words[at + 1].end() :].strip())[:100],
        _weakness(kind, parts),
    )


def _option_names(text: str) -> str:
    """The names of the options: a forced command may have a secret in its arguments."""
    return ",".join(match[1] for match in re.finditer(r'([\w-]+)(?:="(?:\\"|[^"])*")?(?:,|$)', text))


def _parts(blob: bytes) -> list[bytes]:
    parts, place = [], 0
    while place + 4 <= len(blob):
        length = int.from_bytes(blob[place : place + 4], "big")
        if place + 4 + length > len(blob):
            return []
        parts.append(blob[place + 4 : place + 4 + length])
        place += 4 + length
    return parts if place == len(blob) else []


def _weakness(kind: str, parts: Sequence[bytes]) -> str:
    if kind.startswith("ssh-dss"):
        return "DSA"
    if kind == "ssh-rsa" and len(parts) == 3:
        bits = int.from_bytes(parts[2], "big").bit_length()
        return f"RSA with {bits} bits" if bits < LEAST_RSA_BITS else ""
    return ""
