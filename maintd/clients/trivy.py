"""Reports of trivy in JSON; its exit code is 0 with and without vulnerabilities.

Source: trivy's report schema, version 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from maintd.clients.bounded import JsonLimits, parse_json
from maintd.clients.shell import Command, run
from maintd.errors import JobError, TargetError

_REPORT_LIMITS = JsonLimits(size_bytes=256 << 20, members=5_000_000)
_HINT = "write it with: trivy image --format json --output FILE IMAGE"


@dataclass(frozen=True)
class Scan:
    """One image's report. `ids`: severity by id of each vulnerability that has a fix."""

    image: str
    image_id: str
    made_at: datetime
    ids: Mapping[str, str]


def read(path: Path) -> Scan:
    """Parse a report file. Raises TargetError."""
    try:
        with path.open("rb") as file:
            body = parse_json(file.read(_REPORT_LIMITS.size_bytes + 1), str(path), _REPORT_LIMITS)
    except OSError as error:
        raise TargetError(f"{path}: {error.strerror}", _HINT, cause="empty") from error
    except TargetError as error:
        raise TargetError(error.message, _HINT, cause=error.cause) from error
    try:
        return _scan(body)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TargetError(f"{path} is not a report of trivy: {error}", _HINT, cause="malformed") from error


def _scan(body: Mapping[str, Any]) -> Scan:
    found: dict[str, str] = {}
    for result in body.get("Results") or ():
        for item in result.get("Vulnerabilities") or ():
            if item.get("FixedVersion"):
                found[str(item["VulnerabilityID"])] = str(item.get("Severity", "UNKNOWN"))
    made_at = datetime.fromisoformat(str(body["CreatedAt"]))
    return Scan(
        str(body["ArtifactName"]),
        str((body.get("Metadata") or {}).get("ImageID", "")),
        made_at if made_at.tzinfo else made_at.replace(tzinfo=UTC),
        found,
    )


def reports(folder: Path) -> tuple[list[Scan], list[TargetError]]:
    """The reports among all `*.json` of a folder, and the errors of the other files."""
    scans, errors = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            scans.append(read(path))
        except TargetError as error:
            errors.append(error)
    return scans, errors


def report_of(scans: Iterable[Scan], name: str, image_id: str) -> Scan | None:
    """The newest report of this image by id; by name only for reports without an id, because a tag may move."""
    matching = [scan for scan in scans if scan.image_id == image_id or (not scan.image_id and scan.image == name)]
    return max(matching, key=lambda scan: scan.made_at, default=None)


def database_made_at(binary: str, timeout: timedelta) -> datetime:
    """When the local vulnerability database was built. Raises TargetError."""
    lines: list[str] = []
    _run([binary, "version", "--format", "json"], timeout, lines)
    try:
        updated_at = parse_json("\n".join(lines), "trivy version")["VulnerabilityDB"]["UpdatedAt"]
        return datetime.fromisoformat(updated_at)
    except (TargetError, ValueError, KeyError, TypeError) as error:
        hint = "run: trivy image --download-db-only"
        raise TargetError("trivy has no vulnerability database", hint, cause="empty") from error


def scan(binary: str, name: str, docker_url: str, folder: Path, timeout: timedelta) -> Scan:
    """Scan a local image with the local database. Raises TargetError."""
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
    _run(argv, timeout, [])
    return read(file)


def _run(argv: list[str], timeout: timedelta, lines: list[str]) -> None:
    errors: list[str] = []
    try:
        ended = run(Command(argv), timeout, lambda stream, line: (lines if stream == "stdout" else errors).append(line))
    except JobError as error:
        raise TargetError(error.message, error.hint, cause="not_configured") from error
    if ended.timed_out:
        raise TargetError(f"trivy did not end within {timeout}", "raise trivy_timeout", cause="timed_out")
    if ended.exit_code != 0:
        last = " ".join(errors[-1:])[:300]
        raise TargetError(f"trivy ended with {ended.exit_code or ended.signal}: {last}", cause="failed")
