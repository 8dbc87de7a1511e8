"""The effective configuration of Prometheus, and alert rules that can never fire."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache

from maintd.checks.config_review.promql import (
    Node,
    PromqlError,
    Selector,
    always_absent,
    is_always_empty,
    parse,
    selectors,
)
from maintd.checks.config_review.snapshot import Collector, Seen
from maintd.checks.hints import name_first, printable
from maintd.clients.bounded import parse_yaml
from maintd.clients.prometheus import Prometheus, Rule, connect
from maintd.errors import TargetError
from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus
from maintd.model.target import PrometheusTarget

PLACEHOLDERS = (
    r"(?i)your[-_ ]?(org|company|domain|repo|team)|example\.(com|org|net)|change[-_]?me|\btodo\b|<[^>]*>|localhost"
)
MAX_RULES = 500
_MAX_SELECTORS = 1000
_OWN = ("ALERTS", "ALERTS_FOR_STATE")
"""Series of Prometheus itself, which exist once an alert was active."""

_RULES = "Prometheus documentation, Alerting rules"


def read(target: PrometheusTarget, collector: Collector, placeholders: str = PLACEHOLDERS) -> Seen:
    """Read the server. Raises TargetError when neither its configuration nor its rules can be read."""
    server = connect(target, name=collector.subject)
    unread: dict[str, str] = {}
    criteria: list[Criterion] = []
    collector.tree("config", parse_yaml(server.active_config(), f"{collector.subject}: config"))
    try:
        for name, value in server.flags().items():
            collector.add(f"flags/{name}", value)
    except TargetError as error:
        unread["flags/"] = f"{error.cause}: {error.message}"
    try:
        found = server.rules()
    except TargetError as error:
        unread["rules/"] = f"{error.cause}: {error.message}"
        return Seen(collector.snapshot(), unread)
    if found.not_understood:
        unread["rules/"] = f"{len(found.not_understood)} rules were not understood: {found.not_understood[0]}"
    for rule in found:
        _add_rule(collector, rule)
    criteria += rule_criteria(server, found.items, placeholders)
    return Seen(collector.snapshot(), unread, tuple(criteria))


def _add_rule(collector: Collector, rule: Rule) -> None:
    path = f"rules/{rule.group}/{rule.name}"
    value = {"expr": rule.query, "for": f"{rule.seconds:g}s", "labels": rule.labels, "annotations": rule.annotations}
    collector.tree(path, value if rule.alerting else {"expr": rule.query, "labels": rule.labels})


def rule_criteria(server: Prometheus, rules: Sequence[Rule], placeholders: str) -> Iterator[Criterion]:
    """What is wrong with the rules: errors, metrics that do not exist, links that lead nowhere."""
    bad = [f"{rule.name}: {rule.last_error or rule.health}" for rule in rules if rule.health == "err"]
    yield Criterion(
        "rules without errors",
        name_first(bad) or "none fails",
        equals="none fails",
        hint="correct the expression; promtool check rules FILE, then reload",
        rule=f"{_RULES}: health",
    )
    yield _links(rules, placeholders)
    try:
        known = server.metric_names()
    except TargetError as error:
        yield Criterion.from_error("alert rules can fire", error)
        return
    known |= {rule.name for rule in rules if not rule.alerting}
    exists = Exists(server, known)
    by_name: dict[str, list[Rule]] = {}
    for rule in rules:
        if rule.alerting:
            by_name.setdefault(f"{rule.group}/{rule.name}", []).append(rule)
    for name, same in list(by_name.items())[:MAX_RULES]:
        yield evaluate(name, same, exists, known)
    if len(by_name) > MAX_RULES:
        yield Criterion("alert rules can fire", unknown=f"only {MAX_RULES} of {len(by_name)} rules were examined")


class Exists:
    """Whether a selector matches any series, however old. After `_MAX_SELECTORS` different ones it raises."""

    def __init__(self, server: Prometheus, known: frozenset[str]) -> None:
        self._known = known
        self._asked = 0
        self._ask = cache(server.has_series)

    def __call__(self, selector: Selector) -> bool:
        """Raises TargetError."""
        if selector.metric in _OWN:
            return True
        if selector.metric and (selector.metric not in self._known or not selector.matchers):
            return selector.metric in self._known
        self._asked += 1
        if self._asked > _MAX_SELECTORS:
            raise TargetError("too many different selectors in the rules", cause="too_large")
        return self._ask(selector.text)


def evaluate(name: str, rules: Sequence[Rule], exists: Exists, known: frozenset[str]) -> Criterion:
    """The criterion of the alert rules of one group and name: fails if one of them can never fire."""
    check = f"alert {printable(name)} can fire"
    rule_text = f"{_RULES}: an alert is active for each element of the result, so never for an empty one"
    never: list[str] = []
    partly: list[str] = []
    always: list[str] = []
    try:
        for rule in rules:
            tree = parse(rule.query)
            missing = [_why(selector, known) for selector in _missing(tree, exists)]
            if is_always_empty(tree, exists):
                never += missing
            else:
                always += [selector.text for selector in always_absent(tree, exists)]
                partly += [text for text in missing if not any(text.startswith(other) for other in always)]
    except PromqlError as error:
        return Criterion(check, unknown=f"its expression is not understood: {error}", rule=rule_text)
    except TargetError as error:
        return Criterion.from_error(check, error, expected="yes")
    hint = (
        "correct the names of metrics and labels in the rule, or have them exported and scraped; else remove the rule"
    )
    if never:
        text = f"never: {name_first(list(dict.fromkeys(never)))}"
        return Criterion(check, text, equals="yes", severity=CheckStatus.WARN, hint=hint, rule=rule_text)
    if always:
        text = f"always: {name_first(list(dict.fromkeys(always)))} never existed, so absent() has the value 1"
        hint = f"absent() means that nothing is there; nothing ever was: {hint}"
        return Criterion(check, text, equals="yes", severity=CheckStatus.WARN, hint=hint, rule=rule_text)
    if partly:
        text = f"in part: {name_first(list(dict.fromkeys(partly)))}"
        return Criterion(check, text, equals="yes", severity=CheckStatus.WARN, hint=hint, rule=rule_text)
    return Criterion(check, "yes", equals="yes", rule=rule_text)


def _missing(tree: Node, exists: Exists) -> list[Selector]:
    return [selector for selector in dict.fromkeys(selectors(tree)) if not exists(selector)]


def _why(selector: Selector, known: frozenset[str]) -> str:
    if selector.metric and selector.metric not in known:
        return f"{selector.metric} does not exist"
    return f"{selector.text} matches no series"


def _links(rules: Sequence[Rule], placeholders: str) -> Criterion:
    pattern = re.compile(placeholders)
    bad = []
    for rule in rules:
        link = rule.annotations.get("runbook_url", "")
        if link and (pattern.search(link) or not link.lower().startswith(("http://", "https://"))):
            bad.append(f"{rule.name}: {link[:100]}")
    return Criterion(
        "runbook links lead somewhere",
        name_first(bad) or "yes",
        equals="yes",
        severity=CheckStatus.WARN,
        hint="write the address of your runbook into the annotation runbook_url",
        rule="kube-prometheus runbooks and Google SRE Workbook, On-Call: each alert links its playbook",
    )
