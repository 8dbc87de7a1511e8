"""Backups as files: read to their last byte, walked by structure, compared with their checksums. Reads only."""

from maintd.checks.backups.age import identities_in
from maintd.checks.backups.basebackup import BaseBackup, verify_base_backup
from maintd.checks.backups.found import Backup, Found, Recorded, find_backups, recorded_sha256
from maintd.checks.backups.listed import compare_folder, folder_list
from maintd.checks.backups.reading import Contents, Reading, kind_by_name, read_archive
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
