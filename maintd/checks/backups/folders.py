"""Folders that are one backup: base backups, directory dumps, append-only files, repositories of backup programs.

Without these, each of their many files would look like a backup of its own, and a missing one would not be noticed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from maintd.checks.backups.base_backup import MANIFEST
from maintd.checks.backups.pgdump_directory import TOC, is_data_file
from maintd.clients.files import Entry

Parts = tuple[str, ...]
BASE_BACKUP, DIRECTORY_DUMP, APPEND_ONLY = "base backup", "pg_dump directory", "append-only files"

_PACKED = r"(?:\.(?:gz|zst|lz4|lzo|xz|bz2|br|age|gpg))*"
_WAL = re.compile(r"[0-9A-F]{24}(?:\.[0-9A-F]{8}\.backup|\.partial)?" + _PACKED + r"|[0-9A-F]{8}\.history" + _PACKED)
_BORG_STATE = re.compile(r"README|(?:hints|index|integrity|nonce|lock)(?:\..*)?")
_MONGODUMP = re.compile(r".*\.(?:bson|metadata\.json)(?:\.gz)?|prelude\.json(?:\.gz)?")
# Without a table of contents: names that other programs do not have.
_DUMPED = re.compile(r"\d+\.dat\.(?:gz|lz4|zst)|blob_\d+\.dat(?:\..+)?|blobs(?:_\d+)?\.toc")
_AOF_MANIFEST = re.compile(r".+\.aof\.manifest")


@dataclass(frozen=True)
class Program:
    """A program whose repositories are recognized, but not read. `verify` is what the user runs instead."""

    name: str
    verify: str
    owns: frozenset[str] | None = None  # first names below the repository; None: all
    dated_by: re.Pattern[str] | None = None  # paths that are written with each backup; None: all


PROGRAMS = {
    program.name: program
    for program in (
        Program(
            "pgBackRest",
            "pgbackrest verify",
            frozenset({"backup", "archive"}),
            re.compile(r".*/backup\.(info|manifest)"),
        ),
        Program(
            "Barman",
            "barman check-backup SERVER latest",
            frozenset({"base", "wals", "incoming", "streaming", "errors", "identity.json", "meta"}),
            re.compile(r"base/.*"),
        ),
        Program(
            "WAL-G",
            "wal-g wal-verify integrity timeline",
            frozenset({"basebackups_005", "wal_005"}),
            re.compile(r"basebackups_005/.*"),
        ),
        Program(
            "restic",
            "restic check --read-data-subset=1/7",
            frozenset({"config", "data", "index", "keys", "snapshots", "locks"}),
            re.compile(r"snapshots/.*"),
        ),
        Program("Borg", "borg check --verify-data"),
        Program("Kopia", "kopia snapshot verify"),
        Program("duplicity", "duplicity verify"),
        Program("rdiff-backup", "rdiff-backup verify", dated_by=re.compile(r"rdiff-backup-data/.*")),
        Program(
            "Proxmox Backup Server", "proxmox-backup-manager verify", frozenset({".chunks", "vm", "ct", "host", "ns"})
        ),
        Program("XtraBackup or mariabackup", "xtrabackup --prepare on a copy"),
        Program("mydumper", "myloader into a scratch server"),
        Program("mongodump", "mongorestore --dryRun"),
        Program(
            "git",
            "git fsck --full",
            frozenset(
                {"HEAD", "objects", "refs", "config", "hooks", "info", "logs", "packed-refs", "index", "branches"}
            ),
        ),
        Program("WAL archive", "pg_waldump or the restore of a base backup with it", dated_by=_WAL),
    )
}
"""By name. Source: the documented layout of each program's repository."""


@dataclass(frozen=True)
class FolderBackup:
    """A folder that is one backup, with the entries that belong to it."""

    parts: Parts
    kind: str
    entries: list[Entry] = field(default_factory=list)

    def dated(self) -> list[Entry]:
        """The entries whose time is the time of the backup; never empty when `entries` is not."""
        names = {BASE_BACKUP: MANIFEST, DIRECTORY_DUMP: TOC}
        if self.kind in names:
            last = [entry for entry in self.entries if entry.parts == (*self.parts, names[self.kind])]
            return last or self.entries
        program = PROGRAMS.get(self.kind)
        if program is None or program.dated_by is None:
            return self.entries
        found = [e for e in self.entries if program.dated_by.fullmatch("/".join(e.parts[len(self.parts) :]))]
        return found or self.entries


def split(entries: Iterable[Entry]) -> tuple[list[FolderBackup], list[Entry]]:
    """Divide files into folders that are one backup, the outermost counting, and other files."""
    listed = list(entries)
    files: dict[Parts, set[str]] = {}
    folders: dict[Parts, set[str]] = {}
    for entry in listed:
        files.setdefault(entry.parts[:-1], set()).add(entry.name)
        for depth in range(len(entry.parts) - 1):
            folders.setdefault(entry.parts[:depth], set()).add(entry.parts[depth])
    found: dict[Parts, list[tuple[FolderBackup, _Owns]]] = {}
    for parts in {*files, *folders}:
        for root, kind, owns in _recognize(parts, files.get(parts, set()), folders.get(parts, set()), files):
            if all(one.kind != kind for one, _ in found.get(root, ())):
                found.setdefault(root, []).append((FolderBackup(root, kind), owns))
    others = []
    for entry in listed:
        owner = next(
            (
                folder
                for depth in range(len(entry.parts))
                for folder, owns in found.get(entry.parts[:depth], ())
                if owns(entry.parts[depth:])
            ),
            None,
        )
        if owner is None:
            others.append(entry)
        else:
            owner.entries.append(entry)
    return [one for several in found.values() for one, _ in several if one.entries], others


_Owns = Callable[[Parts], bool]
_Found = tuple[Parts, str, _Owns]


def _all(_: Parts) -> bool:
    return True


def _named(test: Callable[[str], object]) -> _Owns:
    """Files of the folder itself whose name passes the test."""
    return lambda parts: len(parts) == 1 and bool(test(parts[0]))


def _below(program: str) -> _Owns:
    """What is in the folders of a program's repository: other files beside them are backups of their own."""
    names = PROGRAMS[program].owns or frozenset()
    return lambda parts: parts[0] in names


def _recognize(parts: Parts, files: set[str], folders: set[str], every: Mapping[Parts, set[str]]) -> list[_Found]:
    """The backups that a folder is, by the names in it; their root may be one of its parents."""
    found: list[_Found] = []
    if MANIFEST in files:
        found.append((parts, BASE_BACKUP, _all))
    if TOC in files or any(map(_DUMPED.fullmatch, files)):
        found.append((parts, DIRECTORY_DUMP, _named(is_data_file)))
    if any(map(_AOF_MANIFEST.fullmatch, files)):
        found.append((parts, APPEND_ONLY, _named(lambda name: ".aof" in name)))
    found += [(root, name, owns) for root, name, owns in _of_programs(parts, files, folders, every)]
    if any(map(_WAL.fullmatch, files)) and MANIFEST not in every.get(parts[:-1], set()):
        found.append((parts, "WAL archive", _named(_WAL.fullmatch)))
    return found


def _of_programs(parts: Parts, files: set[str], folders: set[str], every: Mapping[Parts, set[str]]) -> Iterable[_Found]:
    if len(parts) >= 2 and parts[-2] in ("backup", "archive") and files & {"backup.info", "archive.info"}:
        yield parts[:-2], "pgBackRest", _below("pgBackRest")
    elif len(parts) >= 2 and parts[-2] == "base" and "backup.info" in files:
        yield parts[:-2], "Barman", _below("Barman")
    if "basebackups_005" in folders:
        yield parts, "WAL-G", _below("WAL-G")
    if {"keys", "data"} <= folders and ("config" in files or "snapshots" in folders):
        yield parts, "restic", _below("restic")
    elif "data" in folders and "config" in files and any(map(_BORG_STATE.fullmatch, files)):
        yield parts, "Borg", lambda below: below[0] in ("config", "data") or bool(_BORG_STATE.fullmatch(below[0]))
    if any(name.startswith("kopia.repository") for name in files):
        yield parts, "Kopia", lambda below: below[0].startswith("kopia.") or below[-1].endswith(".f")
    if any(name.startswith("duplicity-full") for name in files):
        yield parts, "duplicity", _named(lambda name: name.startswith("duplicity-"))
    if "rdiff-backup-data" in folders:
        yield parts, "rdiff-backup", _all
    if ".chunks" in folders:
        yield parts, "Proxmox Backup Server", _below("Proxmox Backup Server")
    if files & {"xtrabackup_checkpoints", "xtrabackup_info", "mariadb_backup_checkpoints", "mariadb_backup_info"}:
        yield parts, "XtraBackup or mariabackup", _all
    if "metadata" in files and any(re.search(r"-schema(-create)?\.sql", name) for name in files):
        yield parts, "mydumper", _named(re.compile(r"metadata|.*\.sql(\.gz|\.zst)?").fullmatch)
    if any(re.search(r"\.bson(\.gz)?$", name) for name in files):
        # mongodump writes one folder for each database.
        whole = parts[:-1] if parts and not every.get(parts[:-1]) else parts
        yield whole, "mongodump", lambda below: bool(_MONGODUMP.fullmatch(below[-1]))
    if {"objects", "refs"} <= folders and "HEAD" in files:
        yield parts, "git", _below("git")
