"""Properties of the readers of logs: any bytes are read, counted, and denied requests are found whatever is near."""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fuzz.properties import Property, within_time
from maintd.checks.logs import auth_log, folder
from maintd.checks.logs.denied_requests import DeniedRequests
from maintd.checks.logs.logins import LoginSummary

AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
FAILED = b"2026-11-24T12:00:00Z web sshd[7]: Failed password for root from 203.0.113.7 port 2 ssh2\n"
DENIED = b'{"time":"2026-11-24T12:00:00Z","method":"GET","path":"/admin","status":401,"remote":"203.0.113.7"}\n'


@contextmanager
def logs() -> Iterator[Property]:
    """A log of logins and one of requests, plain and compressed, with a known line at the end."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)

        def holds(data: bytes) -> None:
            for name, known in (("auth.log", FAILED), ("web.log", DENIED)):
                text = data + b"\n" + known
                (root / name).write_bytes(text)
                (root / f"{name}.1.gz").write_bytes(gzip.compress(text, 1))
                (root / f"{name}.2.gz").write_bytes(data)  # mostly no gzip
            until = datetime.now(UTC) + timedelta(days=400)
            with within_time():
                summary = LoginSummary(until)
                found = auth_log.read(root / "auth.log", AT - timedelta(days=1), summary, UTC)
                requests = DeniedRequests(AT - timedelta(days=1), until)
                folder.read(root, requests)
            assert summary.failures >= 2, found
            assert requests.admin >= 2 or requests.truncated, requests

        yield holds
