"""The rollback manifest: its folder, its format, and the manifests in a folder.

manifest-20260301T020000Z/          made at this time, UTC
  rollback.json                     images, copies of files, versions of data and secrets
  files/1-docker-compose.yml        copies of the configuration
.manifest-20260301T020000Z.partial/ being written, or left by a run that was killed
.manifest-20260301T020000Z.deleted/ being deleted
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from maintd.clients.files import shown
from maintd.errors import TargetError
from maintd.job.context import Context

FORMAT = "maintd-rollback-1"
DOCUMENT = "rollback.json"
FILES = "files"
TIME = "%Y%m%dT%H%M%SZ"
HANDED = "rollback_manifest"
"""Name of the value for later steps: folder, name, sha256 and time of the manifest that this run made."""

_NAME = re.compile(r"manifest-\d{8}T\d{6}Z")
_TEMPORARY = re.compile(r"\.manifest-\d{8}T\d{6}Z\.(?:partial|deleted)")
_MAX = 64 << 20  # bytes; 1,000 containers need about 1 MB


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ImageRecord(_Record):
    """The image of one container. `environment` is a keyed hash of the container's environment; None without a key."""

    engine: str
    service: str
    container: str
    label: str
    image: str  # as the container's configuration names it
    image_id: str
    digests: tuple[str, ...] = ()
    tag: str | None = None  # that protects it; None: it could not be tagged
    config_hash: str | None = None  # compose's own
    environment: str | None = None


class FileRecord(_Record):
    """A copied file. `copy_name` is relative to the manifest's folder."""

    path: str
    copy_name: str
    sha256: str
    size_bytes: int
    mode: int


class KeyedRecord(_Record):
    """A file that is not copied: only a keyed hash of it is kept."""

    path: str
    hmac_sha256: str
    size_bytes: int
    modified_at: AwareDatetime


class PostgresRecord(_Record):
    """`lsn`: the end of the WAL. `schema_version`: the rows of the configured query, None without one."""

    target: str
    version: str
    lsn: str
    schema_version: tuple[tuple[str | None, ...], ...] | None = None


class RedisRecord(_Record):
    """`saved_at`: the time of the last save to disk. `run_id`: of the server's process."""

    target: str
    run_id: str
    saved_at: AwareDatetime


class Manifest(_Record):
    """All of it. `missing`: the parts that could not be recorded, with the cause."""

    format: str
    maintd: str
    name: str
    made_at: AwareDatetime
    run: int
    entry: str
    images: tuple[ImageRecord, ...] = ()
    files: tuple[FileRecord, ...] = ()
    environment: tuple[KeyedRecord, ...] = ()
    secrets: tuple[KeyedRecord, ...] = ()
    postgres: tuple[PostgresRecord, ...] = ()
    redis: tuple[RedisRecord, ...] = ()
    missing: dict[str, str] = {}

    def text(self) -> str:
        """As it is written."""
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=True) + "\n"


@dataclass(frozen=True)
class FoundManifest:
    """A manifest that was read. `sha256` is that of its document."""

    path: Path
    manifest: Manifest
    sha256: str


def manifest_name(at: datetime) -> str:
    """The name of a manifest that is made at this time."""
    return f"manifest-{at:{TIME}}"


def names(folder: Path) -> list[str]:
    """The names of the manifests in a folder, newest first. Raises OSError."""
    found = [path.name for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, reverse=True)


def leftovers(folder: Path) -> list[Path]:
    """What runs that have ended left while they wrote or deleted a manifest. Raises OSError."""
    return sorted(path for path in folder.iterdir() if _TEMPORARY.fullmatch(path.name))


def read(path: Path, sha256: str | None = None) -> FoundManifest:
    """Read a manifest, and compare its document with a sha256 and its copies with theirs. Raises TargetError."""
    document = path / DOCUMENT
    try:
        if document.stat().st_size > _MAX:
            raise TargetError(f"{shown(document)}: is too large for a manifest", cause="too_large")
        data = document.read_bytes()
        found = FoundManifest(path, _parse(document, data), hashlib.sha256(data).hexdigest())
        if sha256 is not None and found.sha256 != sha256:
            raise TargetError(f"{shown(document)}: has changed since it was written", "use another", cause="malformed")
        for record in found.manifest.files:
            copy = path / FILES / Path(record.copy_name).name
            if hashlib.sha256(copy.read_bytes()).hexdigest() != record.sha256:
                raise TargetError(f"{shown(copy)}: has changed since it was written", "use another", cause="malformed")
    except OSError as error:
        cause = "not_found" if isinstance(error, FileNotFoundError) else "failed"
        raise TargetError(f"{error.filename}: {error.strerror}", "use another manifest", cause=cause) from error
    return found


def newest(folder: Path) -> FoundManifest:
    """The newest manifest in a folder that can be read; older ones stay unused. Raises TargetError."""
    try:
        found = names(folder)
    except OSError as error:
        raise TargetError(f"{shown(folder)}: {error.strerror}", "correct its path", cause="not_found") from error
    if not found:
        raise TargetError(
            f"{shown(folder)}: no rollback manifest", "run: maintd trigger rollback_manifest", cause="empty"
        )
    return read(folder / found[0])


def of_run(ctx: Context, folder: str) -> FoundManifest:
    """The manifest in a folder target that this run made, else the newest. Raises TargetError."""
    path = ctx.target("folders", folder).path
    own: dict[str, Any] | None = ctx.handed(HANDED)
    if own is not None and own.get("folder") == folder:
        return read(path / str(own["name"]), str(own["sha256"]))
    return newest(path)


def _parse(path: Path, data: bytes) -> Manifest:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise TargetError(f"{shown(path)}: is not JSON", "use another manifest", cause="malformed") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        hint = "a newer maintd may have written it"
        raise TargetError(f"{shown(path)}: is not of the format {FORMAT}", hint, cause="unfamiliar")
    try:
        return Manifest.model_validate(value)
    except ValidationError as error:
        text = f"{shown(path)}: {error.error_count()} fields are not as expected"
        raise TargetError(text, "use another manifest", cause="malformed") from error
