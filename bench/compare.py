"""maintd beside what one could use instead, and beside the floors, in one run: a table for each question, ratios first.

    python bench/compare.py [--only ROW,…] [--peers WORD,…] [--quick] [--repeat 3] [--json FILE]

Contenders are installed into environments of their own below ~/.cache/maintd-bench, with the pins of
bench/peers/requirements-*.txt; servers are started on loopback and stopped. One that cannot be installed, or does not
start its jobs in time, has a row that says so. Runs take turns, never at once, but for the idle rows. The row `kill` is
in words: it shows whose history is durable, which the verdicts of the others build upon. Exit code 0.
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
from rows import calendar_year, due, killed, rate, standing, status
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

# Where a contender has several forms, the rows that are not about its store take the first.
ONE_FORM = (celery.CeleryOnSqlite, huey.HueySynced)
OWN_ROWS = (apscheduler.InThreadRecorded, apscheduler.InProcess, apscheduler.InProcessRecorded)
# Prefect needs minutes to register so many; when cron has read its tables cannot be seen.
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
    """What can be measured, by the name of the row."""
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
    rows["idle"] = lambda: standing.idle(plain, 20 if asked.quick else asked.idle)
    rows["start"] = lambda: [standing.start(plain, repeat)]
    rows["load"] = lambda: [standing.load([peer for peer in plain if not isinstance(peer, NO_LOAD)])]
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
    parser.add_argument("--idle", type=float, default=60, help="seconds of idling that are looked at")
    parser.add_argument("--json", type=Path, help="write what was seen there too")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that all that was started is stopped
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
            except Exception as error:  # noqa: BLE001  one row that breaks must not take the others with it
                print(f"### {key}\nnot measured: {type(error).__name__}: {error}\n", flush=True)
                continue
            seen += found
            print("\n".join(map(text, found)), f"({time.monotonic() - started:.0f} s)\n", flush=True)
            if asked.json:
                write(asked.json, machine, peers, absent, seen)
    print(commands(seen), f"\nall in {(time.monotonic() - began) / 60:.1f} min")


def take_part(servers: Servers, words: str | None) -> tuple[list[Peer], dict[str, str]]:
    """Those that are asked for and can be installed; and why the others cannot."""
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
    """What the figures depend on."""
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
        + (" (others work here: read only the ratios)" if busy > 0.5 else "")
    )


def commands(rows: Sequence[Row]) -> str:
    """How each contender was started."""
    said = {figure.contender: figure.command for row in rows for figure in row.figures if figure.command}
    return "\n".join(["Commands:", *(f"- {name}: `{command}`" for name, command in said.items())])


def write(path: Path, machine: str, peers: Sequence[Peer], absent: dict[str, str], rows: Sequence[Row]) -> None:
    """So that results can be compared later; after each row, so that an interrupted run leaves what it saw."""
    document = {
        "machine": machine,
        "versions": {peer.name: peer.version for peer in peers},
        "absent": absent,
        "rows": [row.document() for row in rows],
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
