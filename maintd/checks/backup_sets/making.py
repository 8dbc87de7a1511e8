"""One set: its parts written one after the other, each isolated from the others, then completed or discarded."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import maintd
from maintd.checks.backup_sets.layout import FORMAT, FoundSet, find_sets, leftovers, temporary_name
from maintd.checks.backup_sets.packing import Packing, Sealed, gzipped
from maintd.checks.backup_sets.retention import Keep, deletions
from maintd.checks.backup_sets.writer import SetWriter, WrittenFile, os_errors
from maintd.checks.backups.stream import sha256_of
from maintd.checks.probes import isolate_errors
from maintd.clients.files import Tree, disk_bytes, shown
from maintd.errors import MaintdError, TargetError
from maintd.job.causes import Role
from maintd.job.context import Context
from maintd.units import format_size

_GROWTH = 1.2  # of a set against the one before; a rule of thumb


@dataclass
class SetMaker:
    """What is written so far. `missing`: the parts that could not be written, with the cause."""

    ctx: Context
    writer: SetWriter
    started_at: datetime
    files: dict[str, WrittenFile] = field(default_factory=dict)
    parts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str, doing: str = "back up") -> Iterator[None]:
        """Write one part in this block: its error is the check `name`, and the other parts are written without it."""
        with (
            isolate_errors(self.ctx, f"{name}: backed up", expected="written and decoded", role=Role.WORK),
            self.ctx.phase(f"{doing} {name}"),
        ):
            try:
                yield
            except Exception as error:
                self.missing[name] = error.message if isinstance(error, MaintdError) else type(error).__name__
                self.writer.keep_only(self.files)
                raise

    def add(self, part: str, subject: str, file: WrittenFile, about: Mapping[str, Any] | None = None) -> None:
        """Add a written file, and report it."""
        self.files[file.name] = file
        if about is not None:
            self.parts.setdefault(part, []).append(dict(about))
        name = f"{subject}: backed up"
        if file.contents is None:
            hint = "it was written, and its sha256 is recorded; verify it with the program that reads its format"
            self.ctx.unknown(name, f"not decoded: {file.unread}", expected="written and decoded", hint=hint)
        else:
            self.ctx.passed(name, f"{file.name}: entries: {file.contents.count}", expected="written and decoded")
        self.ctx.measure("backup_file_bytes", file.size_bytes, "B", part=subject)

    def add_packed(self, part: str, name: str, path: Path, recipients: Sequence[str]) -> None:
        """Add a folder or a file as a tar; with recipients it is encrypted to them, and nothing else of it is written.

        Raises TargetError.
        """
        subject = f"{part} {name}"
        packing = Packing(path, hashes=not recipients)
        chunks = gzipped(packing.chunks())
        if recipients:
            sealed = Sealed(chunks, "tar.gz", recipients)
            file = self.writer.write(f"{part}-{name}.tar.gz.age", sealed.chunks(), "age")
            file = WrittenFile(file.name, file.size_bytes, file.sha256, "tar.gz.age", sealed.contents())
        else:
            file = self.writer.write(f"{part}-{name}.tar.gz", chunks, "tar.gz")
        hint = "let maintd's user read them, or name another folder"
        unread = "; ".join(packing.unread[:3])
        self.ctx.check(f"{subject}: files that could not be read", len(packing.unread), at_most=0, hint=unread or hint)
        changed = ", ".join(packing.changed[:3])
        self.ctx.check(
            f"{subject}: files that changed while they were read",
            len(packing.changed),
            warn_above=0,
            hint=f"back up what writes them by its own means, or stop it for this time: {changed}" if changed else "",
        )
        if packing.unread:
            self.missing[subject] = f"{len(packing.unread)} files were not read"
        about = {"name": name, "file": file.name, "path": str(path), "encrypted": bool(recipients)}
        members = {"members": packing.members, "member_count": packing.count}
        self.add("archives", subject, file, about | members)

    def complete(self) -> None:
        """Write the manifest, give the set its name, and report it. Raises TargetError."""
        manifest = self._manifest()
        with self.ctx.phase("complete the set"):
            path = self.writer.complete(manifest)
        missing = ", ".join(self.missing)
        hint = f"without {missing}: see their checks" if missing else ""
        self.ctx.check("parts missing in the set", len(self.missing), at_most=0, hint=hint)
        ended_at = self.ctx.now()
        size = sum(file.size_bytes for file in self.files.values())
        self.ctx.measure("backup_set_bytes", size, "B")
        self.ctx.measure("backup_duration_seconds", (ended_at - self.started_at).total_seconds(), "s")
        if manifest["verified"] == "decode" and not self.missing:
            self.ctx.measure("backup_last_success_timestamp", ended_at.timestamp(), "s", set="backup")
        self.ctx.log(f"{path}: {len(self.files)} files, {format_size(size)}, verified: {manifest['verified']}")

    def _manifest(self) -> dict[str, Any]:
        """What is in the set. A set with a failed check does not count as verified."""
        decoded = all(file.contents is not None for file in self.files.values())
        return {
            "format": FORMAT,
            "maintd": maintd.__version__,
            "name": self.writer.name,
            "started_at": self.started_at.isoformat(),
            "ended_at": self.ctx.now().isoformat(),
            "verified": "decode" if decoded and not self.ctx.failed else "checksum",
            "missing": self.missing,
            "files": {name: file.record() for name, file in sorted(self.files.items())},
            **self.parts,
        }


def remove_leftovers(ctx: Context, folder: Path) -> None:
    """Remove the temporary folders of runs that have ended; the folder's lock must be held. Raises TargetError."""
    with os_errors(folder):
        found = leftovers(folder)
    for path in found:
        with ctx.change("remove", path, why="left by a run that was stopped") as allowed:
            if allowed:
                with os_errors(path):
                    shutil.rmtree(path)


def require_space(
    ctx: Context, name: str, folder: Path, sets: Sequence[FoundSet], size: int, min_free: int, parts: Sequence[str] = ()
) -> None:
    """Require room for a set: 1.2 times the last good one that has these files, or `size`, what is backed up now."""
    last = next((one.size_bytes for one in sets if one.good and one.sums.keys() >= set(parts)), 0)
    needed = round(last * _GROWTH) if last else size
    with os_errors(folder):
        free = shutil.disk_usage(folder).free
    ctx.require(
        f"free space in {name}",
        free,
        at_least=needed + min_free,
        unit="B",
        hint=f"free space on the disk of {shown(folder)}, keep fewer sets, or lower min_free",
    )


def prune(ctx: Context, name: str, folder: Path, keep: Keep, max_deletes: int, new: str) -> None:
    """Delete what is beyond the number of sets that are kept; nothing unless the newest is the new one and good."""
    sums: dict[str, bool] = {new: True}  # it was verified while it was written

    def sound(one: FoundSet) -> bool:
        if one.path.name not in sums:
            with ctx.phase(f"{name}: read {one.path.name}, which replaces an older set"):
                different = unlike(one)
            sums[one.path.name] = not different
            hint = "keep the older sets, and check the disk; the damaged set can be deleted"
            label = f"{name}: {one.path.name} is as it was written"
            if different:
                ctx.fail(label, f"changed: {', '.join(different[:3])}", expected="unchanged", hint=hint)
        return sums[one.path.name]

    with os_errors(folder):
        sets = find_sets(folder)
    if not ctx.dry_run and (not sets or sets[0].path.name != new):
        ctx.unknown(f"{name}: retention", "the newest set is not the one of this run", hint="check the clock")
        return
    bad = [one for one in sets if not one.good]
    # Each of them failed the run that made it; backup_verify reads what has changed since.
    ctx.measure("backup_sets_not_good", len(bad), "set", folder=name)
    for one in bad:
        ctx.log(f"{name}: {one.path.name} is not a good set: {one.problem}")
    found = deletions(sets, keep, sound)
    hint = "nothing was deleted; if this is intended, raise max_deletes"
    ctx.check(f"{name}: sets to delete", len(found), warn_above=max_deletes, hint=hint)
    if len(found) <= max_deletes:
        for deletion in found:
            old = deletion.found
            with ctx.change("delete", old.path, bytes=old.size_bytes, why=deletion.why) as allowed:
                if allowed:
                    _delete(old.path)
    with os_errors(folder):
        ctx.measure("backup_sets_kept", sum(one.good for one in find_sets(folder)), "set", folder=name)


def unlike(found: FoundSet) -> list[str]:
    """The files of a set that are not as its manifest has them; reads all of them."""
    try:
        return [name for name, sum_ in found.sums.items() if sha256_of(found.path / name) != sum_]
    except OSError as error:
        return [f"{error.filename}: {error.strerror}"]


def copy_set(ctx: Context, source: Path, folder: Path, progress: Callable[[int], None], min_free: int) -> None:
    """Copy a set to another folder under the same name, with its checksums compared. Raises TargetError."""
    sums = {name: sum_ for one in find_sets(source.parent) if one.path == source for name, sum_ in one.sums.items()}
    size = sum(path.stat().st_size for path in source.iterdir())
    with ctx.change("copy", folder / source.name, bytes=size) as allowed:
        if allowed:
            with SetWriter(folder, source.name, min_free, progress) as writer:
                writer.create()
                writer.copy(source, sums)


def reporter(ctx: Context) -> Callable[[int], None]:
    """A function that adds written bytes and reports them as progress."""
    started, done = time.monotonic(), 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        ctx.progress(done, None, "B", rate=done / max(time.monotonic() - started, 1e-3))

    return add


def _delete(path: Path) -> None:
    """Delete a set. Renamed first, so that a run that is killed leaves no part of it that looks whole."""
    with os_errors(path):
        going = path.with_name(temporary_name(path.name, "deleted"))
        path.rename(going)
        shutil.rmtree(going)


def require_folder(folder: Path) -> None:
    """Require that the folder of a target exists. Raises TargetError."""
    with os_errors(folder):
        if not folder.resolve(strict=True).is_dir():
            raise TargetError(f"{shown(folder)}: is not a folder", "correct its path", cause="not_found")


def size_of(path: Path) -> int:
    """Bytes of a folder or file on the disk, as far as it can be read; errors are reported where it is packed."""
    if path.is_file():
        return path.stat().st_size
    with suppress(TargetError), Tree(path, one_device=False) as tree:
        return disk_bytes(tree.walk())
    return 0
