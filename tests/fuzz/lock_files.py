"""Properties of the readers of lock files, of the output of npm audit, and of answers and records about packages."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fuzz.properties import Property, within_time
from maintd.checks.packages import lock_files, npm_registry, osv
from maintd.checks.packages.advisories import Answer
from maintd.checks.packages.locked import NPM, Package
from maintd.checks.packages.npm_audit import read_audit
from maintd.checks.packages.registries import Requests
from maintd.clients.bounded import parse_json
from maintd.errors import TargetError

NAMES = ("package-lock.json", "uv.lock", "poetry.lock", "requirements.txt")
CAUSES = ("malformed", "unfamiliar", "too_large", "failed", "not_found", "denied", "empty")
_PACKAGE = Package(NPM, "lodash", "4.17.20", ("lodash",), registry="registry.npmjs.org")


class _Answers(Requests):
    """Requests that are answered with the same bytes."""

    data = b""

    def json(self, method: str, path: str, body: object = None) -> object:
        return parse_json(self.data, "the answer")


@contextmanager
def locks() -> Iterator[Property]:
    """Byte 0 is the kind, the rest its content: packages with a name and a version, or why they are not known."""
    with tempfile.TemporaryDirectory(prefix="maintd-fuzz-") as folder:

        def holds(data: bytes) -> None:
            kind, content = (data[0] % 7 if data else 0), data[1:]
            with within_time():
                try:
                    if kind < len(NAMES):
                        path = Path(folder) / NAMES[kind]
                        path.write_bytes(content)
                        for package in lock_files.read(path, "the file").packages:
                            assert package.name
                            assert package.version
                            assert package.way.isprintable()
                    elif kind == 4:
                        assert all(item.name.isprintable() for item in read_audit(content, "the file"))
                    elif kind == 5:
                        path = Path(folder) / "record.json"
                        path.write_bytes(content)
                        osv.read_export(path.parent, [_PACKAGE], Answer(), timedelta(days=7), datetime.now(UTC))
                    else:
                        for ask in (npm_registry.ask, osv.ask):
                            answers = _Answers("http://registry", lambda: timedelta(minutes=1))
                            answers.data = content
                            ask(answers, [_PACKAGE], Answer())
                except TargetError as error:
                    assert error.cause in CAUSES, error
                finally:
                    (Path(folder) / "record.json").unlink(missing_ok=True)

        yield holds
