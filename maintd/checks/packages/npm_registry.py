"""Advisories of the npm registry's bulk endpoint, as `npm audit` asks for them.

Source: npm's `@npmcli/metavuln-calculator` and `@npmcli/arborist` of npm 7 to 11: POST
/-/npm/v1/security/advisories/bulk with `{name: [version, …]}`; the answer has the advisories of each name, of which a
version is affected when `vulnerable_versions` includes it, prereleases included.
"""

from __future__ import annotations

from collections.abc import Sequence

from maintd.checks.hints import printable
from maintd.checks.packages.advisories import Advisory, Answer, advisory_id, key_of, npm_effect, severity_named
from maintd.checks.packages.locked import Package
from maintd.checks.packages.registries import Requests, chunks
from maintd.errors import TargetError

PATH = "/-/npm/v1/security/advisories/bulk"
_AT_ONCE = 500  # names of one request


def ask(requests: Requests, packages: Sequence[Package], answer: Answer) -> None:
    """Add what the registry knows of these packages; what it did not answer for is unknown."""
    versions: dict[str, set[str]] = {}
    for package in packages:
        versions.setdefault(package.name, set()).add(package.version)
    for names in chunks(sorted(versions), _AT_ONCE):
        asked = {name: sorted(versions[name]) for name in names}
        keys = {key_of(package) for package in packages if package.name in asked}
        try:
            _add(requests.json("POST", PATH, asked), requests.base, asked, answer)
        except TargetError as error:
            answer.problems.append(error)
            answer.unknown |= dict.fromkeys(keys, f"{error.cause}: {error.message}")


def _add(found: object, base: str, asked: dict[str, list[str]], answer: Answer) -> None:
    if not isinstance(found, dict):
        raise TargetError(f"{base}: the answer is no list of advisories by name", cause="malformed")
    if "error" in found and "error" not in asked:
        raise TargetError(f"{base}: answered {printable(str(found['error']))[:120]}", cause="failed")
    for name in set(found) - set(asked):
        raise TargetError(f"{base}: answered for {printable(name)[:60]}, which was not asked for", cause="malformed")
    for name, advisories in found.items():
        if not isinstance(advisories, list):
            raise TargetError(f"{base}: {name}: no list of advisories", cause="malformed")
        for one in advisories:
            wanted = one.get("vulnerable_versions") if isinstance(one, dict) else None
            if not isinstance(wanted, str):
                raise TargetError(f"{base}: {name}: an advisory without vulnerable_versions", cause="malformed")
            for version in asked[name]:
                key = ("npm", name, version)
                try:
                    effect = npm_effect(version, wanted)
                except ValueError as error:
                    answer.unknown[key] = f"unfamiliar: {advisory_id(one.get('url'), one.get('id'))}: {error}"
                    continue
                if effect.affected:
                    title = printable(str(one.get("title", "")))[:160]
                    identity = advisory_id(one.get("url"), one.get("id"))
                    severity = severity_named(one.get("severity"))
                    answer.add(key, Advisory(identity, title, severity, effect.fixed, source="npm registry"))
