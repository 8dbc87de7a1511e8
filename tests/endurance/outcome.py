"""The result of an endurance run, and the table of several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from endurance.fault_injector import InjectedFaults
from endurance.journal import Line
from maintd.model.run import Run

SHOWN = 40  # violations shown of one run

LASTING = ("Postgres stopped", "network of one node cut")


@dataclass
class Outcome:
    """The result of one run on one kind of store."""

    kind: str
    seed: int
    seconds: float
    fires: int = 0  # rows of due times
    rows: int = 0
    states: Counter[str] = field(default_factory=Counter)
    processes: int = 0
    ended: int = 0
    triggers: int = 0
    starts: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    lasted: dict[str, list[float]] = field(default_factory=dict)
    calendar_changes: int = 0
    confirmed_periods: int = 0
    integrity_checks: int = 0
    violations: list[str] = field(default_factory=list)

    def take(self, did: InjectedFaults) -> None:
        """Add the injected faults."""
        self.faults = did.counts
        self.lasted = {name: did.lasted[name] for name in LASTING if name in did.lasted}
        self.triggers = len(did.accepted)

    def count(self, runs: Sequence[Run], journal: Sequence[Line]) -> None:
        """Count rows and processes."""
        self.rows = len(runs)
        self.fires = sum(run.due_at is not None for run in runs)
        self.states = Counter(str(run.skip_reason or run.state) for run in runs)
        self.processes = sum(line.what == "began" for line in journal)
        self.ended = sum(line.what == "ended" for line in journal)

    def text(self) -> str:
        """Return a summary."""
        faults = sum(self.faults.values())
        did = f"{self.rows} rows, {self.processes} job processes, {self.starts} daemon starts, {faults} faults"
        lines = [
            f"{self.kind}, seed {self.seed}, {self.seconds:.0f} s of faults: {did}",
            "  " + ", ".join(f"{count} {state}" for state, count in self.states.most_common()),
            f"  invariants violated: {len(self.violations)}",
        ]
        return "\n".join([*lines, *(f"    {line}" for line in self.violations[:SHOWN])])


def table(outcomes: Sequence[Outcome]) -> str:
    """Return totals as a Markdown table with a column per kind of store."""
    kinds = list(dict.fromkeys(outcome.kind for outcome in outcomes))
    of = {kind: [outcome for outcome in outcomes if outcome.kind == kind] for kind in kinds}

    def row(name: str, count: list[object]) -> str:
        return f"| {name} | " + " | ".join(str(value) for value in count) + " |"

    def total(name: str, attribute: str) -> str:
        return row(name, [f"{sum(getattr(one, attribute) for one in of[kind]):,.0f}" for kind in kinds])

    states = sum((outcome.states for outcome in outcomes), Counter[str]())
    faults = sum((outcome.faults for outcome in outcomes), Counter[str]())
    lines = [
        row("", list(kinds)),
        "|---" * (len(kinds) + 1) + "|",
        row("rounds", [len(of[kind]) for kind in kinds]),
        total("seconds of faults", "seconds"),
        total("due times, each with one row", "fires"),
        total("rows in all", "rows"),
        total("job processes", "processes"),
        total("job processes that ended by themselves", "ended"),
        total("triggers accepted", "triggers"),
        total("daemon starts", "starts"),
        total("changes of an active schedule", "calendar_changes"),
        total("periods between confirmed reloads", "confirmed_periods"),
        total("`integrity_check` of the store", "integrity_checks"),
    ]
    lines += [row(f"rows: {name}", [_sum(of[kind], "states", name) for kind in kinds]) for name in sorted(states)]
    lines += [row(f"fault: {name}", [_sum(of[kind], "faults", name) for kind in kinds]) for name in sorted(faults)]
    for name in LASTING:
        spans = {kind: sorted(s for one in of[kind] for s in one.lasted.get(name, [])) for kind in kinds}
        lines.append(row(f"{name}: seconds, shortest / median / longest / all", [_spans(spans[k]) for k in kinds]))
    lines.append(row("**invariants violated**", [sum(len(one.violations) for one in of[kind]) for kind in kinds]))
    return "\n".join(lines)


def _sum(outcomes: Sequence[Outcome], attribute: str, name: str) -> int:
    return sum(getattr(outcome, attribute)[name] for outcome in outcomes)


def _spans(seconds: Sequence[float]) -> str:
    if not seconds:
        return "–"
    return f"{seconds[0]:.0f} / {seconds[len(seconds) // 2]:.0f} / {seconds[-1]:.0f} / {sum(seconds):.0f}"
