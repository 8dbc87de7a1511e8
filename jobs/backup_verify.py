"""Prove that the newest backup of each set is recent, unchanged since it was made, and readable to its last byte.

Runbook: Weekly Maintenance, System Cleanup, step 5 "Backup Verification"

Finds backups below a folder and judges each set of them. `level: age` looks from outside: there, recent, of the usual
size, private. `level: checksum` also compares the sha256 that was written when the backup was made. `level: decode`
also decrypts, decompresses and walks everything inside, and compares tables, rows and members with what is expected.
Knows tar, pg_dump's custom and plain format, base backups and Redis snapshots, within gzip, zstd and age. Each pattern
in `expect` is a promise: no file for it is a failure. Reads only; nothing is unpacked.
"""

import errno
import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from maintd.checks import backups as archives
from maintd.checks.backups import Backup, evaluate
from maintd.checks.backups.evaluate import BackupSet, Expected
from maintd.checks.backups.pg_tools import pg_restore, pg_verifybackup
from maintd.clients.files import shown
from maintd.job import CheckStatus, Context, Duration, JobError, JobParams, Size, TargetError, job

LEVELS = ("age", "checksum", "decode")
NAMES = 1000  # of members or tables that the artifact tells of one backup


class Params(JobParams):
    root: Path | None = None
    """The folder with the backups; by default that of the folder targets in `folders`."""
    folders: tuple[str, ...] = ("backups",)
    """Names of folder targets."""
    patterns: tuple[str, ...] = ("**/*",)
    """Which files are backups, by their path in the folder; `**/*` takes all whose name promises a known format."""
    exclude: tuple[str, ...] = ()
    """Patterns of files to leave out."""
    level: Literal["age", "checksum", "decode"] = "decode"
    """How far to look; each level includes those before."""
    expect: dict[str, Expected] = {}
    """What is expected of the backups whose path or name matches a pattern; without any, that each series goes on."""
    warn_age: Duration = timedelta(hours=26)
    """A newest backup older than this warns."""
    max_age: Duration = timedelta(hours=50)
    """A newest backup older than this fails."""
    newest: int = Field(default=1, ge=1)
    """How many of each set are read, from the newest on."""
    older: int = Field(default=1, ge=0)
    """How many of the others are read, in turn from run to run of different days."""
    private: bool = True
    """Whether a backup that others than its owner may read warns."""
    data: tuple[Path, ...] = ()
    """Folders of live data: a backup on the device of one of them warns."""
    identity: Path | None = None
    """A key file of age, for backups encrypted with it."""
    pg_bin: Path | None = None
    """Where pg_restore and pg_verifybackup of the server's version are; they are then asked as well."""
    max_plain: Size = 4 * 2**40
    """A backup that expands beyond this is taken for damaged."""
    max_ratio: float = Field(default=300, gt=1)
    """So is one that expands to more than so many times its size."""
    max_members: int = Field(default=5_000_000, ge=1)
    """So is a tar with more members."""


@job(timeout="2h", repeatable=True, locks={"backups": "shared"}, history_of="job")
def run(ctx: Context, params: Params) -> None:
    """Each folder in turn."""
    roots = {"": params.root} if params.root else {name: ctx.target("folders", name).path for name in params.folders}
    data = [folder.stat().st_dev for folder in params.data]
    records: list[dict[str, Any]] = []
    try:
        for name, root in roots.items():
            with ctx.phase(f"look for backups in {shown(root)}"):
                found = look(ctx, params, root, name)
            for one in found:
                with ctx.phase(f"{one.name}: judge the newest from outside"):
                    outside(ctx, params, one, data)
            if params.level != "age":
                Reader(ctx, params, root.resolve(), records).read(found)
    finally:
        # What was read before it stopped took long, and is worth as much.
        if records:
            ctx.save("backups-read.json", json.dumps({"backups": records}, indent=1), "application/json")


def look(ctx: Context, params: Params, root: Path, name: str) -> list[BackupSet]:
    """The sets of backups below a folder."""
    subject = f"backups in {name or shown(root)}"
    found = archives.find_backups(root.resolve(), params.patterns, params.exclude)
    if found.unread:
        hint = "give read access, or leave it out by the patterns"
        ctx.unknown(f"{subject}: folders read", f"{len(found.unread)} not: {'; '.join(found.unread[:3])}", hint=hint)
    hint = (
        f"none in {shown(root)} matches {', '.join(params.patterns)}: correct them, or look at what makes the backups"
    )
    ctx.require(subject, len(found.backups), at_least=1, hint=hint)
    return evaluate.group(found.backups, params.expect)


def outside(ctx: Context, params: Params, one: BackupSet, data: list[int]) -> None:
    """Level `age`: what a folder shows."""
    if not one.backups:
        ctx.check(f"{one.name}: backups", 0, at_least=1, hint="nothing matches it: look at what makes the backups")
        return
    newest, expected = one.backups[0], one.expected
    ctx.log(f"{one.name}: {len(one.backups)}, the newest is {shown(newest.relative)}")
    if one.dated:
        limits = expected.warn_age or params.warn_age, expected.max_age or params.max_age
        ctx.report([evaluate.age_criterion(newest, ctx.now(), *limits)], one.name)
    sizes = [point.value for point in ctx.series("backup_bytes", set=one.name)]
    ctx.report(evaluate.outside_criteria(one, sizes, private=params.private, data=data), one.name)
    ctx.measure("backup_age_seconds", (ctx.now() - newest.made_at).total_seconds(), "s", set=one.name)
    ctx.measure("backup_bytes", newest.size_bytes, "B", set=one.name)
    ctx.measure("backup_count_kept", len(one.backups), "backup", set=one.name)


class Reader:
    """Levels `checksum` and `decode`: what reading shows. Each backup read adds to `records`."""

    def __init__(self, ctx: Context, params: Params, root: Path, records: list[dict[str, Any]]) -> None:
        self._ctx = ctx
        self._params = params
        self._root = root
        self._limits = archives.Limits(params.max_plain, params.max_ratio, params.max_members)
        self._identities = archives.identities_in(params.identity) if params.identity else ()
        self._decode = params.level == "decode"
        self._began = time.monotonic()
        self._total = self._done = 0
        self._records = records
        self._seen: dict[str, Any] = {}  # of the backup that is being read

    def read(self, found: list[BackupSet]) -> None:
        """The newest of each set, and one of the older ones in turn."""
        day = self._ctx.now().toordinal()
        chosen = [(one, evaluate.to_read(one, self._params.newest, self._params.older, day)) for one in found]
        self._total = sum(backup.size_bytes for _, backups in chosen for backup in backups)
        for one, backups in chosen:
            levels = [self._recorded(one, backup) for backup in backups]
            if levels:
                self._ctx.measure("backup_verified_level", levels[0], "level", set=one.name)
        seconds = max(time.monotonic() - self._began, 1e-3)
        self._ctx.measure("backup_read_rate", self._done / seconds, "B/s")

    def _progress(self, count: int) -> None:
        self._done += count
        rate = self._done / max(time.monotonic() - self._began, 1e-3)
        self._ctx.progress(self._done, self._total, "B", rate=rate)

    def _recorded(self, one: BackupSet, backup: Backup) -> int:
        """Read one backup and keep what was seen; the level that it passed."""
        self._seen = {}
        level = self._one(one, backup)
        about = {"set": one.name, "path": shown(backup.path), "size_bytes": backup.size_bytes}
        made_at = f"{backup.made_at:%Y-%m-%dT%H:%M:%SZ}"
        self._records.append({**about, "made_at": made_at, "passed": LEVELS[level], **self._seen})
        return level

    def _one(self, one: BackupSet, backup: Backup) -> int:
        """Read one backup; the level that it passed."""
        subject = shown(backup.relative)
        what = "read it to its end" if self._decode else "compare its checksum"
        with self._ctx.phase(f"{subject}: {what}"):
            try:
                passed = self._base(subject, backup) if backup.folder else self._file(subject, one, backup)
            except FileNotFoundError:
                self._ctx.unknown(f"{subject}: readable", "it was removed meanwhile", hint="the next run looks again")
            except PermissionError as error:
                self._ctx.unknown(f"{subject}: readable", str(error.strerror), hint="give this process read access")
            except OSError as error:
                where = "the disk may be failing: dmesg" if error.errno == errno.EIO else "look at the file system"
                self._ctx.fail(f"{subject}: readable", str(error.strerror), expected="readable", hint=where)
            else:
                return LEVELS.index(self._params.level) if passed else 0
        return 0

    def _file(self, subject: str, one: BackupSet, backup: Backup) -> bool:
        path, ctx, reading = backup.path, self._ctx, None
        before = path.stat()
        if self._decode:
            kind, limits = one.expected.kind, self._limits
            reading = archives.read_archive(
                path, kind=kind, identities=self._identities, limits=limits, progress=self._progress
            )
            sha256 = reading.sha256
        else:
            sha256 = archives.sha256_of(path, self._progress)
        self._seen = seen_in(sha256, reading)
        after = path.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            ctx.unknown(
                f"{subject}: complete", "it is still being written", hint="verify it later, or write it elsewhere"
            )
            return False
        sealed = reading is not None and reading.sealed and not reading.damage
        passed = self._checksum(subject, backup, sha256, sealed=sealed)
        return self._contents(subject, one, backup, reading) and passed if reading is not None else passed

    def _checksum(self, subject: str, backup: Backup, sha256: str, *, sealed: bool) -> bool:
        """Against what was written down, and against what was seen the first time."""
        ctx, name = self._ctx, f"{subject}: sha256"
        recorded = archives.recorded_sha256(backup.path, self._root)
        # 48 bits of the digest are exact in a measure; a file that changes keeps neither its time nor its size.
        mark = f"{subject} {backup.size_bytes} {backup.written_at:%Y%m%dT%H%M%S.%f}"
        first = next(iter(ctx.series("backup_fingerprint", file=mark)), None)
        seen = int(sha256[:12], 16)
        ctx.measure("backup_fingerprint", seen, "", file=mark)
        if first is not None and first.value != seen:
            hint = f"other bytes with the same size and time: it rots on the disk since {first.at:%Y-%m-%d}"
            ctx.fail(f"{subject}: unchanged", "changed", expected="as first seen", hint=hint)
            return False
        if recorded is not None and recorded.sha256 is not None:
            hint = f"{shown(recorded.source.name)} was written for other bytes: restore from another backup"
            return ctx.check(name, sha256, equals=recorded.sha256, hint=hint).status is CheckStatus.OK
        missing = f"{shown(recorded.source.name)} has no line for it" if recorded else "none was written down"
        if sealed:
            ctx.log(f"{subject}: sha256 {sha256}; {missing}, the checksum within the format was compared")
            return True
        hint = f"when it is made, run: sha256sum {shown(backup.path.name)} > {shown(backup.path.name)}.sha256"
        ctx.unknown(name, missing, expected="one written when it was made", hint=hint)
        return False

    def _contents(self, subject: str, one: BackupSet, backup: Backup, reading: archives.Reading) -> bool:
        ctx, name = self._ctx, f"{subject}: decoded"
        if reading.damage:
            ctx.fail(
                name, f"damaged: {reading.damage}", expected="sound", hint="restore from another; make a new one now"
            )
            return False
        if reading.contents is None or reading.unread:
            ctx.unknown(name, reading.unread, hint="until then it is not known whether it can be restored")
            return False
        contents = reading.contents
        ctx.check(name, reading.kind, equals=reading.kind)
        sizes = [point.value for point in ctx.series("backup_entries", set=one.name)][-evaluate.SIZES :]
        usual = sorted(sizes)[len(sizes) // 2] if len(sizes) >= evaluate.FEWEST_SIZES else None
        if backup is one.backups[0]:
            ctx.measure("backup_entries", contents.count, "entry", set=one.name)
        ctx.report(evaluate.contents_criteria(contents, one.expected, usual), subject)
        ctx.log(f"{subject}: {reading.kind}, {contents.count} entries, {reading.plain_bytes} bytes inside")
        if reading.kind == "pgdump" and self._params.pg_bin:
            return self._asked(f"{subject}: pg_restore", pg_restore, backup.path)
        return True

    def _base(self, subject: str, backup: Backup) -> bool:
        """A base backup's manifest was written when it was made: comparing with it is both levels in one."""
        ctx = self._ctx
        try:
            found = archives.verify_base_backup(backup.path, self._limits, self._progress)
        except archives.DamagedError as error:
            self._seen = {"kind": "base backup", "damage": str(error)}
            ctx.fail(f"{subject}: manifest", str(error), expected="sound", hint="restore from another backup")
            return False
        self._seen = {"kind": "base backup", "files": found.files, "wal": found.wal, "problems": found.problems}
        hint = f"restore from another: {shown('; '.join(found.problems[:3]))}" if found.problems else ""
        ctx.check(f"{subject}: files unlike the manifest", len(found.problems), at_most=0, hint=hint)
        ctx.check(f"{subject}: files", found.files, at_least=1)
        hint = "make it with --manifest-checksums=CRC32C"
        ctx.check(f"{subject}: files without a checksum", found.unsummed, warn_above=0, hint=hint)
        if archives.folder_list(backup.path).is_file():
            unlike = archives.compare_folder(backup.path, lambda count: None)
            hint = f"restore from another: {shown('; '.join(unlike[:3]))}" if unlike else ""
            ctx.check(f"{subject}: files unlike their sha256", len(unlike), at_most=0, hint=hint)
            found.problems += unlike
        plain = not list(backup.path.glob("base.tar*"))
        if self._decode and self._params.pg_bin and plain:
            return self._asked(f"{subject}: pg_verifybackup", pg_verifybackup, backup.path) and not found.problems
        return not found.problems

    def _asked(self, name: str, tool: Any, path: Path) -> bool:
        """What Postgres' own program says; it is the reference."""
        try:
            said = tool(self._params.pg_bin, path, self._ctx.remaining * 0.9)
        except (JobError, TargetError) as error:
            self._ctx.unknown(name, error.message, hint=error.hint or "")
            return False
        hint = "restore from another backup"
        return self._ctx.check(name, said or "sound", equals="sound", hint=hint).status is CheckStatus.OK


def seen_in(sha256: str, reading: archives.Reading | None) -> dict[str, Any]:
    """What reading a file showed, for the artifact."""
    if reading is None:
        return {"sha256": sha256}
    seen = {"sha256": sha256, "kind": reading.kind, "plain_bytes": reading.plain_bytes}
    if reading.damage or reading.unread:
        seen |= {"damage": reading.damage, "unread": reading.unread}
    if reading.contents is not None:
        names = [shown(name) for name in reading.contents.names[:NAMES]]
        problems = [shown(problem) for problem in reading.contents.problems]
        rows = dict(list(reading.contents.rows.items())[:NAMES])
        seen |= {"entries": reading.contents.count, "names": names, "rows": rows, "problems": problems}
    return seen
