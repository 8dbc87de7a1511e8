"""Vulnerabilities as trivy tells them in its JSON: its exit code is 0 with and without any.

Source: trivy's report schema, version 2.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from maintd.clients.shell import Command, run
from maintd.errors import JobError, TargetError

_REPORT_LIMIT = 256 * 1024 * 1024  # bytes
_HINT = "write it with: trivy image --format json --output FILE IMAGE"


@dataclass(frozen=True)
class Scan:
    """One image's report. `ids` are the vulnerabilities that have a fix, each once, with its severity."""

    image: str
    image_id: str
    made_at: datetime
    ids: Mapping[str, str]

    def unaccepted(self, accepted: Mapping[str, date], today: date) -> dict[str, str]:
        """Those that nobody has accepted until today or later."""
        return {name: severity for name, severity in self.ids.items() if accepted.get(name, date.min) < today}


def read(path: Path) -> Scan:
    """A report file. Raises TargetError."""
    try:
        if path.stat().st_size > _REPORT_LIMIT:
            raise TargetError(f"{path} is larger than {_REPORT_LIMIT} bytes", cause="malformed")
        body = json.loads(path.read_bytes())
    except OSError as error:
        raise TargetError(f"{path}: {error.strerror}", _HINT, cause="empty") from error
    except ValueError as error:
        raise TargetError(f"{path} is not JSON: {error}", _HINT, cause="malformed") from error
    try:
        return _scan(body)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TargetError(f"{path} is not a report of trivy: {error}", _HINT, cause="malformed") from error


def _scan(body: Mapping[str, Any]) -> Scan:
    found: dict[str, str] = {}
    for result in body.get("Results") or ():
        for one in result.get("Vulnerabilities") or ():
            if one.get("FixedVersion"):
                found[str(one["VulnerabilityID"])] = str(one.get("Severity", "UNKNOWN"))
    made_at = datetime.fromisoformat(str(body["CreatedAt"]))
    return Scan(
        str(body["ArtifactName"]),
        str((body.get("Metadata") or {}).get("ImageID", "")),
        made_at if made_at.tzinfo else made_at.replace(tzinfo=UTC),
        found,
    )


def reports(folder: Path) -> tuple[list[Scan], list[TargetError]]:
    """All `*.json` of a folder: the reports, and why the others are none."""
    scans, errors = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            scans.append(read(path))
        except TargetError as error:
            errors.append(error)
    return scans, errors


def report_of(scans: Iterable[Scan], name: str, image_id: str) -> Scan | None:
    """The newest report of exactly this image; one by name alone may be of what the tag meant before."""
    fitting = [one for one in scans if one.image_id == image_id or (not one.image_id and one.image == name)]
    return max(fitting, key=lambda one: one.made_at, default=None)


def database_made_at(binary: str, timeout: timedelta) -> datetime:
    """When the database of vulnerabilities that is here was made. Raises TargetError."""
    lines: list[str] = []
    _started([binary, "version", "--format", "json"], timeout, lines)
    try:
        made = json.loads("\n".join(lines))["VulnerabilityDB"]["UpdatedAt"]
        return datetime.fromisoformat(made)
    except (ValueError, KeyError, TypeError) as error:
        hint = "run: trivy image --download-db-only"
        raise TargetError("trivy has no database of vulnerabilities", hint, cause="empty") from error


def scan(binary: str, name: str, docker_url: str, folder: Path, timeout: timedelta) -> Scan:
    """Have trivy look at an image that is here, with the database that is here. Raises TargetError."""
    file = folder / "trivy.json"
    file.unlink(missing_ok=True)
    argv = [
        binary,
        "image",
        "--quiet",
        "--format",
        "json",
        "--scanners",
        "vuln",
        "--ignore-unfixed",
        "--skip-db-update",
        "--docker-host",
        docker_url,
        "--output",
        str(file),
        name,
    ]
    _started(argv, timeout, [])
    return read(file)


def _started(argv: list[str], timeout: timedelta, lines: list[str]) -> None:
    said: list[str] = []
    try:
        ended = run(Command(argv), timeout, lambda stream, line: (lines if stream == "stdout" else said).append(line))
    except JobError as error:
        raise TargetError(error.message, error.hint, cause="not_configured") from error
    if ended.timed_out:
        raise TargetError(f"trivy did not end in {timeout}", "raise trivy_timeout", cause="timed_out")
    if ended.exit_code != 0:
        last = " ".join(said[-1:])[:300]
        raise TargetError(f"trivy ended with {ended.exit_code or ended.signal}: {last}", cause="failed")
