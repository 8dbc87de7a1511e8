"""The copies of configuration files in a rollback manifest, restored in place."""

from __future__ import annotations

import os
import stat
from hashlib import sha256
from pathlib import Path

from maintd.checks.backup_sets.writer import os_errors, sync_folder
from maintd.checks.probes import isolate_errors
from maintd.checks.rollback.manifest import FILES, FileRecord, FoundManifest
from maintd.clients.files import shown
from maintd.errors import TargetError
from maintd.job.causes import Role
from maintd.job.context import Context


def restore_files(ctx: Context, found: FoundManifest) -> list[str]:
    """Restore the files that are not as in the manifest; their paths. What was there is kept beside them.

    A file is written in place: a container that has mounted it would keep the old one otherwise. So a kill can leave
    half of it, which the next run finds by its sum, and restores.
    """
    changed = []
    for record in found.manifest.files:
        name = f"file {shown(record.path)}: as in the manifest"
        with isolate_errors(ctx, name, expected="restored", role=Role.WORK):
            copy = found.path / FILES / Path(record.copy_name).name
            if _restore(ctx, record, copy, found.path.name):
                changed.append(record.path)
                if ctx.dry_run:
                    continue
            ctx.check(
                name, _digest(Path(record.path)) or "missing", equals=record.sha256, hint="see the log of this run"
            )
    return changed


def _restore(ctx: Context, record: FileRecord, copy: Path, manifest: str) -> bool:
    path = Path(record.path)
    if _digest(path) == record.sha256:
        return False
    with os_errors(copy):
        data = copy.read_bytes()
    kept = path.with_name(f"{path.name}.before-{manifest}")
    with ctx.change("restore file", path, bytes=len(data), kept=kept.name) as allowed:
        if allowed:
            with os_errors(path):
                if path.exists() and not kept.exists():  # it exists after a kill, and then has what was there first
                    _write(kept, path.read_bytes(), stat.S_IMODE(path.stat().st_mode), os.O_EXCL)
                _write(path, data, record.mode, os.O_TRUNC)
                sync_folder(path.parent)
    return True


def _write(path: Path, data: bytes, mode: int, flag: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | flag, mode)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _digest(path: Path) -> str | None:
    """The sha256 of a file, None when there is none. Raises TargetError."""
    if path.is_symlink():
        text = f"{shown(path)} is a link, and is not written through"
        raise TargetError(text, "restore it by hand from the manifest's folder", cause="unfamiliar")
    with os_errors(path):
        return sha256(path.read_bytes()).hexdigest() if path.exists() else None
