"""The backups in a folder, and the checksum files beside them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from maintd.checks.backup_sets.layout import MANIFEST, is_set, is_temporary
from maintd.checks.backups import folders
from maintd.checks.backups.archive import kind_by_name
from maintd.checks.backups.names import instants, series_of
from maintd.checks.backups.stream import sha256_of
from maintd.checks.read_tally import ReadTally
from maintd.clients.files import Entry, Tree, shown

_LISTS = ("SHA256SUMS", "SHA256SUMS.txt", "sha256sums.txt", "sha256sum.txt", "manifest.sha256")
_GNU_LINE = re.compile(r"\\?([0-9a-fA-F]{64})(?: [ *](.+))?")
_BSD_LINE = re.compile(r"SHA256 \((.+)\) = ([0-9a-fA-F]{64})")
_LIST_MAX = 16 << 20

# The date in a name may be in any time zone, without a time, and hours before the last byte is written.
_NAME_SLACK = timedelta(hours=36)
CLOCKS = timedelta(minutes=5)  # tolerated difference between the clocks of two machines


@dataclass(frozen=True)
class Backup:
    """One backup: a file, or a folder that is one backup, whose `size_bytes` is the sum of its files."""

    path: Path
    relative: str
    size_bytes: int
    written_at: datetime
    mode: int
    device: int
    kind: str = ""  # of a folder, see `maintd.checks.backups.folders`

    @property
    def folder(self) -> bool:
        """Whether it is a folder."""
        return self.kind != ""

    @property
    def series(self) -> str:
        """Its path with dates and times replaced; equal for all backups of one series."""
        return series_of(self.relative)

    @property
    def named_at(self) -> datetime | None:
        """The time in its name, or else in the names of its folders, read as UTC; None without one."""
        return next(instants(self.relative), None)

    @property
    def created_at(self) -> datetime:
        """When it was written; or the time in its name when that is much earlier, since then it was copied later."""
        named = self.named_at
        return named if named is not None and named < self.written_at - _NAME_SLACK else self.written_at

    def in_future(self, now: datetime) -> bool:
        """Whether its time is later than now, so that its age is not known."""
        return self.created_at > now + CLOCKS


def newest_first(backups: Iterable[Backup], now: datetime) -> list[Backup]:
    """Sort backups by age. Those with a time in the future come last: they must not hide how old the others are."""
    return sorted(backups, key=lambda one: (not one.in_future(now), one.created_at, one.relative), reverse=True)


@dataclass(frozen=True)
class Catalog:
    """The backups in a folder, newest first, the errors of folders that could not be read, and the other files.

    `tally` counts the backups as understood. Files of a kind that is not read here are not understood: they may be
    backups. Notes, logs, checksums and what `exclude` names are out of scope.
    """

    backups: tuple[Backup, ...]
    unread: tuple[str, ...]
    tally: ReadTally = field(default_factory=ReadTally)


# Files beside backups that are none. A backup in one of these formats is found by a pattern for it.
_NO_BACKUP = re.compile(
    r"\..*|.*\.(?:txt|md|rst|log|pid|lock|html?|css|sh|py|ya?ml|toml|ini|cfg|conf|env|sig|asc|minisig|md5|sha\d+|crc|par2"
    r"|sha256sums?|notes|metadata|service|timer)|README|LICENSE|Makefile|lost\+found|[A-Z0-9]*SUMS?(?:\.txt)?",
    re.IGNORECASE,
)


def find_backups(
    root: Path,
    patterns: Sequence[str],
    exclude: Sequence[str] = (),
    expect: Iterable[str] = (),
    *,
    now: datetime | None = None,
) -> Catalog:
    """Find the backups below a folder whose relative path matches a pattern and none of `exclude`.

    A folder that is one backup is found once, its files are not. Checksum files and links are not backups. patterns:
    `*` matches within a name, `**/` any folders; when the last part is only `*`, the suffix must be of a known format,
    and other files are counted. expect: patterns of the path or name of further backups. Raises TargetError when the
    folder cannot be opened.
    """
    wanted = [(path_pattern(pattern), pattern.rpartition("/")[2] == "*") for pattern in patterns]
    unwanted = [path_pattern(pattern) for pattern in exclude]
    expected = [path_pattern(pattern) for pattern in expect]
    tally = ReadTally()

    def chosen(relative: str, *, known: bool = True, count: bool = False) -> bool:
        if any(pattern.fullmatch(relative) for pattern in unwanted):
            tally.out_of_scope += count
            return False
        name = relative.rpartition("/")[2]
        if any(pattern.fullmatch(relative) or pattern.fullmatch(name) for pattern in expected):
            return True
        matching = [any_name for pattern, any_name in wanted if pattern.fullmatch(relative)]
        if not matching or known or not all(matching):
            return bool(matching)
        if count and _NO_BACKUP.fullmatch(name):
            tally.out_of_scope += 1
        elif count:
            tally.add_not_understood(shown(relative))
        return False

    with Tree(root, one_device=False) as tree:
        entries = [entry for entry in tree.walk() if entry.regular]
        unread = tuple(tree.unread)
    # What is being written, or was left by a run that was killed, is no backup.
    entries = [entry for entry in entries if not any(map(is_temporary, entry.parts[:-1]))]
    sets = {entry.parts[:-1] for entry in entries if len(entry.parts) > 1 and is_set(entry.parts[-2])}
    whole = {entry.parts[:-1] for entry in entries if entry.name == MANIFEST}
    unread += tuple(f"{shown('/'.join(parts))}: a set without its {MANIFEST}" for parts in sorted(sets - whole))
    found, files = folders.split(entries)
    backups = [
        _file(root, entry)
        for entry in files
        if not is_checksum(entry.name) and chosen(entry.relative, known=_has_known_name(entry), count=True)
    ]
    backups += [
        _folder(root, folder)
        for folder in found
        if chosen("/".join(folder.parts)) or any(chosen(entry.relative) for entry in folder.entries)
    ]
    tally.understood = len(backups)
    return Catalog(tuple(newest_first(backups, now or datetime.now(UTC))), unread, tally)


def _has_known_name(entry: Entry) -> bool:
    return bool(kind_by_name(Path(entry.relative))) or entry.name == MANIFEST


def path_pattern(pattern: str) -> re.Pattern[str]:
    """Compile a glob for a path: `*` and `?` match within a name, `**/` matches any folders."""
    text = ""
    for piece in re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]/]+\])", pattern):
        if piece == "**/":
            text += "(?:[^/]+/)*"
        elif piece == "**":
            text += ".*"
        elif piece in ("*", "?"):
            text += "[^/]" + ("*" if piece == "*" else "")
        elif piece.startswith("[") and len(piece) > 2:
            text += (
                "[" + ("^" if piece[1] == "!" else "") + re.escape(piece[1:-1].lstrip("!")).replace(r"\-", "-") + "]"
            )
        else:
            text += re.escape(piece)
    return re.compile(text, re.DOTALL)


def is_checksum(name: str) -> bool:
    """Whether a file of this name has the checksums of other files."""
    return name.endswith(".sha256") or name in _LISTS


@dataclass(frozen=True)
class RecordedChecksum:
    """The checksum recorded for a file. `sha256` is None when `source` exists but has no line for the file."""

    source: Path
    sha256: str | None


def recorded_sha256(path: Path, root: Path) -> RecordedChecksum | None:
    """Return the checksum in `NAME.sha256` beside a file, or in a list in one of its folders up to `root`.

    None without such a file. Of several lines the last one counts. Raises OSError.
    """
    beside = path.with_name(path.name + ".sha256")
    if beside.is_file():
        lines = [
            sha256 for name, sha256 in read_checksums(beside) if name in ("", path.name) or Path(name).name == path.name
        ]
        return RecordedChecksum(beside, lines[-1] if lines else None)
    parents = [path.parent, *(folder for folder in path.parent.parents if folder.is_relative_to(root))]
    found = None
    for folder in parents if path.is_relative_to(root) else parents[:1]:
        own = path.relative_to(folder).as_posix()
        for source in (folder / name for name in _LISTS):
            if source.is_file():
                lines = [sha256 for name, sha256 in read_checksums(source) if name.removeprefix("./") == own]
                found = RecordedChecksum(source, lines[-1] if lines else None)
                if lines:
                    return found
    return found


def read_checksums(source: Path) -> list[tuple[str, str]]:
    """Read a checksum file as pairs of name and sha256; the name is empty in a line without one.

    Supports the formats of `sha256sum`, also with `--tag`. Raises OSError.
    """
    if source.stat().st_size > _LIST_MAX:
        return []
    found = []
    for line in source.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        if gnu := _GNU_LINE.fullmatch(line.strip()):
            found.append((gnu[2] or "", gnu[1].lower()))
        elif bsd := _BSD_LINE.fullmatch(line.strip()):
            found.append((bsd[1], bsd[2].lower()))
    return found


def _file(root: Path, entry: Entry) -> Backup:
    status = entry.status
    path = root.joinpath(*entry.parts)
    return Backup(path, entry.relative, status.st_size, entry.modified_at, status.st_mode, status.st_dev)


def _folder(root: Path, folder: folders.FolderBackup) -> Backup:
    path = root.joinpath(*folder.parts)
    entries = folder.entries
    written_at = max(entry.modified_at for entry in folder.dated())
    size = sum(entry.status.st_size for entry in entries)
    relative = "/".join(folder.parts) or root.name
    return Backup(path, relative, size, written_at, path.stat().st_mode, entries[0].status.st_dev, folder.kind)


_PROBLEMS_KEPT = 20


def checksum_file(path: Path) -> Path:
    """Return the path of a folder's checksum file: `NAME.sha256`, from `find NAME -type f -exec sha256sum {} +`."""
    return path.with_name(path.name + ".sha256")


def compare_with_checksums(path: Path, progress: Callable[[int], None]) -> list[str]:
    """Compare a folder with its checksum file; return at most 20 differences. Raises OSError."""
    wanted = {
        name.removeprefix("./").removeprefix(f"{path.name}/"): sha256
        for name, sha256 in read_checksums(checksum_file(path))
    }
    problems: list[str] = []
    with Tree(path, one_device=False) as tree:
        names = sorted(entry.relative for entry in tree.walk() if entry.regular)
    for name in names:
        if len(problems) == _PROBLEMS_KEPT:
            return problems
        expected = wanted.pop(name, None)
        if expected is None:
            problems.append(f'"{name}" is not in the list')
        elif sha256_of(path / name, progress) != expected:
            problems.append(f'"{name}" has changed')
    return (problems + [f'"{name}" is missing' for name in sorted(wanted)])[:_PROBLEMS_KEPT]
