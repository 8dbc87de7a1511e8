"""The effective configuration of a Redis server, compared with its file where that can be read."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from maintd.checks.config_review.snapshot import Collector, Seen, is_secret
from maintd.checks.hints import name_first
from maintd.clients.files import read_regular
from maintd.clients.redis import RedisServer, connect
from maintd.errors import TargetError
from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus
from maintd.model.target import RedisTarget

_DOCS = "Redis documentation, Key eviction"
_SIZES = {"": 1, "b": 1, "k": 1000, "kb": 1024, "m": 1000**2, "mb": 1024**2, "g": 1000**3, "gb": 1024**3}
_SIZE = re.compile(r"(\d+)([kmg]?b?)", re.IGNORECASE)
_HASH = re.compile(r"[#!>][0-9a-zA-Z+/=]+|>\S+")
_REPEATED = ("save", "user", "loadmodule", "include", "client-output-buffer-limit", "rename-command", "bind")
_MAX_FILE = 1 << 20


def read(target: RedisTarget, collector: Collector, file: Path | None, policies: Sequence[str]) -> Seen:
    """Read the server. `policies`: of eviction, that are allowed; empty: all. Raises TargetError."""
    unread: dict[str, str] = {}
    with connect(target, name=collector.subject) as server:
        found = _settings(server)
        for name, value in sorted(found.items()):
            if is_secret(name):
                collector.presence(f"settings/{name}", value)
            else:
                collector.add(f"settings/{name}", value)
        _add_users(server, collector)
    criteria = list(_memory(found, policies))
    if file is not None:
        try:
            criteria.append(_against_file(found, file))
        except TargetError as error:
            criteria.append(Criterion.from_error(_FILE_CHECK, error, expected="none"))
    return Seen(collector.snapshot(), unread, tuple(criteria))


def _settings(server: RedisServer) -> dict[str, str]:
    answer = server.command("CONFIG", "GET", "*")
    if isinstance(answer, list) and len(answer) % 2 == 0:  # RESP2
        answer = dict(zip(answer[::2], answer[1::2], strict=True))
    if not isinstance(answer, Mapping) or not answer:
        raise TargetError(f"{server.name}: CONFIG GET is not what Redis answers", cause="malformed")
    return {_text(name): _text(value) for name, value in answer.items()}


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _add_users(server: RedisServer, collector: Collector) -> None:
    """The users without their passwords and the hashes of these. ACL LIST may be denied: then they are not compared."""
    try:
        users = server.command("ACL", "LIST")
    except TargetError as error:
        if error.cause in ("timed_out", "unreachable", "partial"):
            raise
        collector.add("users", "not readable: ACL LIST is not granted")
        return
    for line in users if isinstance(users, list) else ():
        words = _text(line).split()
        if len(words) < 2:
            continue
        passwords = sum(_HASH.fullmatch(word) is not None for word in words[2:])
        rights = " ".join(word for word in words[2:] if not _HASH.fullmatch(word))
        collector.add(f"users/{words[1]}", f"{rights}; {passwords or 'no'} password{'' if passwords == 1 else 's'}")


def _memory(found: Mapping[str, str], policies: Sequence[str]) -> list[Criterion]:
    limit, policy = found.get("maxmemory"), found.get("maxmemory-policy")
    criteria = [
        Criterion(
            "memory limit",
            None if limit is None or not limit.isdigit() else int(limit),
            warn_below=1,
            unit="B",
            unknown="" if limit is not None else "CONFIG GET has no maxmemory",
            hint="redis-cli CONFIG SET maxmemory 1gb, and the same in its file or command; 0 is no limit, so that the "
            "kernel ends a process when memory is used up",
            rule=f"{_DOCS}: maxmemory",
        )
    ]
    if policies:
        criteria.append(
            Criterion(
                "eviction policy",
                policy,
                one_of=tuple(policies),
                hint="redis-cli CONFIG SET maxmemory-policy …, and the same in its file or command",
                rule=f"{_DOCS}: maxmemory-policy",
            )
        )
    return criteria


_FILE_CHECK = "settings that a restart would change"


def _against_file(found: Mapping[str, str], file: Path) -> Criterion:
    """Compare what runs with the file that the next start reads. Options of the command line take precedence over it,
    and cannot be seen here. Raises TargetError."""
    differing = []
    for name, value in _parsed(file).items():
        if name in found and _normal(found[name]) != _normal(value):
            shown = "" if is_secret(name) else f": {found[name] or 'empty'}, in the file {value or 'empty'}"
            differing.append(f"{name}{shown}")
    return Criterion(
        _FILE_CHECK,
        name_first(sorted(differing)) or "none",
        equals="none",
        severity=CheckStatus.WARN,
        hint="keep what runs by CONFIG REWRITE, or go back to the file by CONFIG SET",
        rule="Redis documentation, Redis configuration: changes by CONFIG SET are lost at a restart",
    )


def _parsed(file: Path) -> dict[str, str]:
    lines = read_regular(file, _MAX_FILE).decode(errors="replace").splitlines()
    found: dict[str, str] = {}
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            words = shlex.split(line)
        except ValueError:
            words = line.split()
        name = words[0].lower()
        if name not in _REPEATED:
            found[name] = " ".join(words[1:])
    return found


def _normal(value: str) -> str:
    size = _SIZE.fullmatch(value.strip())
    return str(int(size[1]) * _SIZES[size[2].lower()]) if size and size[2].lower() in _SIZES else value.strip()
