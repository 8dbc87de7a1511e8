"""Sets of backups, what is expected of them, and the criteria that compare both."""

from __future__ import annotations

import shlex
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from statistics import median

from pydantic import BaseModel, ConfigDict

from maintd.checks.backups.archive import EMPTY, Contents
from maintd.checks.backups.catalog import Backup, path_pattern
from maintd.checks.backups.tar import Member
from maintd.clients.files import shown
from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus
from maintd.units import Duration, Size

SIZES = 7  # earlier backups whose median size is typical
FEWEST_SIZES = 3  # earlier backups needed for a typical size


_REMOVE = "remove {} from the param expect for this pattern, or let the pattern match other files"


class Expected(BaseModel):
    """What is expected of one kind of backup; null means the job's own param applies."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    max_age: Duration | None = None
    """A newest backup older than this fails."""
    warn_age: Duration | None = None
    """A newest backup older than this warns."""
    min_size: Size = 1
    """A smaller backup fails."""
    kind: str = ""
    """Required format, like `tar.gz`, `sql.gz`, `pgdump.age`; default: by the suffixes of its name."""
    entries: int = 1
    """Minimum number of members, tables or keys in it."""
    tables: dict[str, int] = {}
    """Tables of a dump with their minimum number of rows: `{public.pnl_days: 1}`."""
    members: dict[str, int] = {}
    """Files in a tar archive with their minimum size in bytes: `{admin_token: 32}`."""
    private_members: bool = True
    """Only the owner may read the files in `members`."""
    required: bool = True
    """A pattern without any backup fails."""
    recurring: bool = True
    """A new one is needed within `max_age`; false for copies that are made once, as before a change."""
    kept: int = 1
    """Minimum number of backups that are kept; fewer warn."""
    reach: Duration | None = None
    """Minimum age of the oldest backup that is kept; a younger one warns."""


@dataclass(frozen=True)
class BackupSet:
    """Backups of one pattern or series, newest first. `recurring`: a new one is expected within its maximum age."""

    name: str
    backups: tuple[Backup, ...]
    expected: Expected
    recurring: bool = True


def group(backups: Sequence[Backup], expect: Mapping[str, Expected], *, others_recur: bool = False) -> list[BackupSet]:
    """Return one set for each expected pattern, also without any backup if required, and one for each other series.

    If there are expectations, the other series are read but recur only with `others_recur`: they may be one-time
    copies.
    """
    sets, left = [], list(backups)
    for pattern, expected in expect.items():
        matching = path_pattern(pattern)
        mine = [b for b in left if matching.fullmatch(b.relative) or matching.fullmatch(b.path.name)]
        left = [backup for backup in left if backup not in mine]
        if mine or expected.required:
            sets.append(BackupSet(pattern, tuple(mine), expected, recurring=expected.recurring))
    series: dict[str, list[Backup]] = {}
    for backup in left:
        series.setdefault(backup.series, []).append(backup)
    recurring = others_recur or not expect
    sets += [BackupSet(shown(name), tuple(found), Expected(), recurring=recurring) for name, found in series.items()]
    return sets


def select_to_read(found: BackupSet, newest: int, older: int, day: int) -> list[Backup]:
    """Select the `newest` newest backups, and `older` of the others in rotation: different ones each day."""
    rest = found.backups[newest:]
    turns = dict.fromkeys((day * older + turn) % len(rest) for turn in range(older)) if rest else ()
    return [*found.backups[:newest], *(rest[turn] for turn in turns)]


def age_criteria(found: BackupSet, now: datetime, warn_age: timedelta, max_age: timedelta) -> list[Criterion]:
    """Check the age of the newest backup, and that no backup has a time in the future.

    A backup from the future proves nothing about the age, so the newest of the others counts.
    """
    newest = found.backups[0]
    hint = f"the newest is {shown(newest.relative)}; check the job that makes the backups"
    criteria = []
    ahead = [backup for backup in found.backups if backup.in_future(now)]
    if ahead:
        hours = max((backup.created_at - now).total_seconds() for backup in ahead) / 3600
        cause = f"the time of {shown(ahead[0].relative)} is {hours:.1f} h in the future"
        others = f", and of {len(ahead) - 1} more" if len(ahead) > 1 else ""
        clock = "check the clock of the machine that makes the backups, then correct the file's time with touch"
        criteria.append(Criterion("age" if newest in ahead else "times", unknown=cause + others, hint=clock))
    if newest not in ahead:
        age = max(now - newest.created_at, timedelta(0))
        criteria.insert(0, Criterion("age", age, at_most=max_age, warn_above=min(warn_age, max_age), hint=hint))
    return criteria


def retention_criteria(found: BackupSet, now: datetime) -> list[Criterion]:
    """Check that enough backups are kept, and that they reach back far enough; both only where it is expected."""
    expected, criteria = found.expected, []
    hint = "check what removes old backups; it may be too eager, or the backups fail now and then"
    if expected.kept > 1:
        criteria.append(Criterion("kept", len(found.backups), warn_below=expected.kept, unit="backup", hint=hint))
    if expected.reach is not None:
        oldest = max(now - found.backups[-1].created_at, timedelta(0))
        criteria.append(Criterion("age of the oldest", oldest, warn_below=expected.reach, hint=hint))
    return criteria


def copy_criteria(found: BackupSet, copies: BackupSet | None, now: datetime, max_age: timedelta) -> list[Criterion]:
    """Compare a set with its copies in another place: age and size. max_age: of the newest copy."""
    hint = "check the job that copies the backups"
    if copies is None or not copies.backups:
        return [Criterion("copies", 0, at_least=1, hint=hint)]
    newest, criteria = copies.backups[0], []
    if newest.in_future(now):
        cause = f"the time of {shown(newest.relative)} is in the future"
        criteria.append(Criterion("age of the newest copy", unknown=cause, hint="check the clock there"))
    elif found.recurring:
        criteria.append(Criterion("age of the newest copy", now - newest.created_at, at_most=max_age, hint=hint))
    else:
        criteria.append(Criterion("copies", len(copies.backups), at_least=1, hint=hint))
    own = {backup.relative: backup for backup in found.backups}
    both = [(copy, own[copy.relative]) for copy in copies.backups if copy.relative in own]
    unlike = [copy for copy, original in both if copy.size_bytes != original.size_bytes]
    hint = f"copy it again: {shown(unlike[0].relative)}" if unlike else ""
    criteria.append(Criterion("copies of another size", len(unlike), at_most=0, hint=hint))
    return criteria


def metadata_criteria(
    found: BackupSet, sizes: Sequence[float], *, private: bool, data: Iterable[int]
) -> list[Criterion]:
    """Check the newest backup without reading it: size, mode, device, and date in its name.

    sizes: of earlier runs. data: the devices with live data.
    """
    newest = found.backups[0]
    earlier = [float(backup.size_bytes) for backup in found.backups[1 : 1 + SIZES]]
    earlier = earlier if len(earlier) >= FEWEST_SIZES else [*sizes][-SIZES:]
    least, most = (median(earlier) / 2, median(earlier) * 2) if len(earlier) >= FEWEST_SIZES else (None, None)
    criteria = [
        Criterion(
            "size",
            newest.size_bytes,
            at_least=found.expected.min_size,
            warn_below=least,
            warn_above=most,
            unit="B",
            hint="compare it with earlier backups to find what is missing or has grown",
        ),
    ]
    if private:
        exposed = next((b for b in found.backups if b.mode & 0o077), newest)
        criteria.append(
            Criterion(
                "mode",
                f"{stat.S_IMODE(exposed.mode):o}",
                equals=_private(exposed.mode),
                severity=CheckStatus.WARN,
                hint=f"run: chmod go= {shlex.quote(shown(exposed.path))}",
            ),
        )
    devices = set(data)
    if devices:
        where = "the device of the data" if newest.device in devices else "another device"
        hint = "keep a copy on another device: one failing disk would destroy both"
        criteria.append(Criterion("kept on", where, equals="another device", severity=CheckStatus.WARN, hint=hint))
    dated = [backup for backup in found.backups if backup.named_at is not None]
    if len(dated) > 1:
        latest = max(dated, key=lambda backup: (backup.named_at, backup.relative))
        written = max(dated, key=lambda backup: backup.written_at)
        order = "agree" if latest.named_at == written.named_at else f"{shown(written.path.name)} was written last"
        criteria.append(
            Criterion(
                "names and times",
                order,
                equals="agree",
                severity=CheckStatus.WARN,
                hint=f"the newest by name is {shown(latest.path.name)}: was a backup copied or overwritten?",
            ),
        )
    return criteria


def empty_criteria(contents: Contents | None, damage: str) -> list[Criterion]:
    """Check that a small file has any content: not compressed nothing, nor an archive without members."""
    empty = damage.startswith(EMPTY) or (contents is not None and contents.kind != "data" and not contents.count)
    hint = "check the log of the job that makes it: its program failed, and the empty output was kept"
    return [Criterion("content", "nothing" if empty else "something", equals="something", hint=hint)]


def _private(mode: int) -> str:
    return f"{stat.S_IMODE(mode) & 0o700:o}"


def contents_criteria(contents: Contents, expected: Expected, typical: float | None) -> list[Criterion]:
    """Compare the contents with what is expected. typical: number of entries in earlier backups."""
    criteria = []
    if contents.kind != "data":
        criteria.append(
            Criterion(
                "entries",
                contents.count,
                at_least=expected.entries,
                warn_below=typical and typical / 2,
                hint="check whether the right source was backed up",
            ),
        )
    if contents.problems:
        criteria.append(
            Criterion(
                "members that leave the folder",
                len(contents.problems),
                at_most=0,
                severity=CheckStatus.WARN,
                hint=f"unpacking it may overwrite other files: {shown('; '.join(contents.problems[:3]))}",
            ),
        )
    for name, least in expected.tables.items():
        criteria.append(_table(name, least, contents))
    for name, least in expected.members.items():
        criteria += _member(name, least, contents, private=expected.private_members)
    return criteria


def _table(name: str, least: int, contents: Contents) -> Criterion:
    label, hint = f"rows of {name}", "check the database that was dumped, and the privileges of the login"
    matching = [table for table in contents.names if name in (table, table.rpartition(".")[2])]
    if contents.kind not in ("pgdump", "sql"):
        return Criterion(label, unknown=f"a {contents.kind} has no tables", hint=_REMOVE.format("tables"))
    if not matching:
        return Criterion(label, "not in the dump", equals=f"at least {least}", hint=hint)
    counts = [contents.rows[table] for table in matching if table in contents.rows]
    if not counts:
        rows: int | str = "in the dump without its rows" if least else 0
        hint = "it was dumped with --schema-only or --exclude-table-data, or it is partitioned"
        return Criterion(
            label, rows, equals=f"at least {least}" if least else None, at_least=None if least else 0, hint=hint
        )
    if None in counts:
        return Criterion(label, unknown="dumped as INSERTs, which are not counted", hint="dump without --inserts")
    return Criterion(label, sum(count or 0 for count in counts), at_least=least, hint=hint)


def _member(name: str, least: int, contents: Contents, *, private: bool) -> list[Criterion]:
    if contents.kind != "tar":
        return [
            Criterion(f"member {name}", unknown=f"a {contents.kind} has no members", hint=_REMOVE.format("members"))
        ]
    matching = [member for member in contents.members if member.regular and _named(member, name)]
    if not matching and contents.count > len(contents.members):
        cause = f"not among the first {len(contents.members)} members"
        return [
            Criterion(
                f"member {name}", unknown=cause, hint="only these are searched: add it first when the archive is made"
            )
        ]
    if not matching:
        return [
            Criterion(
                f"member {name}",
                "missing",
                equals="there",
                hint="compare the list of files in the backup script with what a restore needs",
            )
        ]
    smallest = min(matching, key=lambda member: member.size_bytes)
    criteria = [
        Criterion(
            f"size of {name}",
            smallest.size_bytes,
            at_least=least,
            unit="B",
            hint="check whether the original is empty or truncated",
        )
    ]
    if private:
        exposed = max(matching, key=lambda member: member.mode & 0o077)
        mode = f"{stat.S_IMODE(exposed.mode):o}"
        criteria.append(
            Criterion(
                f"mode of {name}",
                mode,
                equals=_private(exposed.mode),
                severity=CheckStatus.WARN,
                hint="unpacking it would expose it: run chmod 600 on the original",
            ),
        )
    return criteria


def _named(member: Member, wanted: str) -> bool:
    path = member.name.removeprefix("./")
    return fnmatchcase(path, wanted) or fnmatchcase(path.rpartition("/")[2], wanted)
