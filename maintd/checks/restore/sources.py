"""What a drill restores: a set of the job `backup` with its manifest, or the newest files of other programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from os.path import realpath
from pathlib import Path
from typing import Any

from maintd.checks.backup_sets.layout import MANIFEST, SUMS, FoundSet, find_sets, read_manifest
from maintd.checks.backup_sets.writer import os_errors
from maintd.checks.backups import age_encryption, folders, set_files, stream
from maintd.checks.backups.archive import kind_by_name
from maintd.checks.backups.catalog import Backup, find_backups, read_checksums
from maintd.checks.backups.keys import NO_KEYS, Keys
from maintd.checks.backups.stream import ExpansionLimits, HashedFile, Reader, UnreadableError, chunks_of, sha256_of
from maintd.clients.files import shown
from maintd.errors import TargetError, UnknownNameError
from maintd.job.context import Context

NEWEST, OLDER = "newest", "older"


@dataclass(frozen=True)
class Part:
    """One thing to restore. `about`: what the manifest has about it, None without one. kind: of the file, as in
    `maintd.checks.backups.archive`, or of a folder that is one backup."""

    subject: str
    kind: str
    path: Path
    about: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Source:
    """What is restored, with the time from which on writes would be lost."""

    name: str
    folder: Path
    taken_at: datetime
    manifest: Mapping[str, Any] | None
    parts: tuple[Part, ...] = ()
    size_bytes: int = 0
    changed: frozenset[str] = field(default_factory=frozenset)  # files that are not as the manifest has them


def choose(ctx: Context, name: str, folder: Path, wanted: str, files: Sequence[str]) -> Source:
    """Choose what to restore in a folder, and report how good the choice is. Raises TargetError.

    wanted: `newest` or `older` good set, or a set by its name. files: patterns of files of other programs instead,
    also where the folder has no set at all.
    """
    with os_errors(folder):
        sets = find_sets(folder)
    if files or not sets:
        return _newest_files(ctx, name, folder, files or ("**/*",))
    good = [one for one in sets if one.good]
    if wanted not in (NEWEST, OLDER):
        chosen = next((one for one in sets if one.path.name == wanted), None)
        if chosen is None:
            raise UnknownNameError("set", wanted, [one.path.name for one in sets])
        return _of_set(chosen)
    hint = f"the newest is not good: {sets[0].problem}; see the run of the job backup" if sets[0].problem else ""
    ctx.check(f"good sets in {name}", len(good), at_least=1, hint=hint)
    if not good:
        text = f"no set in {shown(folder)} is good: {sets[0].problem}"
        raise TargetError(text, "make one: maintd trigger daily-backup", cause="empty")
    newer = [one for one in sets if one.path.name > good[0].path.name]
    ctx.check(f"newer sets in {name} that are not good", len(newer), warn_above=0, hint=hint)
    older = good[1:]
    if wanted == OLDER and older:
        # Another one each day, so that all of them have their turn.
        return _of_set(older[ctx.now().toordinal() % len(older)])
    return _of_set(good[0])


def verify_files(ctx: Context, source: Source, progress: Callable[[int], None]) -> Source:
    """Compare the files of a set with its manifest and its list of sums; those that differ are not restored."""
    if source.manifest is None:
        return source
    differences, missing = set_files.compare_manifest(source.folder)
    sums = dict(read_checksums(source.folder / SUMS)) if (source.folder / SUMS).is_file() else {}
    wanted = {name: str(file["sha256"]) for name, file in source.manifest["files"].items()}
    changed = {name for name in wanted if not (source.folder / name).is_file()}
    if MANIFEST in sums:
        wanted[MANIFEST] = sums[MANIFEST]
    for name, sha256 in wanted.items():
        if name not in changed:
            try:
                if sha256_of(source.folder / name, progress) != sha256:
                    changed.add(name)
            except OSError as error:
                changed.add(name)
                differences.append(f"{name} cannot be read: {error.strerror}")
    differences += [f"{name} has changed" for name in sorted(changed) if (source.folder / name).is_file()]
    hint = f"restore from another set, and check the disk: {'; '.join(differences[:3])}" if differences else ""
    ctx.check("files unlike the manifest", len(differences), at_most=0, hint=shown(hint))
    hint = f"made without {', '.join(missing)}: see the run of the job backup" if missing else ""
    ctx.check("parts missing in the set", len(missing), at_most=0, hint=shown(hint))
    if MANIFEST in changed:
        text = f"{shown(source.folder / MANIFEST)}: has changed, so that nothing can be compared with it"
        raise TargetError(text, "restore from another set, and check the disk", cause="malformed")
    return Source(
        source.name,
        source.folder,
        source.taken_at,
        source.manifest,
        source.parts,
        source.size_bytes,
        frozenset(changed),
    )


def gap_between_sets(folder: Path, now: datetime, within: timedelta) -> timedelta | None:
    """The longest time between two good sets of a folder within this time, see `longest_gap`. Raises TargetError."""
    with os_errors(folder):
        return longest_gap([one.made_at for one in find_sets(folder) if one.good], now, within)


def longest_gap(sets: Sequence[datetime], now: datetime, within: timedelta) -> timedelta | None:
    """The longest time between two good sets of the last time, or from the last one until now; None without any.

    What was written in it is what a failure at its end would have lost.
    """
    times = sorted(at for at in sets if at > now - within)
    if not times:
        return None
    return max(later - earlier for earlier, later in zip(times, [*times[1:], now], strict=True))


@contextmanager
def decoded(path: Path, kind: str, keys: Keys = NO_KEYS) -> Iterator[Reader]:
    """Read a file without its layers of compression and encryption; kind is like `tar.gz.age`.

    Raises UnreadableError for a layer that is not supported here, and what the layers raise.
    """
    with ExitStack() as stack:
        file = HashedFile(path)
        stack.callback(file.close)
        reader, size = Reader(chunks_of(file)), path.stat().st_size
        for layer in reversed(kind.split(".")[1:]):
            chunks = _layer(layer, reader, keys)
            stack.enter_context(closing(chunks))  # type: ignore[type-var]
            reader = Reader(stream.limited(chunks, size, ExpansionLimits()), f"the content of the {layer} layer")
        yield reader


def write_plain(part: Part, path: Path, keys: Keys) -> Path:
    """The file without its layers, in a new file of the scratch folder; the file itself when it has none.

    Raises TargetError.
    """
    if "." not in part.kind or part.path.is_dir():
        return part.path
    with decoded(part.path, part.kind, keys) as reader, os_errors(path), path.open("xb") as copy:
        for chunk in reader.rest():
            copy.write(chunk)
    return path


def _layer(layer: str, reader: Reader, keys: Keys) -> Iterator[bytes]:
    if layer == "age":
        return age_encryption.decrypt(reader, keys.identities or ())
    if layer == "gpg" and keys.gpg is not None:
        return keys.gpg.decrypt(reader)
    simple = {"gz": stream.gunzip, "xz": stream.unxz, "bz2": stream.bunzip2}
    if layer == "zst":
        return stream.ZstdReader(reader).chunks()
    if layer not in simple:
        raise UnreadableError(f"{layer} is not decoded in a drill", "restore it by hand")
    return simple[layer](reader)


def _of_set(found: FoundSet) -> Source:
    try:
        manifest = read_manifest(found.path)
        times = [about["snapshot_at"] for about in manifest.get("postgres", [])] + [manifest["started_at"]]
        taken_at = min(datetime.fromisoformat(str(at)) for at in times)
    except (OSError, ValueError, KeyError, TypeError) as error:
        text = f"{shown(found.path / MANIFEST)}: {error}"
        raise TargetError(text, "restore from another set", cause="malformed") from error
    return Source(found.path.name, found.path, taken_at, manifest, size_bytes=found.size_bytes)


def _newest_files(ctx: Context, name: str, folder: Path, patterns: Sequence[str]) -> Source:
    """The newest backup of each series."""
    found = find_backups(Path(realpath(folder)), patterns, now=ctx.now())
    hint = f"no file in {shown(folder)} matches {', '.join(patterns)}: correct the params folder and files"
    ctx.check(f"backups in {name}", len(found.backups), at_least=1, hint=hint)
    if not found.backups:
        raise TargetError(f"no backup in {shown(folder)}", hint, cause="empty")
    newest: dict[str, Backup] = {}
    for backup in found.backups:
        newest.setdefault(backup.series, backup)
    parts = []
    for backup in newest.values():
        kind = backup.kind or kind_by_name(backup.path)
        parts.append(Part(shown(backup.relative), kind, backup.path))
    size = sum(backup.size_bytes for backup in newest.values())
    taken_at = min(backup.created_at for backup in newest.values())
    label = f"{len(parts)} file{'' if len(parts) == 1 else 's'}"
    return Source(label, folder, taken_at, None, tuple(parts), size)


def is_database(part: Part) -> bool:
    """Whether it is a dump of Postgres."""
    return part.kind.split(".")[0] in ("pgdump", "sql") or part.kind == folders.DIRECTORY_DUMP


def is_redis(part: Part) -> bool:
    """Whether it is of Redis or Valkey."""
    return part.kind.split(".")[0] in ("rdb", "aof") or part.kind == folders.APPEND_ONLY


def is_archive(part: Part) -> bool:
    """Whether it is an archive of folders and files."""
    return part.kind.split(".")[0] == "tar"
