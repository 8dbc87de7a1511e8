"""The folder of a set: its name, its manifest, and the sets in a folder.

set-20260301T020000Z/            made at this time, UTC
  maintd-manifest.json           what is in the set, and by what a restore of it is proven
  SHA256SUMS                     of all files, also of the manifest: `sha256sum -c SHA256SUMS`
  postgres-main.trading.dump     …
.set-20260301T020000Z.partial/   being written, or left by a run that was killed
.set-20260301T020000Z.deleted/   being deleted
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from maintd.checks.backups.names import series_of

MANIFEST = "maintd-manifest.json"
SUMS = "SHA256SUMS"
LOCK = ".maintd-backup.lock"
FORMAT = "maintd-backup-set-1"

_NAME = re.compile(r"set-\d{8}T\d{6}Z")
_TEMPORARY = re.compile(r"\.set-\d{8}T\d{6}Z\.(?:partial|deleted)")
_TIME = "set-%Y%m%dT%H%M%SZ"
_MANIFEST_MAX = 256 << 20


def set_name(at: datetime) -> str:
    """The name of a set that is made at this time."""
    return f"{at:{_TIME}}"


def temporary_name(name: str, why: str) -> str:
    """The name of a set while it is written (`partial`) or deleted (`deleted`)."""
    return f".{name}.{why}"


def is_set(name: str) -> bool:
    """Whether a folder of this name is a set."""
    return _NAME.fullmatch(name) is not None


def is_temporary(name: str) -> bool:
    """Whether a folder of this name is a set that is written or deleted: no backup."""
    return _TEMPORARY.fullmatch(name) is not None


def safe_name(name: str) -> str:
    """A part of a file name for the name of a database, target or param: without slashes, and never read as a date.

    A date in it would join different databases to one series of backups.
    """
    plain = re.sub(r"[^A-Za-z0-9_-]", lambda found: "".join(f"%{byte:02x}" for byte in found[0].encode()), name)
    if series_of(f"x-{plain}.dump") != f"x-{plain}.dump":
        plain = "".join(f"%{byte:02x}" for byte in name.encode())
    return plain


@dataclass(frozen=True)
class FoundSet:
    """A set in a folder. `problem`: why it is not a good one, as far as is known without reading its files."""

    path: Path
    made_at: datetime
    size_bytes: int
    problem: str
    sums: dict[str, str]

    @property
    def good(self) -> bool:
        """Whether it is complete and was verified when it was made."""
        return not self.problem


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a set. Raises OSError, and ValueError when it is none."""
    path = folder / MANIFEST
    if path.stat().st_size > _MANIFEST_MAX:
        raise ValueError("it is too large for a manifest")
    try:
        found = json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("files"), dict):
        raise ValueError(f'it is not a manifest of the format "{FORMAT}"')
    return found


def problem_of(manifest: dict[str, Any], sizes: dict[str, int]) -> str:
    """Why a set with these files does not count as a good one; empty when it does."""
    try:
        if SUMS not in sizes:
            return f"{SUMS} is missing"
        for name, file in manifest["files"].items():
            if name not in sizes:
                return f"{name} is missing"
            if sizes[name] != file["size_bytes"]:
                return f"{name} has {sizes[name]} bytes, not {file['size_bytes']}"
        if manifest["missing"]:
            return f"made without {', '.join(manifest['missing'])}"
        return "" if manifest["verified"] == "decode" else "not wholly verified when it was made"
    except (KeyError, TypeError, AttributeError):
        return "its manifest lacks a field"


def find_sets(folder: Path) -> list[FoundSet]:
    """The sets in a folder, newest first; their files are not read. Raises OSError when it cannot be listed."""
    found = []
    for path in folder.iterdir():
        if not is_set(path.name) or path.is_symlink() or not path.is_dir():
            continue
        try:
            made_at = datetime.strptime(path.name, _TIME).replace(tzinfo=UTC)
        except ValueError:
            continue  # of no day that exists
        sizes, sums = dict[str, int](), dict[str, str]()
        try:
            sizes = {file.name: file.stat().st_size for file in path.iterdir()}
            manifest = read_manifest(path)
            problem = problem_of(manifest, sizes)
            if not problem:
                sums = {name: str(file["sha256"]) for name, file in manifest["files"].items()}
        except OSError as error:
            problem = f"cannot be read: {error.strerror}"
        except (ValueError, KeyError, TypeError) as error:
            problem = f"{MANIFEST}: {error}"
        found.append(FoundSet(path, made_at, sum(sizes.values()), problem, sums))
    return sorted(found, key=lambda one: one.path.name, reverse=True)


def leftovers(folder: Path) -> list[Path]:
    """Temporary folders of runs; of runs that have ended when the folder's lock is held. Raises OSError."""
    named = (path for path in folder.iterdir() if is_temporary(path.name))
    return sorted(path for path in named if path.is_dir() and not path.is_symlink())
