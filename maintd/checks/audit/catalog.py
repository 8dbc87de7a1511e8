"""All rules of the audit, by the kind of place where they apply and by id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from maintd.checks.audit import compose_files, containers, daemon
from maintd.checks.audit.rule import Rule

BY_KIND: Mapping[str, Sequence[Rule]] = {
    "docker": (*daemon.RULES, *containers.RULES),
    "compose": compose_files.RULES,
}

RULES: Mapping[str, Rule] = {rule.id: rule for rules in BY_KIND.values() for rule in rules}
