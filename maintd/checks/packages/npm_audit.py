"""Read the output of `npm audit --json`, whose exit code is 1 for findings and for errors alike.

Source: npm's `npm-audit-report` and `@npmcli/arborist` of npm 7 to 11: `auditReportVersion` 2 with `vulnerabilities`
by name, or an `error` object. npm 6 writes `advisories`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from maintd.checks.hints import printable
from maintd.checks.packages.advisories import UNRATED, advisory_id, severity_named
from maintd.checks.packages.npm_lock import LIMITS
from maintd.clients.bounded import parse_json
from maintd.errors import TargetError


@dataclass(frozen=True)
class Audited:
    """One vulnerable package. `fix`: what is to be installed for it, empty for "within the ranges"; None: no fix.
    `breaks`: only by a semver-major version. `via`: ids of advisories, and names of packages that bring it."""

    name: str
    severity: str
    direct: bool
    via: tuple[str, ...]
    fix: str | None
    breaks: bool


def read_audit(data: bytes, where: str) -> list[Audited]:
    """The vulnerable packages. Raises TargetError: for npm's own error with its text."""
    document = parse_json(data, where, LIMITS)
    if not isinstance(document, dict):
        raise TargetError(f"{where}: is no output of npm audit --json", cause="unfamiliar")
    error = document.get("error")
    if error is not None:
        found = error if isinstance(error, dict) else {}
        text = f"{found.get('code', '')} {found.get('summary', '')}".strip() or str(document.get("message", ""))
        text = printable(text)[:200]
        hint = "run it where the lock file is, with access to the registry: npm audit --omit=dev --json"
        raise TargetError(f"{where}: npm audit failed: {text or 'without a reason'}", hint, cause="failed")
    version = document.get("auditReportVersion")
    if isinstance(version, bool) or version != 2:
        hint = "write it with npm 7 or later: npm audit --omit=dev --json"
        raise TargetError(f"{where}: auditReportVersion {printable(str(version))[:20]}", hint, cause="unfamiliar")
    vulnerabilities = document.get("vulnerabilities")
    if not isinstance(vulnerabilities, dict):
        raise TargetError(f"{where}: has no vulnerabilities", cause="malformed")
    return [_audited(printable(name), item, where) for name, item in vulnerabilities.items()]


def _audited(name: str, item: object, where: str) -> Audited:
    if not isinstance(item, dict) or "severity" not in item or "fixAvailable" not in item:
        raise TargetError(f"{where}: {name[:60]} has no severity or fixAvailable", cause="malformed")
    severity = severity_named(item["severity"])
    available = item["fixAvailable"]
    fix, major = None, False
    if isinstance(available, dict):
        fix = printable(f"{available.get('name', '')}@{available.get('version', '')}")[:120]
        major = available.get("isSemVerMajor") is True
    elif available is True:
        fix = ""
    via = item.get("via")
    return Audited(
        name[:120],
        severity if severity != UNRATED else UNRATED,
        item.get("isDirect") is True,
        tuple(_via(each) for each in via) if isinstance(via, list) else (),
        fix,
        major,
    )


def _via(each: str | Mapping[str, Any] | object) -> str:
    if isinstance(each, Mapping):
        return advisory_id(each.get("url"), each.get("source"))
    return printable(str(each))[:80]
