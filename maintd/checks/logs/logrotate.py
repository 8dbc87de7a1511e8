"""What logrotate remembers: when it last rotated each log.

Source: the state file of logrotate 3.x, `"/var/log/app.log" 2026-3-1-2:0:0` a line, in the host's local time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from maintd.errors import TargetError

STATE = ("var/lib/logrotate/status", "var/lib/logrotate/logrotate.status", "var/lib/logrotate.status")

_LINE = re.compile(r'"((?:[^"\\]|\\.)*)"\s+(\d+)-(\d+)-(\d+)(?:-(\d+):(\d+):(\d+))?')
_MOST = 16 << 20


def rotations(root: Path) -> Mapping[Path, datetime]:
    """When each log was last rotated, by its path on the host. Times are the host's local ones, without a zone.

    root: of the host, as seen from here. Raises TargetError, with cause `empty` when there is no state file.
    """
    for name in STATE:
        path = root / name
        try:
            with path.open(encoding="utf-8", errors="surrogateescape") as file:
                text = file.read(_MOST)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise TargetError(f"{path}: {error.strerror}", "give read access to it", cause="denied") from error
        if not text.startswith("logrotate state"):
            raise TargetError(f"{path}: does not begin as logrotate's state", "is it cut?", cause="malformed")
        return _read(text)
    hint = "install logrotate, or set rotation to null when the programs rotate by themselves"
    raise TargetError(f"{root / STATE[0]}: there is none", hint, cause="empty")


def _read(text: str) -> dict[Path, datetime]:
    found = {}
    for match in map(_LINE.fullmatch, text.splitlines()):
        if match is None:
            continue
        name = re.sub(r"\\(.)", r"\1", match[1])
        try:
            found[Path(name)] = datetime(*(int(number or 0) for number in match.groups()[1:]))  # type: ignore[arg-type]  # noqa: DTZ001
        except ValueError:
            continue
    return found
