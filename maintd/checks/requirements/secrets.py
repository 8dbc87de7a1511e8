"""What the rotation of secrets needs: a folder that can be written, grants at the servers, values that are in force."""

from __future__ import annotations

import os
from typing import Any

from maintd.checks.hints import command
from maintd.checks.requirements import local
from maintd.checks.requirements.redis import may_run
from maintd.checks.requirements.requirement import Exercise
from maintd.checks.secrets.files import read_file
from maintd.checks.secrets.logins import require_alterable, require_same_rights
from maintd.checks.secrets.versions import require_recipients
from maintd.clients.postgres import Postgres
from maintd.clients.redis import Command
from maintd.errors import TargetError
from maintd.model.target import RedisLogin, SecretsTarget


def readable(target: SecretsTarget) -> str:
    """Exercise: each file can be read."""
    for name, secret in target.secrets.items():
        read_file(target.path / (secret.file or name))
    return f"{len(target.secrets)} files"


def writable(target: SecretsTarget) -> str:
    """Exercise: the folder and the files of what is generated can be written, and a backup encrypted; nothing is."""
    local.writes(target.path)
    require_recipients(target.recipients)
    written = {name for name, secret in target.secrets.items() if secret.kind == "generated"}
    written |= {name for name, secret in target.secrets.items() if secret.of in written}
    for name in sorted(written):
        path = target.path / (target.secrets[name].file or name)
        owned = path.stat().st_uid == os.geteuid() if path.exists() else False
        if not (os.access(path, os.W_OK) or owned):
            hint = f"{command('chown', str(os.geteuid()), str(path))}, or mount the folder writable"
            raise TargetError(f"{path} cannot be written", hint, cause="denied")
    return f"{len(written)} files"


def may_change(roles: tuple[str, ...]) -> Exercise:
    """Exercise: change nothing of each role, in a transaction that is rolled back; the roles have the same rights."""

    def exercise(session: Postgres) -> str:
        for role in roles:
            require_alterable(session, role)
        require_same_rights(session, roles)
        return f"roles {', '.join(roles)}"

    return exercise


def may_change_user(login: RedisLogin) -> Exercise:
    """Exercise: the commands of a rotation. A rule that does not exist is refused, and nothing is set."""
    commands: list[Command] = [("ACL", "GETUSER", login.user), ("ACL", "SETUSER", login.user, "maintd-no-such-rule")]
    if login.persist == "aclfile":
        commands.append(("CONFIG", "GET", "aclfile"))
    saves = {"aclfile": ("ACL", "SAVE"), "config": ("CONFIG", "REWRITE")}.get(login.persist)

    def exercise(server: Any) -> str:
        seen = may_run(*commands)(server)
        if saves is None:
            return seen
        # Without an effect it can only be asked for.
        user = server.command("ACL", "WHOAMI")
        answer = str(server.command("ACL", "DRYRUN", user, *saves))
        if answer != "OK":
            hint = f"ACL SETUSER {user} +{'|'.join(saves).lower()}"
            raise TargetError(f"{server.name}: may not run {' '.join(saves)}", hint, cause="denied")
        return seen

    return exercise
