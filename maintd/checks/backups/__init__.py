"""Backups as files: read to their last byte, walked by structure, compared with their checksums. Reads only."""

from maintd.checks.backups.age import identities_in
from maintd.checks.backups.archive import Contents, Reading, kind_by_name, read_archive
from maintd.checks.backups.base_backup import BaseBackup, verify_base_backup
from maintd.checks.backups.catalog import (
    Backup,
    Found,
    Recorded,
    compare_folder,
    find_backups,
    folder_list,
    recorded_sha256,
)
from maintd.checks.backups.stream import DamagedError, Limits, UnreadableError, sha256_of

__all__ = [
    "Backup",
    "BaseBackup",
    "Contents",
    "DamagedError",
    "Found",
    "Limits",
    "Reading",
    "Recorded",
    "UnreadableError",
    "compare_folder",
    "find_backups",
    "folder_list",
    "identities_in",
    "kind_by_name",
    "read_archive",
    "recorded_sha256",
    "sha256_of",
    "verify_base_backup",
]
