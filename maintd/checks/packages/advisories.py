"""Advisories about packages: which versions they affect, how bad they are, and which version ends them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from packaging.version import InvalidVersion, Version

from maintd.checks.hints import printable
from maintd.checks.packages import semver
from maintd.checks.packages.locked import NPM, Package
from maintd.checks.packages.semver import SemVer
from maintd.errors import TargetError

CRITICAL, HIGH, MODERATE, LOW, UNRATED = "critical", "high", "moderate", "low", "unrated"
SEVERITIES = (CRITICAL, HIGH, UNRATED, MODERATE, LOW)
"""The worst first. One without a rating counts as high: it has not been found to be harmless."""

_CALLED = {"critical": CRITICAL, "high": HIGH, "moderate": MODERATE, "medium": MODERATE, "low": LOW, "info": LOW}
_CVSS = {
    "AV": {"N": 0.85, "A": 0.62, "L": 0.55, "P": 0.2},
    "AC": {"L": 0.77, "H": 0.44},
    "UI": {"N": 0.85, "R": 0.62},
    "C": {"H": 0.56, "L": 0.22, "N": 0.0},
    "I": {"H": 0.56, "L": 0.22, "N": 0.0},
    "A": {"H": 0.56, "L": 0.22, "N": 0.0},
}
_PRIVILEGES = {"U": {"N": 0.85, "L": 0.62, "H": 0.27}, "C": {"N": 0.85, "L": 0.68, "H": 0.5}}

Ordered = SemVer | Version


@dataclass(frozen=True)
class Advisory:
    """What one advisory means for one version. `fixed`: the first version after it that is not affected; None: none is
    known. `malicious`: the package itself is the attack."""

    id: str
    title: str
    severity: str
    fixed: str | None
    aliases: frozenset[str] = frozenset()
    malicious: bool = False
    source: str = ""


@dataclass
class Answer:
    """What a source answered: advisories by package, and why some are not known."""

    found: dict[tuple[str, str, str], list[Advisory]] = field(default_factory=dict)  # ecosystem, name, version
    unknown: dict[tuple[str, str, str], str] = field(default_factory=dict)
    problems: list[TargetError] = field(default_factory=list)

    def add(self, key: tuple[str, str, str], advisory: Advisory) -> None:
        """Add an advisory; the same one of another source only makes the severity worse, or adds the fix."""
        mine = self.found.setdefault(key, [])
        names = advisory.aliases | {advisory.id}
        for place, other in enumerate(mine):
            if names & (other.aliases | {other.id}):
                worse = min(other, advisory, key=lambda item: _rank(item.severity))
                mine[place] = Advisory(
                    id=min(other.id, advisory.id, key=lambda text: (not text.startswith("GHSA"), text)),
                    title=other.title or advisory.title,
                    severity=worse.severity,
                    fixed=other.fixed or advisory.fixed,
                    aliases=other.aliases | names | {other.id},
                    malicious=other.malicious or advisory.malicious,
                    source=other.source if advisory.source in other.source else f"{other.source}, {advisory.source}",
                )
                return
        mine.append(advisory)


def key_of(package: Package) -> tuple[str, str, str]:
    """What sources are asked for."""
    return package.ecosystem, package.name, package.version


def _rank(severity: str) -> int:
    # A rating of one source is better than none of another.
    return SEVERITIES.index(severity) if severity != UNRATED else len(SEVERITIES)


def severity_named(text: object) -> str:
    """The severity that a source names."""
    return _CALLED.get(str(text).lower(), UNRATED)


def severity_of_vector(vector: str) -> str:
    """The severity of a CVSS 3 vector by its base score; unrated for any other.

    Source: FIRST, CVSS v3.1 specification, sections 7.1 and 7.4 and appendix A.
    """
    parts = dict(part.split(":", 1) for part in vector[:200].split("/") if ":" in part)
    if not parts.pop("CVSS", "").startswith("3"):
        return UNRATED
    try:
        value = {name: values[parts[name]] for name, values in _CVSS.items()}
        privileges = _PRIVILEGES[parts["S"]][parts["PR"]]
    except KeyError:
        return UNRATED
    changed = parts["S"] == "C"
    base = 1 - (1 - value["C"]) * (1 - value["I"]) * (1 - value["A"])
    impact = 7.52 * (base - 0.029) - 3.25 * (base - 0.02) ** 15 if changed else 6.42 * base
    if impact <= 0:
        return LOW
    exploit = 8.22 * value["AV"] * value["AC"] * privileges * value["UI"]
    score = _round_up(min((impact + exploit) * (1.08 if changed else 1), 10))
    return CRITICAL if score >= 9 else HIGH if score >= 7 else MODERATE if score >= 4 else LOW


def _round_up(score: float) -> float:
    whole = round(score * 100_000)
    return whole / 100_000 if whole % 10_000 == 0 else (whole // 10_000 + 1) / 10


def ordered(ecosystem: str, text: str) -> Ordered:
    """A version that can be compared with others of its ecosystem. Raises ValueError."""
    if ecosystem == NPM:
        return semver.parse(text)
    try:
        return Version(text[:300])
    except InvalidVersion as error:
        raise ValueError(str(error)) from None


def breaks(ecosystem: str, version: str, fixed: str) -> bool | None:
    """Whether a fix needs a version that may be incompatible: another major one, or minor below 1. None: not known."""
    try:
        before, after = ordered(ecosystem, version), ordered(ecosystem, fixed)
    except ValueError:
        return None
    if isinstance(before, SemVer) and isinstance(after, SemVer):
        return before.breaks(after)
    if isinstance(before, Version) and isinstance(after, Version):
        return (before.epoch, before.major, before.minor if not before.major else 0) != (
            after.epoch,
            after.major,
            after.minor if not after.major else 0,
        )
    return None


@dataclass(frozen=True)
class Effect:
    """Whether a version is affected, and the first later version that is not."""

    affected: bool
    fixed: str | None = None


def npm_effect(version: str, vulnerable: str) -> Effect:
    """The effect of an advisory of the npm registry, whose range npm compares with prereleases. Raises ValueError."""
    here = semver.parse(version)
    alternatives = semver.parse_range(vulnerable, prereleases=True)
    if not any(all(each.allows(here) for each in alternative) for alternative in alternatives):
        return Effect(affected=False)
    ends = sorted(
        each.version
        for alternative in alternatives
        for each in alternative
        if each.operator == "<" and here < each.version
    )
    free = (
        end for end in ends if not any(all(each.allows(end) for each in alternative) for alternative in alternatives)
    )
    first = next(free, None)
    return Effect(affected=True, fixed=None if first is None else str(first))


def osv_effect(ecosystem: str, version: str, affected: Iterable[Mapping[str, Any]]) -> Effect:
    """The effect of an OSV record by its entries for one package. Raises ValueError for one that cannot be compared.

    Source: the OSV schema 1.7, "Evaluation": a version is affected when it is listed, or the last event at or before
    it is `introduced`; `last_affected` ends after its own version.
    """
    here, hit, fixes = ordered(ecosystem, version), False, list[tuple[Ordered, str]]()
    for entry in affected:
        versions, ranges = entry.get("versions"), entry.get("ranges")
        listed = isinstance(versions, list) and version in versions
        comparable = [
            each for each in ranges or () if isinstance(each, dict) and each.get("type") in ("SEMVER", "ECOSYSTEM")
        ]
        if not comparable and not versions:
            raise ValueError("the advisory has no versions that can be compared")
        hit = hit or listed
        for each in comparable:
            within, ends = _within(ecosystem, here, each.get("events"))
            hit = hit or within
            fixes += ends
    later = sorted((item for item in fixes if here < item[0]), key=lambda item: item[0])  # type: ignore[operator]
    return Effect(hit, later[0][1] if hit and later else None)


_ORDER = {"introduced": 0, "fixed": 1, "last_affected": 2}


def _within(ecosystem: str, here: Ordered, events: object) -> tuple[bool, list[tuple[Ordered, str]]]:
    """Whether a version is within a range, and the versions that fix it."""
    if not isinstance(events, list) or not events:
        raise ValueError("a range without events")
    sorted_events = list[tuple[bool, Any, int, str]]()
    for event in events:
        if not isinstance(event, dict):
            raise ValueError("an event that is no object")  # noqa: TRY004 - the data's fault
        for kind, text in event.items():
            if kind == "limit":
                continue
            if kind not in _ORDER or not isinstance(text, str):
                raise ValueError(f"an event {printable(str(kind))[:40]!r}")
            # "0" is before every version.
            first = kind == "introduced" and text == "0"
            sorted_events.append((not first, None if first else ordered(ecosystem, text), _ORDER[kind], text))
    sorted_events.sort(key=lambda item: (item[0], item[1], item[2]) if item[0] else (False, 0, 0))
    affected, fixes = False, list[tuple[Ordered, str]]()
    for has_version, at, kind, text in sorted_events:
        if kind == _ORDER["introduced"] and (not has_version or here >= at):
            affected = True
        elif kind == _ORDER["fixed"]:
            fixes.append((at, text))
            affected = affected and here < at
        elif kind == _ORDER["last_affected"] and here > at:
            affected = False
    return affected, fixes


def osv_advisory(record: Mapping[str, Any], fixed: str | None, source: str) -> Advisory:
    """What an OSV record has beside its versions."""
    name = printable(str(record.get("id", "")))[:80]
    aliases = record.get("aliases")
    names = frozenset(str(each) for each in aliases if isinstance(each, str)) if isinstance(aliases, list) else ()
    title = printable(" ".join(str(record.get("summary") or record.get("details") or "").split()))[:160]
    malicious = name.startswith("MAL-")
    severity = CRITICAL if malicious else _osv_severity(record)
    return Advisory(name, title, severity, fixed, frozenset(names), malicious, source)


def _osv_severity(record: Mapping[str, Any]) -> str:
    own = record.get("database_specific")
    named = severity_named(own.get("severity")) if isinstance(own, dict) else UNRATED
    if named != UNRATED:
        return named
    scores: Sequence[Any] = record["severity"] if isinstance(record.get("severity"), list) else ()
    vectors = [str(each.get("score")) for each in scores if isinstance(each, dict)]
    return min((severity_of_vector(vector) for vector in vectors), key=_rank, default=UNRATED)


def advisory_id(url: object, number: object) -> str:
    """The id of an advisory of the npm registry: that of GitHub in its URL, or the registry's number."""
    match = re.search(r"GHSA(-[23456789cfghjmpqrvwx]{4}){3}", str(url)[:500])
    return match[0] if match else f"npm {printable(str(number))[:40]}"
