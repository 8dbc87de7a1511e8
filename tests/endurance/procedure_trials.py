"""Runs a procedure once for each fault, and audits each trial."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from endurance.procedure_nodes import ProcedureNodes, fault_file, procedure_nodes
from endurance.procedures import ENTRY, GATES, GateFault, Journal, Trial, audit, boundaries
from maintd.store import Store


@dataclass(frozen=True)
class TrialResult:
    """What came of one fault."""

    fault: str
    person: str
    states: tuple[str, ...]
    seconds: float
    violations: tuple[str, ...]


def all_faults() -> list[str]:
    """Every kind of fault at every boundary."""
    return [f"{kind} {point}" for point in boundaries() for kind in ("kill", "store")]


def trials(folder: Path, kind: str, nodes: int, faults: Sequence[str]) -> Iterator[TrialResult]:
    """Run the procedure with each of these faults; each result as it comes. After a loss it is resumed and undone in
    turn."""
    with procedure_nodes(folder, kind, nodes) as made:
        store = made.start()
        journal = Journal(made.marks)
        try:
            for number, fault in enumerate(faults):
                yield _trial(made, store, journal, fault, ("resume", "undo")[number % 2])
        finally:
            store.close()


def _trial(nodes: ProcedureNodes, store: Store, journal: Journal, fault: str, person: str) -> TrialResult:
    began = time.monotonic()
    kind, _, point = fault.partition(" ")
    trial = Trial(store, nodes.shell, journal, person, fail_at=GATES[1] if "undo-" in point else "")
    journal.forget()
    at_gate = None
    if point.split()[-1] in GATES:
        at_gate = GateFault(point, nodes.kill if kind == "kill" else nodes.take_store_away)
    else:
        fault_file(nodes, kind, point)
    triggered = trial.command("trigger", ENTRY, "--json")
    assert triggered.code == 0, triggered.err
    runs = trial.drive(int(triggered.json["id"]), at_gate)
    violations = audit(trial, runs)
    if (nodes.marks / "fault").exists():
        (nodes.marks / "fault").unlink()
        violations.append("the fault did not happen")
    elif at_gate is not None and not at_gate.happened:
        violations.append("the fault at the gate did not happen")
    seconds = time.monotonic() - began
    return TrialResult(fault, person, tuple(run.state.value for run in runs), seconds, tuple(violations))


def main() -> int:
    """Try every fault on both stores, print a table, and return 1 after a violation."""
    parser = argparse.ArgumentParser(prog="python -m endurance.procedure_trials", description=main.__doc__)
    parser.add_argument("--kind", choices=["sqlite", "postgres", "both"], default="both")
    parser.add_argument("--only", default="", help="faults that contain this text")
    given = parser.parse_args()
    violated = False
    for kind, nodes in (("sqlite", 1), ("postgres", 2)):
        if given.kind not in (kind, "both"):
            continue
        folder = Path(tempfile.mkdtemp(prefix="maintd-procedures-"))
        folder.chmod(0o711)  # the user postgres must be able to enter it
        for found in trials(folder, kind, nodes, [fault for fault in all_faults() if given.only in fault]):
            violated = violated or bool(found.violations)
            text = "; ".join(found.violations) or "as it should be"
            print(f"{kind:8} {found.fault:22} {' > '.join(found.states):32} {found.seconds:5.1f} s  {text}", flush=True)
    return 1 if violated else 0


if __name__ == "__main__":
    sys.exit(main())
