"""Compares maintd with other schedulers and with lower bounds in one run: a table per question, ratios first.

    python bench/compare.py [--only ROW,…] [--peers WORD,…] [--quick] [--repeat 3] [--json FILE]

Contenders are installed into environments of their own below ~/.cache/maintd-bench, with the pins of
bench/peers/requirements-*.txt; servers are started on loopback and stopped at the end. The row of a contender that
cannot be installed, or does not start its jobs in time, has the reason. Runs take turns, except in the idle rows. The
row `kill` has no numbers: it shows whose history is durable, which the verdicts of the other rows use. The exit code is
0.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil
from peers import apscheduler, celery, cron, huey, maintd, prefect, procrastinate, yacron
from peers.base import Peer, Recorder, UnavailableError
from peers.servers import Servers
from rows import calendar_year, due, idle, killed, rate, status
from table import Row, text

PEERS: list[type[Peer]] = [
    maintd.Maintd,
    maintd.MaintdOnPostgres,
    apscheduler.InThread,
    apscheduler.InThreadRecorded,
    apscheduler.InProcess,
    apscheduler.InProcessRecorded,
    cron.Cron,
    yacron.Yacron,
    celery.Celery,
    celery.CeleryOnSqlite,
    celery.CeleryTracked,
    huey.Huey,
    huey.HueySynced,
    procrastinate.Procrastinate,
    prefect.Prefect,
]

# Of a contender with several forms, rows that are not about its store use the first.
ONE_FORM = (celery.CeleryOnSqlite, huey.HueySynced)
OWN_ROWS = (apscheduler.InThreadRecorded, apscheduler.InProcess, apscheduler.InProcessRecorded)
# Prefect needs minutes to register so many entries; cron does not show when it has read its tables.
NO_LOAD = (prefect.Prefect, cron.Cron)
ROWS = [
    *(shape.key for shape in due.SHAPES),
    "runs-sqlite",
    "runs-postgres",
    "idle",
    "start",
    "load",
    "status",
    "year",
    "kill",
]
IN_SQLITE = (
    maintd.Maintd,
    apscheduler.InThreadRecorded,
    apscheduler.InProcessRecorded,
    celery.CeleryOnSqlite,
    huey.Huey,
    huey.HueySynced,
    prefect.Prefect,
)
IN_POSTGRES = (maintd.MaintdOnPostgres, celery.Celery, procrastinate.Procrastinate)


def matrix(peers: Sequence[Peer], asked: argparse.Namespace) -> dict[str, Callable[[], list[Row]]]:
    """Return the measurements by the name of their row."""
    single = [peer for peer in peers if not isinstance(peer, ONE_FORM)]
    plain = [peer for peer in single if not isinstance(peer, OWN_ROWS)]
    repeat = 1 if asked.quick else asked.repeat
    sizes = [1_000, 100_000] if asked.quick else [1_000, 1_000_000, 10_000_000]

    def of(kinds: tuple[type[Peer], ...]) -> list[Peer]:
        return [peer for peer in peers if isinstance(peer, kinds) and type(peer) in kinds]

    rows: dict[str, Callable[[], list[Row]]] = {}
    for shape in due.SHAPES:
        rows[shape.key] = lambda shape=shape: [due.measure(shape, single, repeat)]
    rows["runs-sqlite"] = lambda: [rate.measure("SQLite", of(IN_SQLITE), repeat)]
    rows["runs-postgres"] = lambda: [rate.measure("Postgres", of(IN_POSTGRES), repeat)]
    rows["idle"] = lambda: idle.idle(plain, 20 if asked.quick else asked.idle)
    rows["start"] = lambda: [idle.start(plain, repeat)]
    rows["load"] = lambda: [idle.load([peer for peer in plain if not isinstance(peer, NO_LOAD)])]
    rows["status"] = lambda: [
        status.measure(
            [peer for peer in plain if not isinstance(peer, maintd.MaintdOnPostgres)], sizes, 5 if asked.quick else 11
        )
    ]
    rows["year"] = lambda: [calendar_year.measure(peers, 3)]
    rows["kill"] = lambda: [killed.measure([peer for peer in peers if isinstance(peer, Recorder)])]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"rows, separated by commas: {', '.join(ROWS)}")
    parser.add_argument("--peers", help="parts of contenders' names, separated by commas; maintd always takes part")
    parser.add_argument("--quick", action="store_true", help="once each, shorter, up to 100,000 runs of history")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--idle", type=float, default=60, help="seconds over which idle daemons are measured")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that every started process is stopped
    began = time.monotonic()
    with ExitStack() as stack:
        peers, absent = take_part(Servers(stack), asked.peers)
        machine = about_the_machine()
        print(
            "\n".join(
                [
                    machine,
                    "",
                    *(f"- {peer.name}: {peer.version}" for peer in peers),
                    *(f"- {name}: absent, {why}" for name, why in absent.items()),
                    "",
                ]
            ),
            flush=True,
        )
        seen: list[Row] = []
        for key, act in matrix(peers, asked).items():
            if asked.only and key not in asked.only.split(","):
                continue
            started = time.monotonic()
            try:
                found = act()
            except Exception as error:  # noqa: BLE001  a row that fails must not stop the others
                print(f"### {key}\nnot measured: {type(error).__name__}: {error}\n", flush=True)
                continue
            seen += found
            print("\n".join(map(text, found)), f"({time.monotonic() - started:.0f} s)\n", flush=True)
            if asked.json:
                write(asked.json, machine, peers, absent, seen)
    print(commands(seen), f"\nall in {(time.monotonic() - began) / 60:.1f} min")


def take_part(servers: Servers, words: str | None) -> tuple[list[Peer], dict[str, str]]:
    """Return the requested contenders that can be installed, and why the others cannot."""
    peers: list[Peer] = []
    absent: dict[str, str] = {}
    for kind in PEERS:
        peer = kind(servers)
        asked = words is None or any(word.casefold() in peer.name.casefold() for word in words.split(","))
        if not (asked or peer.name.startswith("maintd")):
            continue
        try:
            peer.install()
            _ = peer.version
        except UnavailableError as error:
            absent[peer.name] = str(error)
        else:
            peers.append(peer)
    return peers, absent


def about_the_machine() -> str:
    """Describe the machine."""
    busy = os.getloadavg()[0]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return (
        f"{time.strftime('%Y-%m-%d %H:%M')}, commit {commit}, {os.cpu_count()} cores, "
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, load {busy:.1f} at the start"
        + (" (the machine is busy: compare only the ratios)" if busy > 0.5 else "")
    )


def commands(rows: Sequence[Row]) -> str:
    """List how each contender was started."""
    started = {figure.contender: figure.command for row in rows for figure in row.figures if figure.command}
    return "\n".join(["Commands:", *(f"- {name}: `{command}`" for name, command in started.items())])


def write(path: Path, machine: str, peers: Sequence[Peer], absent: dict[str, str], rows: Sequence[Row]) -> None:
    """Write all results so far as JSON; called after each row, so that an interrupted run keeps its results."""
    document = {
        "machine": machine,
        "versions": {peer.name: peer.version for peer in peers},
        "absent": absent,
        "rows": [row.document() for row in rows],
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
