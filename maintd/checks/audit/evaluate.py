"""From what was seen to checks: waivers, what is new since the last run, and the score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from maintd.checks.audit.rule import WEIGHTS, Blind, Outcome, Violation
from maintd.checks.audit.waivers import Ledger, Waiver
from maintd.checks.hints import name_first
from maintd.job.context import Context
from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus

MAX_NAMED = 25
"""Subjects of one rule and place that have a check of their own; the others are one check together."""

MAX_KEPT = 1000
"""Findings that are kept for the next run, which calls others new."""

RUN, FINDING = "audit_run", "audit_finding"
"""Measures: the number of the audit, and the number of the audit that saw a finding last."""


@dataclass(frozen=True)
class Seen:
    """A violation with its waiver, if one applies, and whether the last audit did not see it."""

    outcome: Outcome
    violation: Violation
    waiver: Waiver | None
    new: bool

    @property
    def status(self) -> CheckStatus:
        """The rule's severity."""
        return self.outcome.rule.severity


@dataclass
class Result:
    """All of one audit. `unseen`: the number of rules of places that gave no answer."""

    outcomes: list[Outcome] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    unseen: int = 0

    @property
    def unknown(self) -> int:
        """How many rules are not known to be followed somewhere."""
        return self.unseen + sum(any(not item.optional for item in outcome.blind) for outcome in self.outcomes)

    @property
    def active(self) -> list[Seen]:
        """The violations without a waiver."""
        return [item for item in self.seen if item.waiver is None]

    @property
    def score(self) -> int | None:
        """The share of the points of all that was tested, in percent; None when nothing was.

        A rule in a place has the points of its severity, times the share of subjects that follow it or have a waiver.
        What is not known has no points, and is counted beside the score. Source: the hardening index of Lynis.
        """
        broken = Counter((id(item.outcome)) for item in self.active)
        possible = gained = 0.0
        for outcome in self.outcomes:
            if outcome.examined > 0:
                weight = WEIGHTS[outcome.rule.severity]
                possible += weight
                gained += weight * (1 - min(broken[id(outcome)] / outcome.examined, 1))
        return int(100 * gained / possible) if possible else None


def evaluate(ctx: Context, outcomes: Sequence[Outcome], ledger: Ledger, unseen: int = 0) -> Result:
    """Apply waivers and compare with the last audit."""
    last = ctx.last(RUN)
    known = (
        set()
        if last is None
        else {
            (point.labels.get("rule"), point.labels.get("place"), point.labels.get("subject"))
            for point in ctx.series(FINDING)
            if point.value == last
        }
    )
    result = Result(list(outcomes), unseen=unseen)
    for outcome in outcomes:
        for violation in outcome.violations:
            key = (outcome.rule.id, outcome.place, violation.subject)
            waiver = ledger.find(*key)
            result.seen.append(Seen(outcome, violation, waiver, last is not None and key not in known))
    return result


def report(ctx: Context, result: Result) -> None:
    """Record a check for each rule and place, and one for each subject that fails; then the measures."""
    by_outcome: dict[int, list[Seen]] = {}
    for item in result.seen:
        by_outcome.setdefault(id(item.outcome), []).append(item)
    for outcome in result.outcomes:
        ctx.report(_criteria(outcome, by_outcome.get(id(outcome), [])))
    number = (ctx.last(RUN) or 0) + 1
    ctx.measure(RUN, number)
    for item in result.seen[:MAX_KEPT]:
        labels = {"rule": item.outcome.rule.id, "place": item.outcome.place, "subject": item.violation.subject}
        ctx.measure(FINDING, number, **labels)
    counts = Counter(item.status for item in result.active)
    for status in (CheckStatus.FAIL, CheckStatus.WARN):
        ctx.measure("audit_findings", counts[status], severity=status.value)
    ctx.measure("audit_checks_unknown", result.unknown)
    if result.score is not None:
        ctx.measure("audit_score", result.score)


def _criteria(outcome: Outcome, seen: Sequence[Seen]) -> Iterator[Criterion]:
    rule, name = outcome.rule, f"{outcome.place}: {outcome.rule.title}"
    active = [item for item in seen if item.waiver is None]
    yield from _blind(outcome, name)
    each = rule.severity is CheckStatus.FAIL
    named = active[:MAX_NAMED] if each else []
    for item in named:
        note = "new: " if item.new else ""
        yield Criterion(
            f"{name}: {item.violation.subject}",
            f"{note}{item.violation.observed}",
            equals=rule.wanted,
            hint=item.violation.change or rule.change,
            rule=rule.text,
        )
    rest = active[len(named) :]
    if named and not rest:
        return
    if not rest and any(not item.optional for item in outcome.blind):
        return  # unknown, as above
    waived = len(seen) - len(active)
    if not rest:
        if outcome.blind and not outcome.examined:
            return
        text = "none" + (f", {waived} with a waiver" if waived else "")
        text = outcome.not_applicable or text
        yield Criterion(name, text, equals=text, rule=rule.text)
        return
    # What was in order at the last audit is one level more severe while it is new.
    severity = CheckStatus.FAIL if each or any(item.new for item in rest) else CheckStatus.WARN
    yield Criterion(
        name,
        f"{len(rest)} of {outcome.examined}: {_names(rest)}",
        equals=f"none; {rule.wanted}",
        severity=severity,
        hint=_change(rest, rule.change),
        rule=rule.text,
    )


def _names(seen: Iterable[Seen]) -> str:
    return name_first([f"{item.violation.subject}{' (new)' if item.new else ''}" for item in seen])


def _change(seen: Sequence[Seen], usual: str) -> str:
    own = dict.fromkeys(item.violation.change for item in seen if item.violation.change)
    details = name_first([f"{item.violation.subject}: {item.violation.observed}" for item in seen])
    return f"{'; '.join(list(own)[:5]) or usual} ({details})"


def _blind(outcome: Outcome, name: str) -> Iterator[Criterion]:
    required: list[Blind] = [item for item in outcome.blind if not item.optional]
    for optional, found in ((False, required), (True, [item for item in outcome.blind if item.optional])):
        if found:
            suffix = ": not examined" if optional or outcome.violations else ""
            texts = [f"{item.subject}: {item.cause}" if outcome.examined else item.cause for item in found]
            hint = next((item.hint for item in found if item.hint), "")
            yield Criterion(
                f"{name}{suffix}",
                unknown=name_first(texts),
                equals=outcome.rule.wanted,
                hint=hint,
                rule=outcome.rule.text,
                optional=optional,
            )
