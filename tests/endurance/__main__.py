"""`make endurance MINUTES=30 SEED=7`: rounds on SQLite and on Postgres in turn, until the time is over."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from endurance.driver import endure


def main() -> int:
    """Print what was done and found; 1 when an invariant was violated."""
    parser = argparse.ArgumentParser(prog="make endurance", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--round", type=float, default=180, help="seconds of faults in one round")
    parser.add_argument("--kind", choices=["sqlite", "postgres", "both"], default="both")
    parser.add_argument("--nodes", type=int, default=3, help="daemons on one Postgres")
    parser.add_argument("--entries", type=int, default=50)
    parser.add_argument("--keep", type=Path, help="a folder for what each round leaves: logs, store, journal")
    given = parser.parse_args()
    deadline = time.monotonic() + given.minutes * 60
    seed, violated, kinds = given.seed, 0, ["sqlite", "postgres"] if given.kind == "both" else [given.kind]
    while time.monotonic() < deadline:
        for kind in kinds:
            keep = given.keep / f"{seed}-{kind}" if given.keep else None
            seconds = min(given.round, max(10.0, deadline - time.monotonic()))
            nodes = 1 if kind == "sqlite" else given.nodes
            outcome = endure(seed, seconds, kind=kind, nodes=nodes, entries=given.entries, keep=keep)
            print(f"{kind}, {nodes} node{'s' * (nodes > 1)}, {outcome.text()}", flush=True)
            violated += len(outcome.violations)
        seed += 1
    print(f"invariants violated in all: {violated}")
    return 1 if violated else 0


if __name__ == "__main__":
    sys.exit(main())
