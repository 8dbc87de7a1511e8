"""What jobs need of a Redis server: that its user may run their commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maintd.checks.backup_sets.append_only import look
from maintd.checks.requirements.requirement import Exercise
from maintd.clients.redis import Command, RedisServer
from maintd.errors import TargetError

NO_SUCH_KEY = "maintd:doctor:no-such-key"


def may_run(*commands: Command) -> Exercise:
    """Run commands that change nothing. An answer, or an error about the argument, shows that the user may run them.

    Redis checks the user's rights before a command reads its arguments: `BGSAVE NOTHING` is a syntax error for a
    user who may save, and is denied to others.
    """

    def exercise(server: RedisServer) -> str:
        denied, missing = [], []
        for words, answer in zip(commands, server.many(commands), strict=True):
            if not isinstance(answer, TargetError):
                continue
            if answer.cause == "denied":
                denied.append(_named(words))
            elif "unknown command" in answer.message.lower():
                missing.append(_named(words))
        if denied:
            grants = " ".join(f"+{name.lower().replace(' ', '|')}" for name in denied)
            raise TargetError(
                f"{server.name}: may not run {', '.join(denied)}",
                f"ACL SETUSER the target's user {grants}",
                cause="denied",
            )
        if missing:
            raise TargetError(
                f"{server.name}: this server has no {', '.join(missing)}", "upgrade it", cause="unfamiliar"
            )
        return f"{len(commands)} commands"

    return exercise


def streams_exist(names: Sequence[str]) -> Exercise:
    """Exercise: each of these streams exists."""

    def exercise(server: RedisServer) -> str:
        for name in names:
            server.stream(name)
        return f"{len(names)} {'stream' if len(names) == 1 else 'streams'}"

    return exercise


def may_synchronize(server: RedisServer) -> str:
    """Exercise: ask for a snapshot as a replica does. By ACL DRYRUN, of Redis 7: the request itself would start one."""
    try:
        user = str(server.command("ACL", "WHOAMI"))
        answer = str(server.command("ACL", "DRYRUN", user, "SYNC"))
    except TargetError as error:
        if error.cause == "denied" or "unknown" in error.message.lower():
            return "not exercised: ACL WHOAMI and ACL DRYRUN are not allowed here"
        raise
    if answer != "OK":
        hint = "ACL SETUSER the target's user +sync +replconf"
        raise TargetError(f"{server.name}: may not run SYNC", hint, cause="denied")
    return "SYNC"


def append_only_files(data: Path | None) -> Exercise:
    """Exercise: where the server loads append-only files, they can be opened here. data: as `redis_data` of the job."""
    return lambda server: look(server, data)


def _named(words: Command) -> str:
    return " ".join(str(word) for word in words[:2]) if words[0] in _CONTAINERS else str(words[0])


_CONTAINERS = ("CONFIG", "MEMORY", "SLOWLOG", "LATENCY", "XINFO", "CLIENT", "OBJECT", "ACL")
"""Commands whose first argument is a command of its own."""
