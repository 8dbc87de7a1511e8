"""All due times of a year of thirty entries, in a zone with summer time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from peers.base import CACHE, HERE, PROGRAMS, Peer, Promises, UnavailableError, make_venv
from table import Figure, Row

ITERATED = Promises(False, False, False, "its own iteration, one time after the other")
OURS = Promises(False, False, False, "compiled rules, as `maintd next` and the checks on load use them")


def measure(peers: Sequence[Peer], repeat: int) -> Row:
    """maintd, then the libraries that a scheduler could take its due times from."""
    simulation = CACHE / "simulation"
    figures = [_figure("maintd", sys.executable, repeat, OURS)]
    try:
        make_venv(simulation, HERE / "requirements-simulation.txt")
    except UnavailableError as error:
        figures += [Figure(name, missing=str(error)) for name in ("cronsim", "croniter")]
    else:
        figures += [_figure(name, f"{simulation}/bin/python", repeat, ITERATED) for name in ("cronsim", "croniter")]
    raw = next((peer for peer in peers if peer.requirements == "apscheduler"), None)
    if raw:
        figures.append(_figure("apscheduler", raw.python, repeat, ITERATED))
    return Row("year", "a year of 30 entries, all due times", "s", figures, per_run=False)


def _figure(name: str, python: str, repeat: int, promises: Promises) -> Figure:
    path: Mapping[str, str] = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"}
    argv = [python, str(PROGRAMS / "year.py"), name, str(repeat)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=path, timeout=60)
    except subprocess.TimeoutExpired:
        return Figure(name, promises=promises, missing="not within 60 s")
    if done.returncode:
        return Figure(name, promises=promises, missing=done.stderr.strip()[-300:])
    result = json.loads(done.stdout)
    more: dict[str, float | str] = {"due times": f"{result['found']:,}"}
    return Figure(f"{name} {result['version']}", result["seconds"], promises, more, command=" ".join(argv[1:]))
