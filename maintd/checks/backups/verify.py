"""Verification of backups: by their metadata, their recorded checksums, and their contents."""

from __future__ import annotations

import errno
import json
import shlex
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

from pyrage import x25519

from maintd.checks.backup_sets.layout import MANIFEST
from maintd.checks.backups import aof, evaluate, folders, set_files
from maintd.checks.backups.archive import Contents, Reading, read_archive
from maintd.checks.backups.base_backup import BaseBackup, read_builds_on, read_start, verify_base_backup
from maintd.checks.backups.catalog import Backup, checksum_file, compare_with_checksums, recorded_sha256
from maintd.checks.backups.evaluate import BackupSet
from maintd.checks.backups.gpg import Gpg
from maintd.checks.backups.pg_tools import pg_restore, pg_verifybackup
from maintd.checks.backups.pgdump_directory import walk_directory
from maintd.checks.backups.stream import DamagedError, ExpansionLimits, UnreadableError, sha256_of
from maintd.checks.probes import UnforeseenError, as_target_error
from maintd.clients.files import shown
from maintd.errors import JobError, MaintdError, TargetError
from maintd.job.causes import hint_for
from maintd.job.context import Context
from maintd.model.evidence import CheckStatus

T = TypeVar("T")
Level = Literal["age", "checksum", "decode"]
LEVELS: tuple[Level, ...] = ("age", "checksum", "decode")
_SMALL = 64 << 10
_CHAIN_MAX = 1000  # incremental backups that build on each other
_NAMES = 1000  # of members or tables of one backup in its record


def report_metadata(
    ctx: Context,
    backup_set: BackupSet,
    *,
    warn_age: timedelta,
    max_age: timedelta,
    private: bool,
    data_devices: Sequence[int],
    decode: bool,
) -> None:
    """Level `age`: check the newest backup of a set without reading it, unless it is so small that it may be empty.

    decode: whether it is decoded afterwards anyway.
    """
    name, expected = backup_set.name, backup_set.expected
    if not backup_set.backups:
        unwanted = f"expect: {{{json.dumps(name)}: null}} in an overlay"
        hint = f"check the job that makes them; if this site makes none: {unwanted}"
        ctx.check(f"{name}: backups", 0, at_least=1, hint=hint)
        return
    newest = backup_set.backups[0]
    count = len(backup_set.backups)
    ctx.log(f"{name}: {count} backup{'' if count == 1 else 's'}, the newest is {shown(newest.relative)}")
    if backup_set.recurring:
        limits = expected.warn_age or warn_age, expected.max_age or max_age
        ctx.report(evaluate.age_criteria(backup_set, ctx.now(), *limits), name)
    ctx.report(evaluate.retention_criteria(backup_set, ctx.now()), name)
    sizes = [point.value for point in ctx.series("backup_bytes", set=name)]
    ctx.report(evaluate.metadata_criteria(backup_set, sizes, private=private, data=data_devices), name)
    if not decode and not newest.folder and 0 < newest.size_bytes <= _SMALL:
        with suppress(OSError):  # reading it is not what this level promises
            reading = read_archive(newest.path, kind=expected.kind)
            ctx.report(evaluate.empty_criteria(reading.contents, reading.damage), name)
    ctx.measure("backup_age_seconds", (ctx.now() - newest.created_at).total_seconds(), "s", set=name)
    ctx.measure("backup_bytes", newest.size_bytes, "B", set=name)
    ctx.measure("backup_count_kept", count, "backup", set=name)


@dataclass(frozen=True)
class VerifyOptions:
    """What to read and how. pg_bin: folder with pg_restore and pg_verifybackup, to run them too."""

    level: Level
    newest: int
    older: int
    limits: ExpansionLimits
    identities: Sequence[x25519.Identity]
    gpg: Gpg | None
    pg_bin: Path | None


class BackupVerifier:
    """Levels `checksum` and `decode`: reads backups and checks them. Adds a record of each backup to `records`."""

    def __init__(self, ctx: Context, options: VerifyOptions, root: Path, records: list[dict[str, Any]]) -> None:
        self._ctx = ctx
        self._options = options
        self._root = root
        self._decode = options.level == "decode"
        self._started = time.monotonic()
        self._total = self._done = 0
        self._records = records
        self._record: dict[str, Any] = {}  # of the backup that is being read
        self._bases: list[Backup] = []
        self._sums_are_made = False

    def verify(self, sets: Sequence[BackupSet]) -> None:
        """Read the newest backups of each set, and some older ones in rotation."""
        day = self._ctx.now().toordinal()
        backups = [backup for one in sets for backup in one.backups]
        self._bases = [backup for backup in backups if backup.kind == folders.BASE_BACKUP]
        # Where no backup has a recorded checksum, the site does not make them; where some have, one is missing.
        self._sums_are_made = any(self._has_sum(backup) for backup in backups if not backup.folder)
        chosen = [(one, evaluate.select_to_read(one, self._options.newest, self._options.older, day)) for one in sets]
        self._total = sum(backup.size_bytes for _, backups in chosen for backup in backups)
        for backup_set, backups in chosen:
            levels = [self._verify_and_record(backup_set, backup) for backup in backups]
            if levels:
                self._ctx.measure("backup_verified_level", levels[0], "level", set=backup_set.name)
                if levels[0]:
                    made = backup_set.backups[0].created_at.timestamp()
                    self._ctx.measure("backup_last_success_timestamp", made, "s", set=backup_set.name)
        seconds = max(time.monotonic() - self._started, 1e-3)
        self._ctx.measure("backup_read_rate", self._done / seconds, "B/s")

    def _progress(self, count: int) -> None:
        self._done += count
        rate = self._done / max(time.monotonic() - self._started, 1e-3)
        self._ctx.progress(self._done, self._total, "B", rate=rate)

    def _verify_and_record(self, backup_set: BackupSet, backup: Backup) -> int:
        self._record = {}
        level = self._verify(backup_set, backup)
        about = {"set": backup_set.name, "path": shown(backup.path), "size_bytes": backup.size_bytes}
        created_at = f"{backup.created_at:%Y-%m-%dT%H:%M:%SZ}"
        self._records.append({**about, "made_at": created_at, "passed": LEVELS[level], **self._record})
        return level

    def _verify(self, backup_set: BackupSet, backup: Backup) -> int:
        """Read one backup; return the index of the level that it passes."""
        subject = shown(backup.relative)
        with self._ctx.phase(f"{subject}: {'decode it' if self._decode else 'compare its checksum'}"):
            try:
                with as_target_error(subject, OSError):
                    passed = self._verify_kind(subject, backup_set, backup)
            except FileNotFoundError:
                hint = "the next run searches again"
                self._ctx.unknown(f"{subject}: readable", "it was deleted during the run", hint=hint)
            except PermissionError as error:
                self._ctx.unknown(f"{subject}: readable", str(error.strerror), hint="grant this process read access")
            except UnforeseenError as error:
                hint = "this is an error in maintd: report it, and verify the backup with its own tool"
                self._ctx.unknown(f"{subject}: readable", error.message, hint=hint)
                self._ctx.log("".join(traceback.format_exception(error.__cause__)))
            except MaintdError as error:
                self._ctx.unknown(
                    f"{subject}: readable", error.message, hint=error.hint or hint_for(getattr(error, "cause", ""))
                )
            except OSError as error:
                hint = "the disk may be failing: see dmesg" if error.errno == errno.EIO else "check the file system"
                self._ctx.fail(f"{subject}: readable", str(error.strerror), expected="readable", hint=hint)
            else:
                return LEVELS.index(self._options.level) if passed else 0
        return 0

    def _verify_kind(self, subject: str, backup_set: BackupSet, backup: Backup) -> bool:
        if backup.kind == folders.BASE_BACKUP:
            return self._verify_base_backup(subject, backup)
        if backup.kind == folders.DIRECTORY_DUMP:
            return self._verify_directory_dump(subject, backup_set, backup)
        if backup.kind == folders.APPEND_ONLY:
            return self._verify_append_only(subject, backup_set, backup)
        if backup.folder:
            return self._cannot_read(subject, backup)
        return self._verify_file(subject, backup_set, backup)

    def _verify_file(self, subject: str, backup_set: BackupSet, backup: Backup) -> bool:
        path, reading = backup.path, None
        if path.name == MANIFEST:
            return self._verify_manifest(subject, backup_set, backup)
        before = path.stat()
        if self._decode:
            reading = read_archive(
                path,
                kind=backup_set.expected.kind,
                identities=self._options.identities,
                gpg=self._options.gpg,
                limits=self._options.limits,
                progress=self._progress,
            )
            sha256 = reading.sha256
        else:
            sha256 = sha256_of(path, self._progress)
        self._record = _record_of(sha256, reading)
        after = path.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            hint = "verify it later, or write it under another name until it is complete"
            self._ctx.unknown(f"{subject}: complete", "it is still being written", hint=hint)
            return False
        has_checksum = reading is not None and reading.has_checksum and not reading.damage
        passed = self._compare_checksum(subject, backup, sha256, has_checksum=has_checksum)
        return self._check_contents(subject, backup_set, backup, reading) and passed if reading is not None else passed

    def _verify_manifest(self, subject: str, backup_set: BackupSet, backup: Backup) -> bool:
        """Verify the manifest of a set of backups against its list of sums and its files, which are not read here.

        Each file is compared with the list when its own turn comes. What is missing in a set matters in the newest.
        """
        ctx = self._ctx
        sha256 = sha256_of(backup.path, self._progress)
        self._record = {"sha256": sha256, "kind": "manifest"}
        passed = self._compare_checksum(subject, backup, sha256, has_checksum=False)
        differences, missing = set_files.compare_manifest(backup.path.parent)
        hint = f"restore from another set: {shown('; '.join(differences[:3]))}" if differences else ""
        ctx.check(f"{subject}: files unlike the manifest", len(differences), at_most=0, hint=hint)
        if backup is backup_set.backups[0]:
            hint = f"made without {shown(', '.join(missing))}: see the run of the job that made it" if missing else ""
            ctx.check(f"{subject}: parts missing in the set", len(missing), at_most=0, hint=hint)
        return passed and not differences

    def _compare_checksum(self, subject: str, backup: Backup, sha256: str, *, has_checksum: bool) -> bool:
        """Compare with the recorded checksum, and with the one of the first run that read the file."""
        ctx, name = self._ctx, f"{subject}: sha256"
        recorded = recorded_sha256(backup.path, self._root)
        # A measure stores 48 bits of the digest exactly. A file that was replaced has another time or size.
        file = f"{subject} {backup.size_bytes} {backup.written_at:%Y%m%dT%H%M%S.%f}"
        first = next(iter(ctx.series("backup_fingerprint", file=file)), None)
        fingerprint = int(sha256[:12], 16)
        ctx.measure("backup_fingerprint", fingerprint, "", file=file)
        if first is not None and first.value != fingerprint:
            hint = f"its bytes have changed since {first.at:%Y-%m-%d}, its size and time have not: check the disk"
            ctx.fail(f"{subject}: unchanged", "changed", expected="as first read", hint=hint)
            return False
        if recorded is not None and recorded.sha256 is not None:
            hint = f"it does not match {shown(recorded.source.name)}: restore from another backup"
            return ctx.check(name, sha256, equals=recorded.sha256, hint=hint).status is CheckStatus.OK
        missing = f"{shown(recorded.source.name)} has no line for it" if recorded else "no recorded checksum"
        if has_checksum:
            ctx.log(f"{subject}: sha256 {sha256}; {missing}, the checksum inside of the format was verified")
            return True
        made = shlex.quote(shown(backup.path.name))
        hint = f"when it is made, run: sha256sum -- {made} > {made}.sha256"
        expected = "a checksum recorded when it was made"
        ctx.unknown(name, missing, expected=expected, hint=hint, optional=not self._sums_are_made)
        return False

    def _has_sum(self, backup: Backup) -> bool:
        try:
            return recorded_sha256(backup.path, self._root) is not None
        except OSError:
            return False

    def _check_contents(self, subject: str, backup_set: BackupSet, backup: Backup, reading: Reading) -> bool:
        ctx, name = self._ctx, f"{subject}: decoded"
        if reading.damage:
            hint = "restore from another backup; make a new one now"
            ctx.fail(name, f"damaged: {reading.damage}", expected="sound", hint=hint)
            return False
        if reading.unread and not self._options.identities and set_files.is_sealed(backup.path):
            hint = "it was decoded when it was made, and its sha256 is compared; to decode it again, set identity"
            ctx.unknown(name, reading.unread, hint=hint, optional=True)
            return True
        if reading.contents is None or reading.unread:
            ctx.unknown(name, reading.unread, hint="until then it is not known whether it can be restored")
            return False
        contents = reading.contents
        if contents.kind == "data" and not backup_set.expected.kind:
            cause = f"{reading.kind}: read to its last byte, but what is in it has no format that is known here"
            hint = f"if it needs none, set kind: {reading.kind} for it in the param expect"
            ctx.unknown(name, cause, expected="a known format", hint=hint)
            return False
        ctx.check(name, reading.kind, equals=reading.kind)
        self._report_contents(subject, backup_set, backup, contents)
        ctx.log(f"{subject}: {reading.kind}, entries: {contents.count}, decoded bytes: {reading.plain_bytes}")
        if reading.kind == "pgdump" and self._options.pg_bin:
            return self._run_tool(f"{subject}: pg_restore", pg_restore, self._options.pg_bin, backup.path)
        return True

    def _report_contents(self, subject: str, backup_set: BackupSet, backup: Backup, contents: Contents) -> None:
        ctx = self._ctx
        counts = [point.value for point in ctx.series("backup_entries", set=backup_set.name)][-evaluate.SIZES :]
        typical = sorted(counts)[len(counts) // 2] if len(counts) >= evaluate.FEWEST_SIZES else None
        if backup is backup_set.backups[0]:
            ctx.measure("backup_entries", contents.count, "entry", set=backup_set.name)
        ctx.report(evaluate.contents_criteria(contents, backup_set.expected, typical), subject)

    def _cannot_read(self, subject: str, backup: Backup) -> bool:
        """A repository of another program: only that program can verify it."""
        program = folders.PROGRAMS[backup.kind]
        self._record = {"kind": program.name, "unread": "not read"}
        hint = f"run {program.verify}, for example by the job command, and name it in the param exclude here"
        self._ctx.unknown(f"{subject}: decoded", f"is a {program.name} repository, which is not read here", hint=hint)
        return False

    def _verify_directory_dump(self, subject: str, backup_set: BackupSet, backup: Backup) -> bool:
        """Read all files of a dump in pg_dump's directory format; both levels, since it has no checksum of its own."""
        listed = self._compare_folder(subject, backup)
        if not self._decode:
            return bool(listed)
        dump = self._walk(subject, backup, lambda: walk_directory(backup.path, self._options.limits, self._progress))
        if dump is None:
            return False
        self._record |= {"entries": dump.count, "names": list(dump.tables[:_NAMES])}
        contents = Contents("pgdump", dump.count, dump.tables, rows=dump.rows)
        self._report_contents(subject, backup_set, backup, contents)
        if self._options.pg_bin:
            return self._run_tool(f"{subject}: pg_restore", pg_restore, self._options.pg_bin, backup.path)
        return listed is not False

    def _verify_append_only(self, subject: str, backup_set: BackupSet, backup: Backup) -> bool:
        """Read the append-only files of Redis, which have no checksum but that of the snapshot at their begin."""
        ctx = self._ctx
        listed = self._compare_folder(subject, backup)
        if not self._decode:
            return bool(listed)
        found = self._walk(subject, backup, lambda: aof.walk_folder(backup.path, self._progress))
        if found is None:
            return False
        self._record |= {"files": found.files, "keys": found.keys, "commands": found.commands}
        hint = "a server drops them when it loads the files; copy them while no command is written"
        ctx.check(f"{subject}: bytes after the last whole command", found.cut_bytes, warn_above=0, unit="B", hint=hint)
        self._report_contents(subject, backup_set, backup, Contents("aof", found.count))
        return listed is not False

    def _walk(self, subject: str, backup: Backup, read: Callable[[], T]) -> T | None:
        """Read a folder, and report the check "decoded"; None when it is damaged or cannot be read."""
        name = f"{subject}: decoded"
        try:
            found = read()
        except DamagedError as error:
            self._record = {"kind": backup.kind, "damage": str(error)}
            hint = "restore from another backup; make a new one now"
            self._ctx.fail(name, f"damaged: {error}", expected="sound", hint=hint)
            return None
        except UnreadableError as error:
            self._record = {"kind": backup.kind, "unread": str(error)}
            hint = error.hint or "until then it is not known whether it can be restored"
            self._ctx.unknown(name, error.message, hint=hint)
            return None
        self._record = {"kind": backup.kind}
        self._ctx.check(name, backup.kind, equals=backup.kind)
        return found

    def _compare_folder(self, subject: str, backup: Backup) -> bool | None:
        """Compare a folder with its checksum file; None without one."""
        if not checksum_file(backup.path).is_file():
            if backup.kind != folders.BASE_BACKUP and not self._decode:
                made = shlex.quote(f"./{shown(backup.path.name)}")
                hint = f"when it is made, run: find {made} -type f -exec sha256sum {{}} + > {made}.sha256"
                optional = not self._sums_are_made
                self._ctx.unknown(f"{subject}: sha256", "no recorded checksums", hint=hint, optional=optional)
            return None
        different = compare_with_checksums(backup.path, lambda count: None)
        hint = f"restore from another backup: {shown('; '.join(different[:3]))}" if different else ""
        self._ctx.check(f"{subject}: files unlike their sha256", len(different), at_most=0, hint=hint)
        return not different

    def _check_chain(self, subject: str, found: BaseBackup) -> bool:
        """Check that every backup that an incremental one builds on is in the folder, back to a full one."""
        starts = {}
        for base in self._bases:
            with suppress(TargetError, OSError):  # what is wrong with it is reported where it is read itself
                starts[read_start(base.path)] = base
        needed, seen = found.builds_on, 0
        while needed:
            before = starts.get((found.system, needed))
            if before is None or seen == _CHAIN_MAX:
                hint = "keep a full backup as long as the incremental ones that build on it; make a full one now"
                observed = f"the backup at LSN {needed} is not in the folder"
                self._ctx.fail(f"{subject}: builds on", observed, expected="all back to a full backup", hint=hint)
                return False
            seen += 1
            needed = read_builds_on(before.path, self._options.limits)
        self._ctx.check(f"{subject}: builds on", seen, at_least=1, unit="backup")
        return True

    def _verify_base_backup(self, subject: str, backup: Backup) -> bool:
        """Compare a base backup with its manifest, which has the checksums, at both levels."""
        ctx = self._ctx
        try:
            found = verify_base_backup(backup.path, self._options.limits, self._progress)
        except DamagedError as error:
            self._record = {"kind": "base backup", "damage": str(error)}
            ctx.fail(f"{subject}: manifest", str(error), expected="sound", hint="restore from another backup")
            return False
        self._record = {"kind": "base backup", "files": found.files, "wal": found.wal, "problems": found.problems}
        hint = f"restore from another backup: {shown('; '.join(found.problems[:3]))}" if found.problems else ""
        ctx.check(f"{subject}: files unlike the manifest", len(found.problems), at_most=0, hint=hint)
        ctx.check(f"{subject}: files", found.files, at_least=1)
        hint = "make it with --manifest-checksums=CRC32C"
        ctx.check(f"{subject}: files without a checksum", found.without_checksum, warn_above=0, hint=hint)
        if found.links:
            hint = "verify it with pg_verifybackup; for a restore, what the links point to is needed as well"
            links = f"{', '.join(found.links[:3])}{' …' if len(found.links) > 3 else ''}: not followed"
            ctx.unknown(f"{subject}: links", shown(links), expected="none", hint=hint)
        sound = self._compare_folder(subject, backup) is not False and not found.problems
        if found.builds_on:
            sound = self._check_chain(subject, found) and sound
        plain = not list(backup.path.glob("base.tar*"))
        if self._decode and self._options.pg_bin and plain:
            name = f"{subject}: pg_verifybackup"
            return self._run_tool(name, pg_verifybackup, self._options.pg_bin, backup.path) and sound
        return sound and not found.links

    def _run_tool(self, name: str, tool: Callable[[Path, Path, timedelta], str], pg_bin: Path, path: Path) -> bool:
        """Run one of Postgres' own programs and check its result."""
        try:
            errors = tool(pg_bin, path, self._ctx.remaining * 0.9)
        except (JobError, TargetError) as error:
            self._ctx.unknown(name, error.message, hint=error.hint or "")
            return False
        hint = "restore from another backup"
        return self._ctx.check(name, errors or "sound", equals="sound", hint=hint).status is CheckStatus.OK


def _record_of(sha256: str, reading: Reading | None) -> dict[str, Any]:
    """The result of reading a file, as plain data for the artifact."""
    if reading is None:
        return {"sha256": sha256}
    record = {"sha256": sha256, "kind": reading.kind, "plain_bytes": reading.plain_bytes}
    if reading.damage or reading.unread:
        record |= {"damage": reading.damage, "unread": reading.unread}
    if reading.contents is not None:
        names = [shown(name) for name in reading.contents.names[:_NAMES]]
        problems = [shown(problem) for problem in reading.contents.problems]
        rows = dict(list(reading.contents.rows.items())[:_NAMES])
        record |= {"entries": reading.contents.count, "names": names, "rows": rows, "problems": problems}
    return record
