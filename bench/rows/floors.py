"""What nothing that does the same can do faster, on this machine, in the same run."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import psycopg

FORKS = """
import os, sys, time
count = int(sys.argv[1])
r, w = os.pipe()
began = time.time_ns()
for _ in range(count):
    if os.fork() == 0:
        os.write(w, b"%d\\n" % (time.time_ns() - began))
        os._exit(0)
for _ in range(count):
    os.wait()
os.close(w)
sys.stdout.write(os.fdopen(r).read())
"""

FORK_RATE = """
import os, time
began = time.perf_counter()
for _ in range(1000):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
print(1000 / (time.perf_counter() - began))
"""


def fork_burst(count: int) -> list[float]:
    """Milliseconds until each of so many children of an empty Python process runs its first line."""
    return [int(line) / 1e6 for line in _python(FORKS, str(count)).split()]


def exec_burst(count: int) -> list[float]:
    """The same with a program in each child: `date`, which prints the time."""
    with tempfile.TemporaryFile() as out:
        began = time.time_ns()
        actions = [(os.POSIX_SPAWN_DUP2, out.fileno(), 1)]
        children = [os.posix_spawn("/bin/date", ["date", "+%s%N"], {}, file_actions=actions) for _ in range(count)]
        for child in children:
            os.waitpid(child, 0)
        out.seek(0)
        return [(int(line) - began) / 1e6 for line in out.read().split()]


def fork_rate() -> float:
    """Children a second, one after the other, from an empty Python process."""
    return float(_python(FORK_RATE))


def exec_rate(count: int = 500) -> float:
    """Programs a second, one after the other."""
    began = time.perf_counter()
    for _ in range(count):
        os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
    return count / (time.perf_counter() - began)


def sqlite_rate(seconds: float = 2.0) -> float:
    """Runs a second when a run is an insert and an update in SQLite, each committed with fsync, and nothing else."""
    with (
        tempfile.TemporaryDirectory(prefix="maintd-bench-", dir="/var/tmp") as name,
        closing(sqlite3.connect(Path(name) / "floor.db", isolation_level=None)) as connection,
    ):
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE runs (id INTEGER PRIMARY KEY, entry TEXT, state TEXT)")
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            row = connection.execute("INSERT INTO runs (entry, state) VALUES ('e', 'running')").lastrowid
            connection.execute("UPDATE runs SET state = 'succeeded' WHERE id = ?", (row,))
            count += 1
        return count / (time.perf_counter() - began)


def postgres_rate(url: str, seconds: float = 2.0) -> float:
    """The same in Postgres, one connection, each statement a transaction."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE runs (id bigserial PRIMARY KEY, entry text, state text)")
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            row = connection.execute("INSERT INTO runs (entry, state) VALUES ('e', 'running') RETURNING id").fetchone()
            connection.execute("UPDATE runs SET state = 'succeeded' WHERE id = %s", row)
            count += 1
        return count / (time.perf_counter() - began)


def _python(code: str, *words: str) -> str:
    argv = [sys.executable, "-I", "-S", "-c", code, *words]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout
