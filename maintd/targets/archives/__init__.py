"""Backups as files: read to their last byte, walked by structure, compared with their checksums. Reads only."""

from maintd.targets.archives.basebackup import BaseBackup, is_base_backup, verify_base_backup
from maintd.targets.archives.found import Backup, find_backups, recorded_sha256
from maintd.targets.archives.reading import Contents, Reading, kind_by_name, read_archive
from maintd.targets.archives.stream import DamagedError, Limits, UnreadableError

__all__ = [
    "Backup", "BaseBackup", "Contents", "DamagedError", "Limits", "Reading", "UnreadableError", "find_backups",
    "is_base_backup", "kind_by_name", "read_archive", "recorded_sha256", "verify_base_backup",
]  # fmt: skip
