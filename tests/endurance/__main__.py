"""`make endurance MINUTES=30 SEED=7`: rounds on Postgres and SQLite in turn, until the time is over."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from endurance.driver import run_endurance
from endurance.outcome import Outcome, table


def main() -> int:
    """Print a report of each round and a table at the end; return 1 if an invariant was violated."""
    parser = argparse.ArgumentParser(prog="make endurance", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--round", type=float, default=180, help="seconds of faults in one round")
    parser.add_argument("--kind", choices=["sqlite", "postgres", "both"], default="both")
    parser.add_argument("--nodes", type=int, default=3, help="daemons on one Postgres")
    parser.add_argument("--entries", type=int, default=50)
    parser.add_argument(
        "--keep",
        type=Path,
        help="keep the files of every round in this folder; default: only of rounds with violations",
    )
    given = parser.parse_args()
    if os.geteuid() != 0:
        print(
            "This mounts file systems and cuts networks of its own: run it as root, sudo make endurance",
            file=sys.stderr,
        )
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that every process is stopped
    deadline = time.monotonic() + given.minutes * 60
    seed = given.seed
    outcomes: list[Outcome] = []
    kinds = ["postgres", "sqlite"] if given.kind == "both" else [given.kind]
    while time.monotonic() < deadline:
        kind = kinds[len(outcomes) % len(kinds)]
        seconds = min(given.round, max(10.0, deadline - time.monotonic()))
        outcomes.append(
            _round(seed, seconds, kind, given.nodes if kind == "postgres" else 1, given.entries, given.keep)
        )
        seed += 1
    print(f"\n{table(outcomes)}")
    return 1 if any(outcome.violations for outcome in outcomes) else 0


def _round(seed: int, seconds: float, kind: str, nodes: int, entries: int, keep: Path | None) -> Outcome:
    parent = keep or Path(tempfile.mkdtemp(prefix="maintd-endurance-"))
    if keep is None:
        parent.chmod(0o711)  # the user postgres must be able to enter it
    folder = parent / f"{seed}-{kind}"
    outcome = run_endurance(seed, seconds, kind=kind, nodes=nodes, entries=entries, keep=folder)
    print(outcome.text(), flush=True)
    if outcome.violations:
        print(f"  to repeat: make endurance SEED={seed}; journal, store and logs: {folder}", flush=True)
    elif keep is None:
        shutil.rmtree(parent)
    return outcome


if __name__ == "__main__":
    sys.exit(main())
