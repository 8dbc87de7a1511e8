"""The folder `.versions` of a folder of secrets: the journal of each rotation, and encrypted backups.

.versions/                       0700
  key                            of the fingerprints in evidence
  20260301T010000Z.tar.gz.age    the whole folder before a change; maintd cannot decrypt it
  admin_token/                   while it is rotated, or its old value still works
    journal.json                 the step, and no value; a rotation is under way as long as this file exists
    pending                      the new value
    before/FILE                  what each file had
    verifier                     what Postgres had of the old password, where it can be read

All files are 0600. A rotation that was killed is continued from here by the next run.
"""

from __future__ import annotations

import io
import os
import secrets
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyrage
from pydantic import BaseModel, ConfigDict, ValidationError

from maintd.checks.backup_sets.packing import parse_recipient
from maintd.checks.backup_sets.writer import os_errors, sync_folder
from maintd.checks.secrets.files import read_file
from maintd.clients.files import shown
from maintd.errors import JobError, TargetError

FOLDER = ".versions"
ENCRYPTED = ".tar.gz.age"
_TIME = "%Y%m%dT%H%M%SZ"
_LARGEST_BACKUP = 16 << 20  # bytes of a whole folder of secrets


class Step(StrEnum):
    """What a rotation does. Each is safe to repeat."""

    CREATE = "create"  # back up, and make the new value
    SET = "set"  # let the server accept it, write the files, restart the consumers
    TEST = "test"  # log in with it
    FINISH = "finish"  # revoke the old value, and see it refused


class Journal(BaseModel):
    """How far a rotation has come. `back`: it failed, and what it changed is being undone. `until`: when the old value
    is revoked. `modified`: the time of each file before. `containers`: those that ran then, which are restarted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: Step
    back: bool = False
    started_at: datetime
    old_user: str = ""
    new_user: str = ""
    until: datetime | None = None
    modified: dict[str, int] = {}
    containers: tuple[str, ...] = ()


class Versions:
    """What is kept of one secret while it is rotated."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / FOLDER / name

    @property
    def _journal(self) -> Path:
        return self.path / "journal.json"

    def journal(self) -> Journal | None:
        """How far the rotation under way has come; None when there is none. Raises TargetError."""
        with os_errors(self._journal):
            try:
                text = self._journal.read_bytes()
            except FileNotFoundError:
                return None
        try:
            return Journal.model_validate_json(text)
        except ValidationError:
            hint = "compare the files in its folder with what the server accepts, then remove the folder"
            raise TargetError(f"{shown(self._journal)} cannot be read", hint, cause="unfamiliar") from None

    def begin(self, before: Mapping[str, bytes], pending: str, verifier: str | None, journal: Journal) -> None:
        """Keep the values of before and the new one; the journal comes last. Raises TargetError."""
        with os_errors(self.path):
            shutil.rmtree(self.path, ignore_errors=True)  # left by a run that was killed before its journal
            make_folder(self.path.parent)
            make_folder(self.path)
            make_folder(self.path / "before")
            for name, value in before.items():
                write_private(self.path / "before" / name, value)
            write_private(self.path / "pending", pending.encode())
            if verifier is not None:
                write_private(self.path / "verifier", verifier.encode())
        self.record(journal)

    def record(self, journal: Journal) -> None:
        """Write down a step before it is done. Raises TargetError."""
        with os_errors(self._journal):
            write_private(self._journal, journal.model_dump_json().encode())

    def before(self) -> dict[str, bytes]:
        """The values of before, by file. Raises TargetError."""
        with os_errors(self.path):
            return {path.name: read_file(path).value for path in sorted((self.path / "before").iterdir())}

    def pending(self) -> str:
        """The new value. Raises TargetError."""
        return read_file(self.path / "pending").value.decode()

    def verifier(self) -> str | None:
        """What Postgres had of the old password; None where it could not be read. Raises TargetError."""
        path = self.path / "verifier"
        return read_file(path).value.decode() if path.exists() else None

    def discard(self) -> None:
        """Remove what a run without a journal has left: it changed nothing else. Raises TargetError."""
        with os_errors(self.path):
            if self.path.exists():
                shutil.rmtree(self.path)

    def end(self) -> None:
        """Forget the rotation and its values; the journal goes first. Raises TargetError."""
        with os_errors(self.path):
            self._journal.unlink(missing_ok=True)
            sync_folder(self.path)
            shutil.rmtree(self.path)


def fingerprint_key(folder: Path) -> bytes:
    """The key of the fingerprints of this folder; a new one where there is none, or none can be kept."""
    path = folder / FOLDER / "key"
    try:
        return read_file(path).value
    except TargetError:
        return secrets.token_bytes(32)


def keep_key(folder: Path, key: bytes) -> None:
    """Keep the key of the fingerprints, so that those of later runs can be compared. Raises TargetError."""
    path = folder / FOLDER / "key"
    with os_errors(path):
        make_folder(path.parent)
        if not path.exists():
            write_private(path, key)


def require_recipients(recipients: Sequence[str]) -> list[Any]:
    """The keys of the recipients. Raises TargetError without any, and JobError for one that is not valid."""
    if not any(text.strip() for text in recipients):
        hint = "set recipients at the target: age1…, from age-keygen -y FILE"
        raise TargetError("a secret is only changed after an encrypted backup", hint, cause="not_configured")
    try:
        return [parse_recipient(text) for text in recipients]
    except ValueError as error:
        raise JobError(f"recipients: {error}", "write public keys of age or ssh") from None


def back_up(folder: Path, recipients: Sequence[str], at: datetime) -> tuple[Path, bytes]:
    """Encrypt all files of the folder, but not its versions, into a file beside them; return it with its content.

    Raises TargetError, and JobError for a recipient that is not valid.
    """
    keys = require_recipients(recipients)
    path = folder / FOLDER / f"{at:{_TIME}}{ENCRYPTED}"
    while path.exists():
        at += timedelta(seconds=1)
        path = folder / FOLDER / f"{at:{_TIME}}{ENCRYPTED}"
    sealed = pyrage.encrypt(_packed(folder), keys)
    with os_errors(path):
        make_folder(path.parent)
        write_private(path, sealed)
        if path.read_bytes() != sealed:
            raise TargetError(f"{shown(path)} has another content than was written", "check the disk", cause="failed")
    return path, sealed


def old_backups(folder: Path, keep: int) -> list[Path]:
    """The encrypted backups but for the last ones."""
    with os_errors(folder):
        found = sorted((folder / FOLDER).glob(f"*{ENCRYPTED}"))
    return found[: max(len(found) - keep, 0)]


def _packed(folder: Path) -> bytes:
    packed, size = io.BytesIO(), 0
    with tarfile.open(fileobj=packed, mode="w:gz") as tar, os_errors(folder):
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            if inside.parts[0] == FOLDER or path.is_symlink() or not path.is_file():
                continue
            size += path.stat().st_size
            if size > _LARGEST_BACKUP:
                raise TargetError(f"{shown(folder)} is too large for a folder of secrets", cause="too_large")
            tar.add(path, str(inside), recursive=False)
    return packed.getvalue()


def make_folder(path: Path) -> None:
    """Create a folder that only its owner can enter. Raises OSError."""
    path.mkdir(mode=0o700, exist_ok=True)


def write_private(path: Path, value: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all. Raises OSError."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(value)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    sync_folder(path.parent)
