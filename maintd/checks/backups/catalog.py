"""Which files of a folder are backups, which of them belong together, and what was written down about them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath

from maintd.checks.backups.archive import kind_by_name
from maintd.checks.backups.base_backup import MANIFEST
from maintd.checks.backups.stream import sha256_of
from maintd.clients.files import Entry, Tree

_LISTS = ("SHA256SUMS", "SHA256SUMS.txt", "sha256sums.txt", "sha256sum.txt", "manifest.sha256")
_GNU_LINE = re.compile(r"\\?([0-9a-fA-F]{64})(?: [ *](.+))?")
_BSD_LINE = re.compile(r"SHA256 \((.+)\) = ([0-9a-fA-F]{64})")
_LIST_MOST = 16 << 20
_STAMP = re.compile(r"\d+(?:[-_.:T]*\d+)*Z?")
_DATE = re.compile(r"(?<!\d)(20\d\d)-?(\d\d)-?(\d\d)(?:[-_T.]?(\d\d)[-:]?(\d\d)[-:]?(\d\d))?(?!\d)")

# A name may be in any zone, tell the day only, and be given hours before the last byte is written.
_NAME_SLACK = timedelta(hours=36)


@dataclass(frozen=True)
class Backup:
    """One backup: a file, or the folder of a base backup. `size_bytes` of a folder is that of all its files."""

    path: Path
    relative: str
    size_bytes: int
    written_at: datetime
    mode: int
    device: int
    folder: bool = False

    @property
    def series(self) -> str:
        """Its path with times and numbers taken out: backups of one series follow one another."""
        return _STAMP.sub("#", self.relative)

    @property
    def named_at(self) -> datetime | None:
        """The time in its name, or else in those of its folders, taken for UTC; None when there is none."""
        for part in reversed(PurePosixPath(self.relative).parts):
            for found in _DATE.finditer(part):
                year, month, day, hour, minute, second = (int(text or 0) for text in found.groups())
                try:
                    return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
                except ValueError:
                    continue
        return None

    @property
    def made_at(self) -> datetime:
        """When it was written. Where its name says that this was much earlier, it was copied since: the name wins."""
        named = self.named_at
        return named if named is not None and named < self.written_at - _NAME_SLACK else self.written_at


@dataclass(frozen=True)
class Found:
    """The backups, newest first, and what stood in the way of looking everywhere."""

    backups: tuple[Backup, ...]
    unread: tuple[str, ...]


def find_backups(root: Path, patterns: Sequence[str], exclude: Sequence[str] = ()) -> Found:
    """Backups below a folder whose path from there matches a pattern and none of `exclude`.

    What stands inside of a base backup is not counted again; checksums, links and unfinished files are no backups.
    pattern: `*` within a name, `**/` for any folders; a bare last `*` takes only files whose name promises a format
    that is known. Raises TargetError when the folder cannot be opened.
    """
    wanted = [(path_pattern(pattern), pattern.rpartition("/")[2] == "*") for pattern in patterns]
    unwanted = [path_pattern(pattern) for pattern in exclude]

    def chosen(relative: str, *, base: bool = False) -> bool:
        known = base or bool(kind_by_name(Path(relative)))
        matched = any(pattern.fullmatch(relative) and (known or not bare) for pattern, bare in wanted)
        return matched and not any(pattern.fullmatch(relative) for pattern in unwanted)

    with Tree(root, one_device=False) as tree:
        entries = [entry for entry in tree.walk() if entry.regular]
        unread = tuple(tree.unread)
    bases = {entry.parts[:-1] for entry in entries if entry.name == MANIFEST}
    inside: dict[tuple[str, ...], list[Entry]] = {base: [] for base in bases}
    backups = []
    for entry in entries:
        base = next((entry.parts[:n] for n in range(len(entry.parts)) if entry.parts[:n] in bases), None)
        if base is not None:
            inside[base].append(entry)
        elif chosen(entry.relative) and not is_checksum(entry.name):
            backups.append(_file(root, entry))
    for base, members in inside.items():
        if chosen("/".join(base), base=True) or any(chosen(member.relative, base=True) for member in members):
            backups.append(_folder(root, base, members))
    backups.sort(key=lambda backup: (backup.made_at, backup.relative), reverse=True)
    return Found(tuple(backups), unread)


def path_pattern(pattern: str) -> re.Pattern[str]:
    """A glob over a path with slashes: `*` and `?` stay within a name, `**/` stands for any folders."""
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
    """Whether a file of this name holds checksums of others."""
    return name.endswith(".sha256") or name in _LISTS


@dataclass(frozen=True)
class Recorded:
    """What was written down for a file. `sha256` is None when the list is there but has no line for it."""

    source: Path
    sha256: str | None


def recorded_sha256(path: Path, root: Path) -> Recorded | None:
    """What `NAME.sha256` beside the file, or a list in its folder or one above up to `root`, says; None when nothing
    was written down. Of several lines the last counts. Raises OSError."""
    beside = path.with_name(path.name + ".sha256")
    if beside.is_file():
        lines = [sha256 for name, sha256 in listed(beside) if name in ("", path.name) or Path(name).name == path.name]
        return Recorded(beside, lines[-1] if lines else None)
    folders = [path.parent, *(folder for folder in path.parent.parents if folder.is_relative_to(root))]
    found = None
    for folder in folders if path.is_relative_to(root) else folders[:1]:
        own = path.relative_to(folder).as_posix()
        for source in (folder / name for name in _LISTS):
            if source.is_file():
                lines = [sha256 for name, sha256 in listed(source) if name.removeprefix("./") == own]
                found = Recorded(source, lines[-1] if lines else None)
                if lines:
                    return found
    return found


def listed(source: Path) -> list[tuple[str, str]]:
    """The lines of a list of checksums, as names with their sha256; a line without a name has an empty one.

    Knows what `sha256sum`, also with `--tag`, writes. Raises OSError.
    """
    if source.stat().st_size > _LIST_MOST:
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


def _folder(root: Path, base: tuple[str, ...], members: list[Entry]) -> Backup:
    # The manifest is written last, so its time is the backup's. A member that others may read exposes the whole.
    manifest = next(member for member in members if member.parts == (*base, MANIFEST))
    path = root.joinpath(*base)
    mode = path.stat().st_mode
    size = sum(member.status.st_size for member in members)
    relative = "/".join(base) or root.name
    return Backup(path, relative, size, manifest.modified_at, mode, manifest.status.st_dev, folder=True)


_PROBLEMS_KEPT = 20


def folder_list(path: Path) -> Path:
    """Where the list of a folder's files is: `NAME.sha256` beside it, as `find NAME -type f -exec sha256sum {} +`
    writes it."""
    return path.with_name(path.name + ".sha256")


def compare_folder(path: Path, progress: Callable[[int], None]) -> list[str]:
    """How the folder differs from its list, at most 20 times: files that are other, missing, or not in it.

    Raises OSError.
    """
    wanted = {
        name.removeprefix("./").removeprefix(f"{path.name}/"): sha256 for name, sha256 in listed(folder_list(path))
    }
    problems: list[str] = []
    for file in sorted(path.rglob("*")):
        if len(problems) == _PROBLEMS_KEPT:
            return problems
        name = file.relative_to(path).as_posix()
        if not file.is_file() or file.is_symlink():
            continue
        expected = wanted.pop(name, None)
        if expected is None:
            problems.append(f'"{name}" is not in the list')
        elif sha256_of(file, progress) != expected:
            problems.append(f'"{name}" has other bytes')
    return (problems + [f'"{name}" is missing' for name in sorted(wanted)])[:_PROBLEMS_KEPT]
