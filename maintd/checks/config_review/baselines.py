"""Approved configurations and those that were seen, in a folder of maintd.

key                                    32 random bytes as hexadecimal digits, for the digests of secrets
observed/DIGEST.json                   a configuration as a review has seen it, the last MAX_OBSERVED
approved/SUBJECT/TIME-DIGEST.json      one that a person accepted; the newest counts, older ones stay
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from maintd.checks.config_review.snapshot import Snapshot
from maintd.checks.hints import command
from maintd.clients.bounded import parse_json
from maintd.clients.files import read_regular, shown
from maintd.errors import TargetError

MAX_OBSERVED = 200
_DIGEST = re.compile(r"[0-9a-f]{12,64}")
_MAX_BYTES = 16 << 20
_MAX_KEY_BYTES = 4096
_MAX_NAME = 200  # a file system has 255 bytes
_LEFT_OVER = timedelta(hours=1)  # a write takes a moment
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Acceptance(BaseModel):
    """Who accepted a configuration, how, why and when. `how`: the approval of the gate, or at a terminal."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    by: str
    why: str
    how: str
    at: AwareDatetime
    run: int


class Record(BaseModel):
    """A configuration in a file. `accepted` is None for one that was only seen."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal["maintd-config-1"] = "maintd-config-1"
    subject: str
    digest: str
    values: dict[str, str]
    seen_at: AwareDatetime
    run: int
    unread: tuple[str, ...] = ()
    accepted: Acceptance | None = None


@dataclass(frozen=True)
class Baselines:
    """The folder. Its parts are created with the first write."""

    folder: Path

    def key(self) -> bytes:
        """The key of the digests, made at the first call. Raises TargetError."""
        path = self.folder / "key"
        with _errors(path):
            missing = not path.exists()
        if missing:
            with _errors(path), _temporary(path, secrets.token_hex(32).encode(), 0o600) as temporary:
                with suppress(FileExistsError):  # another process was faster
                    os.link(temporary, path)
                _sync(self.folder)
        hint = "delete it to have a new one made; then every secret seems to have changed"
        data = read_regular(path, _MAX_KEY_BYTES, f"let maintd's user read it, or {hint}")
        try:
            key = bytes.fromhex(data.decode("ascii"))
        except ValueError:
            key = b""
        if len(key) != 32:
            raise TargetError(f"{shown(path)}: is not a key of 32 bytes", hint, cause="malformed")
        return key

    def observe(self, snapshot: Snapshot, at: datetime, run: int, unread: tuple[str, ...]) -> None:
        """Keep what was seen, so that exactly this can be accepted later. Raises TargetError."""
        found = Record(
            subject=snapshot.subject,
            digest=snapshot.digest,
            values=dict(snapshot.values),
            seen_at=at,
            run=run,
            unread=unread,
        )
        folder = self.folder / "observed"
        _write(folder / f"{found.digest}.json", found)
        with _errors(folder):
            kept = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
            for path in kept[MAX_OBSERVED:]:
                path.unlink(missing_ok=True)

    def observed(self, digest: str) -> Record:
        """What a review has seen, by its digest or at least its first 12 digits. Raises TargetError."""
        hint = "take it from the last run of config_review"
        if not _DIGEST.fullmatch(digest):
            raise TargetError(f'"{digest[:80]}" is not a digest of at least 12 digits', hint, cause="malformed")
        with _errors(self.folder):
            found = sorted((self.folder / "observed").glob(f"{digest}*.json"))
        if len(found) != 1:
            text = "no configuration with this digest was seen" if not found else "several begin with it"
            raise TargetError(f"{digest}: {text}", hint, cause="not_found")
        record = _read(found[0])
        if not record.digest.startswith(digest):
            raise TargetError(f"{shown(found[0])}: has the digest {record.digest}", hint, cause="malformed")
        return record

    def approved(self, subject: str) -> Record | None:
        """The newest one that was accepted; None without any. Raises TargetError."""
        for path in reversed(self.history(subject)):
            record = _read(path)
            if record.subject == subject and record.accepted is not None:
                return record
            if record.subject == subject or _cut(record.subject) != path.parent.name:
                hint = "move the file out of this folder, or accept the configuration again"
                raise TargetError(f"{shown(path)}: is not an approval of {subject}", hint, cause="malformed")
        return None

    def history(self, subject: str) -> list[Path]:
        """The files of the approvals of a subject, oldest first. Raises TargetError.

        Some can be of other subjects: those whose names begin alike had one folder in an earlier version.
        """
        folders = dict.fromkeys((self._approvals(subject), self.folder / "approved" / _cut(subject)))
        found = list[Path]()
        for folder in folders:
            with _errors(folder):
                found += folder.glob("*.json") if folder.exists() else ()
        return sorted(found, key=lambda path: path.name)

    def accept(self, record: Record, acceptance: Acceptance) -> Path:
        """Make what was seen the baseline of its subject; return its file. Raises TargetError."""
        name = f"{acceptance.at:%Y%m%dT%H%M%S.%fZ}-{record.digest[:12]}.json"
        path = self._approvals(record.subject) / name
        _write(path, record.model_copy(update={"accepted": acceptance}))
        return path

    def _approvals(self, subject: str) -> Path:
        """Its folder, which no other subject has: the name alone is not unique when it is cut or has further spaces."""
        name = _cut(subject)
        if subject.count(" ") != 1 or len(quote(subject, safe=" ")) > _MAX_NAME:
            name = f"{name[:160]}+{hashlib.sha256(subject.encode()).hexdigest()[:16]}"  # `quote` leaves no plus sign
        return self.folder / "approved" / name


def _cut(subject: str) -> str:
    return quote(subject, safe=" ").replace(" ", "-")[:_MAX_NAME]


def _write(path: Path, record: Record) -> None:
    """Write under a temporary name, then rename: a run that is killed leaves the file whole or absent."""
    data = (record.model_dump_json(indent=1) + "\n").encode()
    with _errors(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        with _temporary(path, data, 0o640) as temporary:
            temporary.replace(path)
            _sync(path.parent)


@contextmanager
def _temporary(path: Path, data: bytes, mode: int) -> Iterator[Path]:
    """A file beside `path` with this content, on disk; removed afterwards. Removes those of runs that were killed."""
    for left in path.parent.glob(".*.partial"):
        with suppress(FileNotFoundError):  # its run has just ended
            if time.time() - left.stat().st_mtime > _LEFT_OVER.total_seconds():
                left.unlink()
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path) -> Record:
    hint = "accept the configuration again, or restore the file"
    data = read_regular(path, _MAX_BYTES, hint)
    try:
        record = Record.model_validate(parse_json(data, shown(path)))
    except ValidationError as error:
        text = f"{shown(path)}: {error.error_count()} fields are not as expected"
        raise TargetError(text, hint, cause="malformed") from error
    if Snapshot(record.subject, record.values).digest != record.digest:
        raise TargetError(f"{shown(path)}: was changed after it was written", hint, cause="malformed")
    return record


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        cause = "denied" if isinstance(error, PermissionError) else "failed"
        text = f"{shown(path)}: {error.strerror or error}"
        hint = "let maintd's user write the folder"
        if error.errno in _FULL:
            hint = f"free space for it, nothing was written: {command('df', '-h', str(path.parent))}"
        raise TargetError(text, hint, cause=cause) from error


def as_json(value: object) -> str:
    """Plain data as an artifact has it."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
