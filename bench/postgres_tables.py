"""How the jobs of Postgres behave with thousands of tables: seconds per phase, and how they grow with their number.

    python bench/postgres_tables.py [--tables 500 5000] [--partitioned 10]

Each size gets a database of its own on one fresh server: a tenth of the tables are partitions of tables with so many
partitions each, the others have a primary key, a second index, a sequence and a foreign key; one in fifty needs a
vacuum. Then the shipped jobs run, each phase timed. Prints the seconds, and the ratio of the largest size to the
smallest: more than the ratio of the sizes is more than linear. The server and the maintenance queries are compared with
the query that lists all tables and nothing else.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.job_runs import JobResult, run_job  # noqa: E402
from support.servers.postgres import PostgresServer, postgres  # noqa: E402

PLAIN = "SELECT c.oid, c.relname, pg_relation_size(c.oid) FROM pg_class c WHERE relkind = 'r'"


def main() -> None:
    """Fill a database of each size, run the jobs, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, nargs="+", default=[500, 5000])
    parser.add_argument("--partitioned", type=int, default=10, help="partitions of each partitioned table")
    options = parser.parse_args()
    took: dict[str, list[float]] = {}
    with postgres() as server:
        for count in options.tables:
            fill(server, count, options.partitioned)
            for name, seconds in measure(server, f"t{count}"):
                took.setdefault(name, []).append(seconds)
    sizes = " | ".join(f"{count:,} tables" for count in options.tables)
    print(f"| what | {sizes} | ratio |\n|---|{'---|' * (len(options.tables) + 1)}")
    for name, seconds in took.items():
        cells = " | ".join(f"{value:.2f} s" for value in seconds)
        print(f"| {name} | {cells} | {seconds[-1] / max(seconds[0], 1e-4):.1f} |")


def fill(server: PostgresServer, count: int, partitions: int) -> None:
    """Create a database `t<count>`; its statistics are those of a database in use."""
    with psycopg.connect(server.create(f"t{count}"), autocommit=True) as conn:
        conn.execute("CREATE EXTENSION pgstattuple; CREATE EXTENSION amcheck")
        conn.execute("CREATE TABLE base (id bigint PRIMARY KEY)")
        parents = count // 10 // partitions
        for first in range(0, parents, 50):  # a transaction has room for some thousand locks
            conn.execute(
                "".join(
                    f"CREATE TABLE p{n} (id bigint, at int) PARTITION BY RANGE (at);"
                    + "".join(
                        f"CREATE TABLE p{n}_{k} PARTITION OF p{n} FOR VALUES FROM ({k}) TO ({k + 1});"
                        for k in range(partitions)
                    )
                    + f"INSERT INTO p{n} SELECT g, g % {partitions} FROM generate_series(1, 40) g;"
                    for n in range(first, min(first + 50, parents))
                ).encode()
            )
        for first in range(0, count - count // 10, 100):
            conn.execute(
                "".join(
                    f"CREATE TABLE t{n} (id bigserial PRIMARY KEY, other bigint REFERENCES base, note text)"
                    f" WITH (autovacuum_enabled = off); CREATE INDEX ON t{n} (note);"
                    f"INSERT INTO t{n} (note) SELECT g FROM generate_series(1, {400 if n % 50 == 0 else 3}) g;"
                    for n in range(first, first + 100)
                ).encode()
            )
        conn.execute("ANALYZE")
        for n in range(0, count - count // 10, 50):
            conn.execute(f"DELETE FROM t{n} WHERE id % 2 = 0".encode())
        conn.execute("SELECT pg_stat_force_next_flush()")


def measure(server: PostgresServer, database: str) -> Iterator[tuple[str, float]]:
    """The name and the seconds of each phase."""
    targets = {"postgres": {"main": {"dsn": server.url(database), "timeout": "5m"}}}
    with psycopg.connect(server.url(database), autocommit=True) as conn:
        yield (
            "one query that lists all tables with their sizes",
            seconds(lambda: conn.execute(PLAIN.encode()).fetchall()),
        )
    for name, job, params, dry_run in (
        ("vacuum: planning (dry run)", "vacuum", {}, True),
        ("vacuum: the job, one table in fifty", "vacuum", {"max_tables": 1000}, False),
        ("reindex: planning (dry run)", "reindex", {}, True),
        ("database_size without amcheck", "database_size", {"amcheck": "no"}, False),
        ("database_size with amcheck", "database_size", {"amcheck": "yes"}, False),
        ("capacity_report", "capacity_report", {}, False),
    ):
        results: list[JobResult] = []
        with shown_errors(results, name):
            yield name, seconds(lambda: results.append(run_job(job, params, targets, dry_run=dry_run)))  # noqa: B023


@contextmanager
def shown_errors(results: list[JobResult], name: str) -> Iterator[None]:
    """Print what a job could not do: its time would mean nothing."""
    yield
    for result in results:
        if result.error is not None or any("timeout" in str(check.observed) for check in result.checks):
            print(f"{name} FAILED:\n{result.text()}")


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
