"""Which files of a folder are backups, which of them belong together, and what was written down about them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path

from maintd.targets.archives.basebackup import is_base_backup
from maintd.targets.archives.reading import kind_by_name

_SUMS = ("SHA256SUMS", "sha256sums.txt", "sha256sum.txt", "manifest.sha256")
_SUM_LINE = re.compile(r"\\?([0-9a-fA-F]{64})(?: [ *](.+))?")
_SUM_MOST = 16 << 20
_STAMP = re.compile(r"\d+(?:[-_.:T]*\d+)*Z?")


@dataclass(frozen=True)
class Backup:
    """One backup: a file, or the folder of a base backup."""

    path: Path
    size_bytes: int
    made_at: datetime
    mode: int
    uid: int
    folder: bool = False

    @property
    def series(self) -> str:
        """Its name with times and numbers taken out: backups of one series follow one another."""
        return _STAMP.sub("#", self.path.name)


def find_backups(root: Path, pattern: str) -> list[Backup]:
    """Backups below a folder, newest first. What stands inside a base backup is not counted again; a checksum file is
    no backup. Raises OSError when the folder cannot be read.

    pattern: as of Path.glob; a bare `**/*` takes only files whose name promises a known format.
    """
    entries = sorted(root.glob(pattern))
    bases = {path for path in entries if path.is_dir() and is_base_backup(path)}
    bases |= {path.parent for path in entries if path.name == "backup_manifest"}
    known_only = fnmatch("anything", pattern.rpartition("/")[2])
    backups = [_folder(path) for path in bases]
    for path in entries:
        inside = bases.intersection(path.parents)
        wanted = not known_only or kind_by_name(path)
        if path.is_file() and wanted and not inside and not is_checksum(path):
            backups.append(_file(path))
    return sorted(backups, key=lambda backup: (backup.made_at, backup.path), reverse=True)


def is_checksum(path: Path) -> bool:
    """Whether the file holds checksums of others."""
    return path.suffix == ".sha256" or path.name in _SUMS


def recorded_sha256(path: Path) -> tuple[str, Path] | None:
    """The sha256 that was written down for this file, and where: `NAME.sha256` beside it, or a list in its folder."""
    for source in (path.with_name(path.name + ".sha256"), *(path.with_name(name) for name in _SUMS)):
        if not source.is_file() or source.stat().st_size > _SUM_MOST:
            continue
        for line in source.read_text(encoding="utf-8", errors="replace").splitlines():
            match = _SUM_LINE.fullmatch(line.strip())
            if match and (match[2] is None or Path(match[2]).name == path.name):
                return match[1].lower(), source
    return None


def _file(path: Path) -> Backup:
    status = path.stat()
    return Backup(path, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC), status.st_mode, status.st_uid)


def _folder(path: Path) -> Backup:
    size = sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())
    status = path.stat()
    # The manifest is written last, so its time is the backup's.
    made = (path / "backup_manifest").stat().st_mtime
    return Backup(path, size, datetime.fromtimestamp(made, UTC), status.st_mode, status.st_uid, folder=True)
