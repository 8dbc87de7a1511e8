"""The effective configuration of Alertmanager, and what in it prevents notifications."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from maintd.checks.config_review.snapshot import Collector, Seen
from maintd.checks.hints import name_first
from maintd.clients.alertmanager import connect
from maintd.clients.bounded import parse_yaml
from maintd.errors import TargetError
from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus
from maintd.model.target import AlertmanagerTarget

SILENT = ("null", "none", "blackhole", "devnull")
"""Names of receivers that are without a target on purpose."""

_DOCS = "Prometheus documentation, Alerting configuration"
_ANY = ("", ".*", ".+", "^.*$", "^.+$")
_MAX_ROUTES = 2000


def read(target: AlertmanagerTarget, collector: Collector, silent: Sequence[str]) -> Seen:
    """Read the server. Raises TargetError."""
    text = connect(target, name=collector.subject).active_config()
    if not text.strip():
        raise TargetError(f"{collector.subject}: has no configuration in its status", cause="empty")
    config = parse_yaml(text, f"{collector.subject}: config")
    if not isinstance(config, Mapping):
        raise TargetError(f"{collector.subject}: its configuration is not a mapping", cause="malformed")
    collector.tree("config", config)
    return Seen(collector.snapshot(), {}, tuple(criteria(config, silent)))


def criteria(config: Mapping[str, Any], silent: Sequence[str]) -> Iterator[Criterion]:
    """What is right or wrong with a configuration."""
    receivers = {str(item.get("name")): item for item in _maps(config.get("receivers"))}
    routed = dict.fromkeys(_routed(config.get("route")))
    missing = [name for name in routed if name not in receivers]
    yield Criterion(
        "routes have receivers",
        name_first([f"{name} does not exist" for name in missing]) or ("yes" if routed else "there is no route"),
        equals="yes",
        hint="define the receiver, or correct the name in the route; amtool check-config FILE",
        rule=f"{_DOCS}: route",
    )
    empty = [name for name in routed if name in receivers and not _targets(receivers[name]) and name not in silent]
    yield Criterion(
        "receivers have a target",
        name_first([f"{name} sends nowhere" for name in empty]) or "yes",
        equals="yes",
        hint="give it a webhook, mail or chat; one that is empty on purpose is named in the param silent_receivers",
        rule=f"{_DOCS}: receiver",
    )
    unused = [name for name in receivers if name not in routed]
    yield Criterion(
        "receivers are used by routes",
        name_first(unused) or "yes",
        equals="yes",
        severity=CheckStatus.WARN,
        hint="add a route to it, or remove it",
        rule=f"{_DOCS}: route",
    )
    wide = [_named(rule) for rule in _maps(config.get("inhibit_rules")) if _inhibits_all(rule)]
    yield Criterion(
        "no rule inhibits every alert",
        name_first(wide) or "none does",
        equals="none does",
        hint="narrow target_matchers, or add labels to equal",
        rule=f"{_DOCS}: inhibit_rule",
    )


def _maps(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _routed(route: object) -> Iterator[str]:
    waiting, seen = [route], 0
    while waiting and seen < _MAX_ROUTES:
        item = waiting.pop()
        seen += 1
        if isinstance(item, Mapping):
            if item.get("receiver"):
                yield str(item["receiver"])
            waiting += _maps(item.get("routes"))


def _targets(receiver: Mapping[str, Any]) -> int:
    return sum(len(value) for name, value in receiver.items() if name.endswith("_configs") and isinstance(value, list))


def _inhibits_all(rule: Mapping[str, Any]) -> bool:
    """Whether its target is every alert, whatever labels it shares with the source."""
    matchers, patterns = rule.get("target_matchers") or [], rule.get("target_match_re") or {}
    if not isinstance(matchers, list) or not isinstance(patterns, Mapping):
        return False  # Alertmanager refuses it
    every = all(_matches_all(str(item)) for item in matchers) and not rule.get("target_match")
    return every and all(str(value) in _ANY for value in patterns.values()) and not rule.get("equal")


def _matches_all(matcher: str) -> bool:
    found = re.fullmatch(r"\s*[A-Za-z_]\w*\s*=~\s*\"?(.*?)\"?\s*", matcher)
    return found is not None and found[1] in _ANY


def _named(rule: Mapping[str, Any]) -> str:
    source = rule.get("source_matchers") or rule.get("source_match") or rule.get("source_match_re") or "every alert"
    return f"source {str(source)[:100]}"
