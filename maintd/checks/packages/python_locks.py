"""Read lock files of Python projects: `uv.lock`, `poetry.lock` and `requirements.txt`.

Source: uv's documentation of its lock file (version 1), Poetry's (lock-version 1 and 2), and pip's of the requirements
file format. A `poetry.lock` before 2.1 does not separate production from development: then all counts as production.
"""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from maintd.checks.hints import printable
from maintd.checks.packages.locked import (
    MAX_NAME,
    PYPI,
    Lock,
    Other,
    Package,
    check_count,
    cut,
    host_of,
    read_bytes,
    shortest_paths,
    source_of,
)
from maintd.errors import TargetError

PYPI_HOST = "pypi.org"
_MAX_DEPTH = 200  # of nesting: the parser of the standard library is recursive
_MAX_INCLUDED = 20  # requirements files that one includes
_COMMENT = re.compile(r"(^|\s)#.*$")
_LONGEST_PATH = 1000
_INDEXES = ("-i", "--index-url", "--pypi-url", "--extra-index-url", "-f", "--find-links", "--no-index")
_FLAGS = ("--no-index", "--pre", "--prefer-binary", "--require-hashes")
_LONG = (
    *("--index-url", "--pypi-url", "--extra-index-url", "--find-links", "--requirement", "--constraint", "--editable"),
    *("--no-binary", "--only-binary", "--trusted-host", "--use-feature", "--hash", "--global-option"),
    *("--config-setting", "--config-settings"),
)
_SHORT = ("-i", "-f", "-r", "-c", "-e", "-C")
Table = Mapping[str, Any]


def _toml(data: bytes, where: str) -> Table:
    if re.search(rb"[\[{][\s\[{]{%d}" % _MAX_DEPTH, data):
        raise TargetError(f"{where}: is nested too deeply", cause="too_large")
    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise TargetError(f"{where}: is not TOML: {printable(str(error)[:200])}", cause="malformed") from None


def _tables(value: object) -> list[Table]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


def read_uv_lock(data: bytes, where: str) -> Lock:
    """What a uv.lock pins. Raises TargetError."""
    document = _toml(data, where)
    if document.get("version") != 1 or isinstance(document.get("version"), bool):
        hint = "write it again with this version of uv, or a later maintd: uv lock"
        raise TargetError(f"{where}: is not a uv.lock of version 1", hint, cause="unfamiliar")
    tables = _tables(document.get("package"))
    check_count(where, len(tables))
    if not tables:
        raise TargetError(f"{where}: has no packages", "write it again: uv lock", cause="malformed")
    by_key = {f"{table.get('name')} {table.get('version', '')}": table for table in tables}
    by_name: dict[str, list[str]] = {}
    for key, table in by_key.items():
        by_name.setdefault(_text(table.get("name")), []).append(key)

    def edges(key: str, *, dev: bool) -> Iterator[tuple[str, str]]:
        groups = [by_key[key].get("dependencies")]
        groups += [*_values(by_key[key].get("optional-dependencies"))]
        groups += [*_values(by_key[key].get("dev-dependencies"))] if dev else []
        for wanted in (item for group in groups for item in _tables(group)):
            for found in by_name.get(_text(wanted.get("name")), ()):
                if "version" not in wanted or by_key[found].get("version") == wanted["version"]:
                    yield found, ""

    roots = [key for key, table in by_key.items() if _source(table)[0] in ("editable", "virtual", "directory")]
    ways = shortest_paths(roots, lambda key: edges(key, dev=True))
    production = shortest_paths(roots, lambda key: edges(key, dev=False))
    packages, others, unread = list[Package](), list[Other](), list[str]()
    for key, table in by_key.items():
        if key in roots:
            continue
        name, version, (kind, place) = _text(table.get("name")), _text(table.get("version")), _source(table)
        if kind != "registry":
            others.append(Other(cut(name), cut(f"{kind or 'no source'} {host_of(place)}".strip())))
        elif not name or len(name) > MAX_NAME or not _is_version(version):
            unread.append(printable(key[:100]))
        else:
            way = ways.get(key, ((key,), ""))[0]
            names = tuple(cut(step.partition(" ")[0]) for step in way)
            dev = bool(roots) and key not in production
            packages.append(Package(PYPI, canonicalize_name(name), version, names, registry=host_of(place), dev=dev))
    return Lock(PYPI, "uv", tuple(packages), tuple(others), unread=tuple(unread))


def _values(value: object) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else []


def _source(table: Table) -> tuple[str, str]:
    """The kind of a package's source in a uv.lock, and the place."""
    source = table.get("source")
    if not isinstance(source, dict) or not source:
        return "", ""
    for kind in ("registry", "git", "url", "path", "editable", "virtual", "directory"):
        if kind in source:
            return kind, _text(source[kind])
    return printable(str(next(iter(source))))[:40], ""


def read_poetry_lock(data: bytes, where: str, project: bytes | None = None) -> Lock:
    """What a poetry.lock pins. project: the pyproject.toml beside it, for which are direct. Raises TargetError."""
    document = _toml(data, where)
    metadata = document.get("metadata")
    form = _text(metadata.get("lock-version")) if isinstance(metadata, dict) else ""
    if form.partition(".")[0] not in ("1", "2"):
        hint = "write it again with Poetry 1.1 or later: poetry lock"
        raise TargetError(f"{where}: lock-version {printable(form)[:20] or 'is missing'}", hint, cause="unfamiliar")
    tables = _tables(document.get("package"))
    check_count(where, len(tables))
    by_name = {canonicalize_name(_text(table.get("name"))): table for table in tables}
    needed = {name: [canonicalize_name(each) for each in _keys(by_name[name].get("dependencies"))] for name in by_name}
    asked = _asked(project, where) if project is not None else None
    if asked is None:
        below = {each for each_name in needed for each in needed[each_name]}
        asked = {name for name in by_name if name not in below}

    def edges(name: str) -> Iterator[tuple[str, str]]:
        names = asked if not name else needed.get(canonicalize_name(name), [])
        yield from ((each, "") for each in names if each in by_name)

    ways = shortest_paths([""], edges)
    packages, others, unread = list[Package](), list[Other](), list[str]()
    for table in tables:
        name, version, source = _text(table.get("name")), _text(table.get("version")), table.get("source")
        kind = _text(source.get("type")) if isinstance(source, dict) else "registry"
        place = _text(source.get("url")) if isinstance(source, dict) else f"https://{PYPI_HOST}/simple"
        if kind not in ("registry", "legacy"):
            others.append(Other(cut(name), printable(f"{kind} {host_of(place)}".strip())[:100]))
        elif not name or len(name) > MAX_NAME or not _is_version(version):
            unread.append(printable(f"{name} {version}"[:100]))
        else:
            key = canonicalize_name(name)
            way = tuple(cut(step) for step in ways.get(key, ((key,), ""))[0])
            packages.append(Package(PYPI, key, version, way, registry=host_of(place), dev=_is_dev(table)))
    return Lock(PYPI, "poetry", tuple(packages), tuple(others), unread=tuple(unread))


def _keys(value: object) -> list[str]:
    return [str(key) for key in value] if isinstance(value, dict) else []


def _is_dev(table: Table) -> bool:
    """Whether Poetry installs it for development only; False where the file does not have that."""
    groups = table.get("groups")
    if isinstance(groups, list):
        return "main" not in groups
    return table.get("category") == "dev"


def _asked(project: bytes, where: str) -> set[str] | None:
    """The names that a pyproject.toml asks for; None without any."""
    document = _toml(project, f"{where}: pyproject.toml")
    tool = document.get("tool")
    poetry = tool.get("poetry") if isinstance(tool, dict) else None
    found = set[str]()
    if isinstance(poetry, dict):
        found |= {*_keys(poetry.get("dependencies")), *_keys(poetry.get("dev-dependencies"))}
        for group in _values(poetry.get("group")):
            found |= set(_keys(group.get("dependencies"))) if isinstance(group, dict) else set()
    standard = document.get("project")
    if isinstance(standard, dict):
        lists = [standard.get("dependencies"), *_values(standard.get("optional-dependencies"))]
        for text in (item for group in lists if isinstance(group, list) for item in group if isinstance(item, str)):
            match = re.match(r"[A-Za-z0-9._-]+", text)
            found |= {match[0]} if match else set()
    return {str(canonicalize_name(name)) for name in found} - {"python"} or None


def read_requirements(path: Path, where: str) -> Lock:
    """What a requirements file and those that it includes pin. Raises TargetError.

    A constraints file (`-c`) adds no package: it pins those that are required without one version. A file outside of
    the folder of the first one is not read, but named.
    """
    files = _RequirementFiles(Path(os.path.realpath(path.parent)))
    files.add(path)
    unread, hosts = files.unread, files.hosts
    check_count(where, len(files.requirements) + len(files.constraints))
    constrained = _pinned(files.constraints, unread)
    others, unpinned, found = list[Other](), list[str](), dict[tuple[str, str], Package]()
    # With a further index, pip takes a package from any of them: which one is not known.
    registry = PYPI_HOST if not hosts else hosts[0] if len(set(hosts)) == 1 else ""
    for line in files.requirements:
        text = re.split(r"\s--(?:hash|config-settings|global-option)", line)[0].strip()
        if text.startswith(("-e ", ".", "/")) or "://" in text.partition(" ")[0]:
            address = text.removeprefix("-e ")
            egg = re.search(r"[#&]egg=([A-Za-z0-9._-]+)", address)
            source = source_of(address) if "://" in address else "file"
            others.append(Other(cut(egg[1]) if egg else "a package without a name", source))
            continue
        try:
            wanted = Requirement(text)
        except InvalidRequirement:
            unread.append("a line that is no requirement" if "://" in text else printable(text[:60]))
            continue
        name = canonicalize_name(wanted.name)
        if len(name) > MAX_NAME:
            unread.append(cut(name))
            continue
        pins = _pins(wanted) or constrained.get(name, [])
        if wanted.url is not None:
            others.append(Other(name, source_of(wanted.url)))
        elif len(pins) != 1 or not _is_version(pins[0]):
            unpinned.append(name)
        else:
            found[name, pins[0]] = Package(PYPI, name, pins[0], (name,), registry=registry)
    return Lock(PYPI, "requirements", tuple(found.values()), tuple(others), tuple(sorted(set(unpinned))), tuple(unread))


def _pins(wanted: Requirement) -> list[str]:
    return [item.version for item in wanted.specifier if item.operator in ("==", "===")]


def _pinned(constraints: list[str], unread: list[str]) -> dict[str, list[str]]:
    """The different versions that constraints pin, by name; what is no constraint is added to `unread`."""
    found: dict[str, list[str]] = {}
    for line in constraints:
        text = re.split(r"\s--(?:hash|config-settings|global-option)", line)[0].strip()
        try:
            wanted = Requirement(text)
        except InvalidRequirement:
            unread.append("a line of a constraints file that is no requirement")
            continue
        if wanted.url is not None:
            unread.append(f"the constraint of {cut(canonicalize_name(wanted.name))} to {source_of(wanted.url)}")
            continue
        versions = found.setdefault(canonicalize_name(wanted.name), [])
        versions += [version for version in _pins(wanted) if version not in versions]
    return found


@dataclass
class _RequirementFiles:
    """The lines of a requirements file and of all that it includes below the folder of the first one."""

    folder: Path
    requirements: list[str] = field(default_factory=list)
    constraints: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)  # of its indexes
    _seen: set[tuple[Path, bool]] = field(default_factory=set)

    def add(self, path: Path, *, constrains: bool = False) -> None:
        """Add a file with what it includes. constrains: it is a constraints file, and so is what it includes."""
        content = read_bytes(path).decode("utf-8", "replace").lstrip("\ufeff")
        self._seen.add((Path(os.path.realpath(path)), constrains))
        lines = self.constraints if constrains else self.requirements
        for joined in _joined(content):
            line = _COMMENT.sub("", joined).strip()
            if not line:
                continue
            if not line.startswith("-"):
                lines.append(line)
                continue
            options = _options(line)
            if options is None:
                name = re.match(r"--?[A-Za-z-]{0,40}", line)  # the rest of the line may have a password in it
                self.unread.append(f"an option that is not known: {name[0] if name else ''}")
                continue
            for option, value in options:
                if option in ("-e", "--editable"):
                    lines.append(f"-e {value}")
                elif option in ("-r", "--requirement"):
                    self._include(path.parent, value, constrains=constrains)
                elif option in ("-c", "--constraint"):
                    self._include(path.parent, value, constrains=True)
                elif option in _INDEXES:
                    self.hosts.append(host_of(value) or "elsewhere")
                    if option == "--extra-index-url" and len(self.hosts) == 1:
                        self.hosts.append(PYPI_HOST)

    def _include(self, beside: Path, value: str, *, constrains: bool) -> None:
        """Add an included file, or its name to `unread`."""
        try:
            name = PurePath(urlsplit(value).path).name
        except ValueError:
            name = ""
        readable = "\0" not in value and "://" not in value and len(value) <= _LONGEST_PATH
        below = Path(os.path.realpath(beside / value)) if readable else None
        if (below, constrains) in self._seen:
            return
        is_outside = below is None or below.is_symlink() or not below.is_relative_to(self.folder)
        if below is None or is_outside or len(self._seen) > _MAX_INCLUDED:
            self.unread.append(f"the {'constraints' if constrains else 'included'} file {printable(name[:60])}")
            return
        self.add(below, constrains=constrains)


def _joined(content: str) -> Iterator[str]:
    """The lines as pip joins them: a comment does not go on in the next line, whatever its end."""
    parts = list[str]()
    for line in content.splitlines():
        comment = line.lstrip().startswith("#")
        if line.endswith("\\") and not comment:
            parts.append(line.strip("\\"))
            continue
        yield "".join([*parts, f" {line}" if comment else line])
        parts.clear()
    yield "".join(parts)


def _options(line: str) -> list[tuple[str, str]] | None:
    """The options of a line, each with its value, attached or not; None: a part of it is not known."""
    try:
        words = iter(shlex.split(line))
    except ValueError:
        return None
    found = list[tuple[str, str]]()
    for word in words:
        option, attached, value = word.partition("=") if word.startswith("--") else (word[:2], word[2:], word[2:])
        if option in _FLAGS and not attached:
            found.append((option, ""))
            continue
        if option not in _LONG and option not in _SHORT:
            return None
        following = value if attached else next(words, None)
        if not following:
            return None
        found.append((option, following))
    return found
