"""Read lock files of npm: `package-lock.json` and `npm-shrinkwrap.json`, lockfileVersion 2 and 3.

Source: npm's documentation of package-lock.json, npm 7 to 11: `packages` maps a location below the project to what is
there, `""` is the project itself. A dependency is found as Node does: in the nearest `node_modules` upwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from maintd.checks.hints import printable
from maintd.checks.packages.locked import (
    MAX_FILE,
    MAX_NAME,
    MORE,
    NPM,
    Lock,
    Other,
    Package,
    check_count,
    cut,
    host_of,
    shortest_paths,
    source_of,
)
from maintd.clients.bounded import JsonLimits, parse_json
from maintd.errors import TargetError

LIMITS = JsonLimits(size_bytes=MAX_FILE)
_UPGRADE = "write it again with npm 7 or later: npm install --package-lock-only --lockfile-version 3"
_WAYS = ("dependencies", "optionalDependencies", "peerDependencies")
Entry = Mapping[str, Any]


def read_npm_lock(data: bytes, where: str) -> Lock:
    """What it pins. Raises TargetError: an old version is unfamiliar, with the command that renews it."""
    document = parse_json(data, where, LIMITS)
    if not isinstance(document, dict):
        raise TargetError(f"{where}: is not a lock file of npm", cause="unfamiliar")
    version, entries = document.get("lockfileVersion"), document.get("packages")
    if version == 1:
        raise TargetError(f"{where}: lockfileVersion 1 has no list of packages", _UPGRADE, cause="unfamiliar")
    if isinstance(version, bool) or version not in (2, 3):
        raise TargetError(f"{where}: lockfileVersion {printable(str(version))[:20]}", _UPGRADE, cause="unfamiliar")
    if not isinstance(entries, dict) or "" not in entries:
        raise TargetError(f"{where}: has no packages, or not the project itself", _UPGRADE, cause="malformed")
    check_count(where, len(entries))
    return _read({key: value for key, value in entries.items() if isinstance(value, dict)}, len(entries))


def _read(entries: Mapping[str, Entry], given: int) -> Lock:
    links = {key: _text(entry.get("resolved")) for key, entry in entries.items() if entry.get("link") is True}
    # The project and its workspaces: whatever is not in a node_modules folder is the project's own code.
    roots = {key for key in entries if "node_modules/" not in f"/{key}"}
    ways = shortest_paths(roots, lambda key: _edges(key, entries, links, project=key in roots))
    packages, others = list[Package](), list[Other]()
    unread = [f"{given - len(entries)} packages that are no objects"] if given > len(entries) else []
    for key, entry in entries.items():
        if key in roots:
            continue
        name, asked = _name(key, entry)
        if key in links:
            others.append(Other(cut(name), f"link to {printable(links[key])[:100]}"))
            continue
        version, resolved = _text(entry.get("version")), _resolved(key, entry, entries)
        if not name or not version or max(len(name), len(asked)) > MAX_NAME:
            unread.append(printable(key[:100]))
            continue
        if resolved and not resolved.startswith(("https://", "http://")):
            others.append(Other(name, source_of(resolved)))
            continue
        if resolved and "/-/" not in resolved:
            others.append(Other(name, source_of(resolved)))  # an archive at an address: registries have them below /-/
            continue
        way, requirement = ways.get(key, ((asked,), ""))
        packages.append(
            Package(
                ecosystem=NPM,
                name=name,
                version=version,
                path=(*(_label(step, entries) for step in way[:-1] if step not in roots), _alias(name, asked)),
                requirement=requirement,
                registry=host_of(resolved),
                dev=entry.get("dev") is True,
                deprecated=printable(_text(entry.get("deprecated")))[:200],
            )
        )
    return Lock(NPM, "npm", tuple(packages), tuple(others), unread=tuple(unread))


def _edges(
    key: str, entries: Mapping[str, Entry], links: Mapping[str, str], *, project: bool
) -> Iterator[tuple[str, str]]:
    """What the package at a location depends on: locations that exist, each with the requirement."""
    for way in (*_WAYS, "devDependencies") if project else _WAYS:
        wanted = entries[key].get(way)
        for name, requirement in wanted.items() if isinstance(wanted, dict) else ():
            found = _resolve(key, name, entries.__contains__)
            if found is not None:
                yield (links[found] if links.get(found) in entries else found), _text(requirement)


def _resolve(key: str, name: str, exists: Callable[[str], bool]) -> str | None:
    """Where Node finds a package that is asked for at a location."""
    place = key
    while True:
        if PurePosixPath(place).name != "node_modules":
            found = f"{place}/node_modules/{name}" if place else f"node_modules/{name}"
            if exists(found):
                return found
        if not place:
            return None
        place = place.rpartition("/")[0]


def _name(key: str, entry: Entry) -> tuple[str, str]:
    """The package's name, and the name under which it is installed: another one is an alias."""
    asked = key.rpartition("node_modules/")[2]
    return printable(_text(entry.get("name")) or asked), printable(asked)


def _alias(name: str, asked: str) -> str:
    return name if name == asked else f"{asked} (npm:{name})"


def _label(key: str, entries: Mapping[str, Entry]) -> str:
    return MORE if key == MORE else cut(_alias(*_name(key, entries[key])))


def _resolved(key: str, entry: Entry, entries: Mapping[str, Entry]) -> str:
    """Where it was fetched from; what is in a bundle came with the package around it."""
    while entry.get("inBundle") is True and not entry.get("resolved"):
        key = key.rpartition("/node_modules/")[0]
        if key not in entries:
            return ""
        entry = entries[key]
    return _text(entry.get("resolved"))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
