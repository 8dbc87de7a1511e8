"""Properties of the readers of configuration: compose files, YAML, TOML, JSON, and PromQL."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fuzz.properties import Property, within_time
from maintd.checks.config_review import compose, web
from maintd.checks.config_review.alertmanager import SILENT, criteria
from maintd.checks.config_review.promql import PromqlError, is_always_empty, parse, selectors
from maintd.checks.config_review.snapshot import MAX_PATHS, Collector
from maintd.clients.bounded import parse_yaml
from maintd.errors import TargetError

_SUFFIXES = ("yaml", "toml", "json")


@contextmanager
def configurations() -> Iterator[Property]:
    """Byte 0 is the kind: PromQL, a compose file, a file by its suffix, or a configuration of Alertmanager."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def holds(data: bytes) -> None:
            kind, rest = (data[0] % 6 if data else 0), data[1:]
            with within_time():
                try:
                    _read(folder, kind, rest)
                except TargetError as error:
                    assert error.cause in ("too_large", "malformed", "unfamiliar", "empty"), error

        yield holds


def _read(folder: Path, kind: int, data: bytes) -> None:
    collector = Collector("subject", b"k")
    if kind == 0:
        try:
            tree = parse(data.decode(errors="replace"))
        except PromqlError:
            return
        assert all(item.text for item in selectors(tree))
        is_always_empty(tree, lambda selector: False)
    elif kind == 1:
        path = folder / "compose.yaml"
        path.write_bytes(data)
        seen, content = compose.read([path], collector)
        assert len(seen.snapshot.values) <= MAX_PATHS
        for criterion in compose.compare(content, [], ()):
            criterion.evaluate()
    elif kind < 5:
        path = folder / f"file.{_SUFFIXES[kind - 2]}"
        path.write_bytes(data)
        assert len(web.read_file(path, collector).snapshot.values) <= MAX_PATHS
    else:
        config = parse_yaml(data, "config")
        if isinstance(config, dict):
            collector.tree("", config)
            for criterion in criteria(config, SILENT):
                criterion.evaluate()
