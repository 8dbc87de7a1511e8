"""Advisories of OSV: by its API, or from an export of its database, for a machine without access to the internet.

Source: OSV's documentation of POST /v1/querybatch (at most 1,000 queries, `next_page_token` of each result) and GET
/v1/vulns/{id}, and of its exports: one JSON file for each advisory, in `all.zip` of each ecosystem.
"""

from __future__ import annotations

import lzma
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from packaging.utils import canonicalize_name

from maintd.checks.hints import name_first, printable
from maintd.checks.packages.advisories import Answer, key_of, osv_advisory, osv_effect
from maintd.checks.packages.locked import PYPI, Package
from maintd.checks.packages.registries import Requests, chunks
from maintd.clients.bounded import parse_json
from maintd.clients.causes import cause_of
from maintd.clients.files import Tree, read_regular, shown
from maintd.errors import TargetError
from maintd.units import format_duration

_AT_ONCE = 1000
_MAX_PAGES = 20
_MAX_ADVISORIES = 1000
_MAX_RECORD = 8 << 20
_MAX_RECORDS = 2_000_000  # of npm, with malicious packages: 230,000 in 2026
_MAX_EXPORT = 16 << 30  # bytes, decompressed
_AHEAD = timedelta(days=1)
Record = Mapping[str, Any]


def ask(requests: Requests, packages: Sequence[Package], answer: Answer) -> None:
    """Add what OSV's API knows of these packages; what it did not answer for is unknown."""
    by_key = {key_of(package): package for package in packages}
    ids: dict[str, set[tuple[str, str, str]]] = {}
    for keys in chunks(sorted(by_key), _AT_ONCE):
        try:
            for key, name in _matches(requests, keys):
                ids.setdefault(name, set()).add(key)
        except TargetError as error:
            answer.problems.append(error)
            answer.unknown |= dict.fromkeys(keys, f"{error.cause}: {error.message}")
    for number, name in enumerate(sorted(ids)):
        try:
            record = _record(requests, name, number)
        except TargetError as error:
            answer.problems.append(error)
            answer.unknown |= dict.fromkeys(ids[name], f"{error.cause}: {error.message}")
            continue
        for key in ids[name]:
            _add(record, key, answer, matched=True)


def _record(requests: Requests, name: str, number: int) -> Record:
    if number >= _MAX_ADVISORIES:
        raise TargetError(f"OSV: only {_MAX_ADVISORIES} advisories are read", cause="too_large")
    record = requests.json("GET", f"/v1/vulns/{quote(name, safe='')}")
    if not isinstance(record, dict) or record.get("id") != name:
        raise TargetError(f"OSV: the answer is not {printable(name)[:60]}", cause="malformed")
    return record


def _matches(requests: Requests, keys: Sequence[tuple[str, str, str]]) -> Iterator[tuple[tuple[str, str, str], str]]:
    waiting: list[tuple[tuple[str, str, str], str]] = [(key, "") for key in keys]
    for _ in range(_MAX_PAGES):
        if not waiting:
            return
        queries = [
            {"package": {"name": name, "ecosystem": ecosystem}, "version": version}
            | ({"page_token": token} if token else {})
            for (ecosystem, name, version), token in waiting
        ]
        found = requests.json("POST", "/v1/querybatch", {"queries": queries})
        results = found.get("results") if isinstance(found, dict) else None
        if not isinstance(results, list) or len(results) != len(queries):
            raise TargetError("OSV: it did not answer each query", cause="malformed")
        following = []
        for (key, _token), result in zip(waiting, results, strict=True):
            # A package without advisories has no field at all; with other ones alone, it is not known to have none.
            fields = {"vulns": [], "next_page_token": ""} | (result if isinstance(result, dict) else {"vulns": None})
            advisories, token = fields["vulns"], fields["next_page_token"]
            is_other = isinstance(result, dict) and result and not result.keys() & {"vulns", "next_page_token"}
            if is_other or not isinstance(advisories, list) or not isinstance(token, str):
                raise TargetError("OSV: a result of an unknown form", cause="malformed")
            for one in advisories:
                if not isinstance(one, dict) or not isinstance(one.get("id"), str):
                    raise TargetError("OSV: an advisory without an id", cause="malformed")
                yield key, one["id"]
            if token:
                following.append((key, token))
        waiting = following
    if waiting:
        raise TargetError(f"OSV: more than {_MAX_PAGES} pages of advisories", cause="too_large")


def _add(record: Record, key: tuple[str, str, str], answer: Answer, *, matched: bool, source: str = "OSV") -> None:
    """Add a record to a package if it affects it; OSV's own match is believed over a comparison here."""
    ecosystem, name, version = key
    try:
        if _is_withdrawn(record):
            return
        effect = osv_effect(ecosystem, version, _entries(record, ecosystem, name))
    except (ValueError, TypeError) as error:
        if not matched:
            answer.unknown[key] = f"unfamiliar: {printable(str(record.get('id')))[:60]}: {error}"
            return
        answer.add(key, osv_advisory(record, None, source))
        return
    if matched or effect.affected:
        answer.add(key, osv_advisory(record, effect.fixed, source))


def _is_withdrawn(record: Record) -> bool:
    """Whether it no longer holds. Raises ValueError for what is not the time at which it was withdrawn."""
    withdrawn = record.get("withdrawn")
    if withdrawn is not None and _instant(withdrawn) is None:
        raise ValueError(f"withdrawn: {printable(repr(withdrawn))[:40]} is not a time")
    return withdrawn is not None


def _entries(record: Record, ecosystem: str, name: str) -> list[Record]:
    affected = record.get("affected")
    return [
        each
        for each in (affected if isinstance(affected, list) else ())
        if isinstance(each, dict) and _named(each) == (ecosystem, name)
    ]


def _named(entry: Record) -> tuple[str, str]:
    package = entry.get("package")
    if not isinstance(package, dict):
        return "", ""
    ecosystem, name = str(package.get("ecosystem", "")).partition(":")[0], str(package.get("name", ""))
    return ecosystem, canonicalize_name(name) if ecosystem == PYPI else name


def read_export(path: Path, packages: Sequence[Package], answer: Answer, max_age: timedelta, now: datetime) -> None:
    """Add what an export knows: a zip, or a folder of zips and JSON files. Raises TargetError when it is of no use.

    An ecosystem without a record, or whose newest record is older than `max_age`, is unknown for all its packages:
    OSV changes records of npm and PyPI every day.
    """
    wanted: dict[tuple[str, str], set[tuple[str, str, str]]] = {}
    for package in packages:
        wanted.setdefault((package.ecosystem, package.name), set()).add(key_of(package))
    newest: dict[str, datetime] = {}
    for where, data in _records(path):
        record = parse_json(data, where)
        if not isinstance(record, dict) or "id" not in record:
            raise TargetError(f"{where}: is not an advisory of OSV", cause="unfamiliar")
        affected = record.get("affected", [])
        if not isinstance(affected, list) or not all(isinstance(each, dict) for each in affected):
            raise TargetError(
                f"{where}: is not an advisory of OSV: affected is not a list of objects", cause="unfamiliar"
            )
        names = {_named(each) for each in affected}
        modified = _instant(record.get("modified"))
        for ecosystem in {each for each, _ in names}:
            if modified is not None:
                newest[ecosystem] = max(modified, newest.get(ecosystem, modified))
        for name in names & wanted.keys():
            for key in wanted[name]:
                _add(record, key, answer, matched=False, source="OSV export")
    for ecosystem in sorted({package.ecosystem for package in packages}):
        problem = _too_old(newest.get(ecosystem), max_age, now)
        if problem:
            hint = f"fetch https://osv-vulnerabilities.storage.googleapis.com/{ecosystem}/all.zip again"
            answer.problems.append(TargetError(f"{path}: {ecosystem}: {problem}", hint, cause="empty"))
            for keys in (keys for (each, _), keys in wanted.items() if each == ecosystem):
                answer.unknown |= dict.fromkeys(keys, f"empty: {problem}")


def _too_old(newest: datetime | None, max_age: timedelta, now: datetime) -> str:
    if newest is None:
        return "the export has no record of it"
    if newest > now + _AHEAD:
        return f"its newest record is of {newest:%F}, which is in the future"
    age = now - newest
    return f"its newest record is {format_duration(timedelta(days=age.days))} old" if age > max_age else ""


def _instant(value: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(value[:40] if isinstance(value, str) else "")
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _records(path: Path) -> Iterator[tuple[str, bytes]]:
    """The JSON of each advisory, with its name. Raises TargetError."""
    count = total = 0
    for where, data in _files(path):
        count, total = count + 1, total + len(data)
        if count > _MAX_RECORDS or total > _MAX_EXPORT:
            raise TargetError(f"{path}: has more than {_MAX_RECORDS:,} records", cause="too_large")
        yield where, data


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        folder = path.is_dir()
    except OSError as error:
        raise TargetError(f"{shown(path)}: {error.strerror}", cause=cause_of(error) or "failed") from error
    yield from _of_folder(path) if folder else _zipped(path)


def _of_folder(root: Path) -> Iterator[tuple[str, bytes]]:
    """The JSON of what can be read below a folder. Raises TargetError after it when there was more."""
    with Tree(root, one_device=False) as tree:
        found = sorted((entry.relative, stat.S_ISLNK(entry.status.st_mode)) for entry in tree.walk())
        unread = list(tree.unread)
    for relative, link in found:
        file = root / relative
        try:
            if link and _is_folder(file):
                if not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(root)):
                    unread.append(f"{shown(relative)}: a link to a folder, which is not followed")
            elif file.suffix == ".zip":
                yield from _zipped(file)
            elif file.suffix == ".json":
                yield shown(file), read_regular(file, _MAX_RECORD)
        except TargetError as error:
            unread.append(error.message)
    if unread:
        hint = "let maintd's user read all of the export, or take out what does not belong to it"
        raise TargetError(f"{shown(root)}: not all of it can be read: {name_first(unread)}", hint, cause="partial")


def _is_folder(link: Path) -> bool:
    try:
        return stat.S_ISDIR(link.stat().st_mode)
    except OSError as error:
        raise TargetError(f"{shown(link)}: a link that leads nowhere: {error.strerror}", cause="not_found") from error


def _zipped(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe is not waited for
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise TargetError(f"{shown(path)}: is not a regular file", cause="unfamiliar")
        with os.fdopen(descriptor, "rb") as content, zipfile.ZipFile(content) as archive:
            for member in archive.infolist():
                if member.filename.endswith(".json"):
                    where = f"{shown(path)}: {printable(member.filename)[:80]}"
                    with archive.open(member) as file:
                        data = file.read(_MAX_RECORD + 1)
                    if len(data) > _MAX_RECORD:
                        raise TargetError(f"{where}: has more than {_MAX_RECORD >> 20} MiB", cause="too_large")
                    yield where, data
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError) as error:
        text = printable(str(error))[:120]
        raise TargetError(f"{shown(path)}: is no complete zip: {text}", cause="malformed") from error
    except OSError as error:
        cause = "not_found" if isinstance(error, FileNotFoundError) else cause_of(error) or "failed"
        raise TargetError(f"{shown(path)}: {error.strerror or error}", cause=cause) from error
