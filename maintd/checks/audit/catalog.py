"""All rules of the audit, by the kind of place where they apply and by id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from maintd.checks.audit import (
    compose_files,
    containers,
    daemon,
    file_modes,
    postgres,
    redis,
    sockets,
    sshd,
    tracked_secrets,
)
from maintd.checks.audit.rule import Rule

BY_KIND: Mapping[str, Sequence[Rule]] = {
    "docker": (*daemon.RULES, *containers.RULES),
    "compose": compose_files.RULES,
    "postgres": postgres.RULES,
    "redis": redis.RULES,
    "secrets": file_modes.SECRET_RULES,
    "files": file_modes.TREE_RULES,
    "repository": tracked_secrets.RULES,
    "sshd": sshd.RULES,
    "sockets": sockets.RULES,
}

RULES: Mapping[str, Rule] = {rule.id: rule for rules in BY_KIND.values() for rule in rules}
