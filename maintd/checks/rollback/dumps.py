"""The dump of one database in a set of backups that a rollback restores, and the proof that it has not changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from maintd.checks.backup_sets.layout import MANIFEST, SUMS, find_sets
from maintd.checks.backup_sets.making import require_folder
from maintd.checks.backup_sets.writer import os_errors
from maintd.checks.backups.catalog import read_checksums
from maintd.checks.backups.stream import sha256_of
from maintd.checks.restore.sources import choose
from maintd.clients.files import shown
from maintd.errors import TargetError
from maintd.job.context import Context


@dataclass(frozen=True)
class Dump:
    """The dump of a database. `about`: what the manifest of its set has about it."""

    source: str
    folder: Path
    taken_at: datetime
    path: Path
    about: Mapping[str, Any]
    sha256: str


def choose_dump(ctx: Context, folder_name: str, wanted: str, target: str, database: str) -> Dump:
    """The dump of a database in the newest good set, or in the set of this name. Raises TargetError."""
    folder = ctx.target("folders", folder_name).path
    require_folder(folder)
    with os_errors(folder):
        sets = find_sets(folder)
    if not sets:
        hint = "only sets of the job backup are restored: their manifest is what a restore is proven by"
        raise TargetError(f"{shown(folder)}: no set of backups", hint, cause="empty")
    source = choose(ctx, folder_name, folder, wanted, ())
    problem = next((one.problem for one in sets if one.path.name == source.name), "")
    if problem or source.manifest is None:
        raise TargetError(f"{source.name} is not a good set: {problem}", "restore from another set", cause="malformed")
    try:
        found = [one for one in source.manifest["postgres"] if (one["target"], one["database"]) == (target, database)]
        if not found:
            has = ", ".join(f"{one['target']}: {one['database']}" for one in source.manifest["postgres"]) or "none"
            text = f"{source.name} has no dump of {database} of the target {target}; it has {has}"
            raise TargetError(text, "name another set, or restore it by hand", cause="not_found")
        about = found[0]
        path = source.folder / str(about["file"])
        taken_at = datetime.fromisoformat(str(about["snapshot_at"]))
        return Dump(
            source.name, source.folder, taken_at, path, about, str(source.manifest["files"][path.name]["sha256"])
        )
    except (KeyError, TypeError, ValueError) as error:
        text = f"{shown(source.folder / MANIFEST)}: lacks a field: {error}"
        raise TargetError(text, "restore from another set", cause="malformed") from error


def verify_dump(ctx: Context, dump: Dump) -> None:
    """Compare the sums of the dump and of the manifest. Raises CheckFailedError when one has changed."""
    with os_errors(dump.folder):
        sums = dict(read_checksums(dump.folder / SUMS))
        wanted = {MANIFEST: sums.get(MANIFEST), dump.path.name: dump.sha256}
        changed = [
            name
            for name, sha256 in wanted.items()
            if sha256 is None or sha256_of(dump.folder / name, lambda count: None) != sha256
        ]
    hint = f"{', '.join(changed)}: check the disk, and name another set: nothing was changed" if changed else ""
    ctx.require(f"{dump.source}: files that have changed", len(changed), at_most=0, hint=hint)
