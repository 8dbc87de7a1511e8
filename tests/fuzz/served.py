"""Properties that need a store: request bodies on the API's real socket, and files that a crash leaves."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from pydantic import TypeAdapter
from support.stores import claim, queue
from support.web_services import harness, on_socket

from fuzz.properties import Property, within_time
from maintd.config.state_directory import LOCK, claim_state_dir
from maintd.errors import RefusedError
from maintd.executor.spool import replay
from maintd.job.description_cache import DescriptionCache
from maintd.model.run import Trigger
from maintd.model.run_updates import RunUpdate
from maintd.web.server import web_server

PATHS = (
    "/api/v1/runs",
    "/api/v1/runs",
    "/api/v1/runs/1/cancel",
    "/api/v1/entries/probe/pause",
    "/api/v1/entries/probe/unpause",
    "/api/v1/reload",
)

_WRITES: TypeAdapter[tuple[RunUpdate, ...]] = TypeAdapter(tuple[RunUpdate, ...])


@contextmanager
def bodies() -> Iterator[Property]:
    """Byte 0 is the path, the rest the body of a POST: success, or an error with a message."""
    with (
        tempfile.TemporaryDirectory(prefix="maintd-fz-") as folder,
        harness(Path(folder)) as made,
        web_server(made.service()),
    ):
        control = on_socket(made.settings.socket_path)
        queue(made.store, "probe", 0)

        def holds(data: bytes) -> None:
            with within_time():
                answer = control.ask("POST", PATHS[data[0] % len(PATHS) if data else 0], data[1:])
            assert 200 <= answer.status < 500, (answer.status, answer.text)
            if answer.status >= 400:
                assert answer.json["error"]["message"].strip()
            elif answer.status == 201:
                assert control.get(f"/api/v1/runs/{answer.json['id']}").status == 200

        yield holds


@contextmanager
def leftovers() -> Iterator[Property]:
    """Byte 0 selects a file of the state directory, the rest is its content: a daemon must start with it."""
    with tempfile.TemporaryDirectory(prefix="maintd-fz-") as folder:
        state = Path(folder)

        def pid(data: bytes) -> None:
            (state / LOCK).write_bytes(data)
            with claim_state_dir(state):
                try:
                    with claim_state_dir(state):
                        raise AssertionError("two daemons")
                except RefusedError:
                    pass
                (state / LOCK).write_bytes(data)  # by another process, while it runs

        def descriptions(data: bytes) -> None:
            (state / "job_descriptions.json").write_bytes(data)
            DescriptionCache(state / "job_descriptions.json").get("key")

        kinds = (pid, descriptions)

        def holds(data: bytes) -> None:
            with within_time():
                kinds[data[0] % len(kinds) if data else 0](data[1:])

        yield holds


@contextmanager
def spools() -> Iterator[Property]:
    """The spool of a dead daemon is written to the store, except for an incomplete last record; a spool with other
    content is set aside for an operator, and never dropped."""
    with tempfile.TemporaryDirectory(prefix="maintd-fz-") as folder, harness(Path(folder)) as made:
        spool_dir = made.settings.spool_dir

        numbers = count()

        def holds(data: bytes) -> None:
            # A new entry each time, since runs of one entry do not overlap.
            name = f"probe-{next(numbers)}"
            run = claim(made.store, queue(made.store, name, 0, due_at=None, trigger=Trigger.MANUAL), 0)
            shutil.rmtree(spool_dir, ignore_errors=True)
            spool_dir.mkdir(parents=True)
            (spool_dir / f"{run.id}-{run.fence}.spool").write_bytes(data)
            with within_time():
                replay(spool_dir, made.store)
            left = {path.suffix for path in spool_dir.iterdir()}
            assert left <= {".refused"}
            assert left or all(_is_record(line) for line in data.split(b"\n")[:-1]), "dropped"

        yield holds


def _is_record(line: bytes) -> bool:
    try:
        record = json.loads(line)
        int(record["seq"])
        _WRITES.validate_python(record["writes"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    return True
