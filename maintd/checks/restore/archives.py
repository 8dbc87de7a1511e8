"""Archives of folders and files, unpacked into the scratch folder and compared; secrets are decrypted in memory."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, cast

from maintd.checks.backup_sets.writer import os_errors
from maintd.checks.backups import tar
from maintd.checks.backups.keys import Keys
from maintd.checks.backups.stream import CHUNK, DamagedError, ExpansionLimits, LimitReachedError, UnreadableError
from maintd.checks.restore.scratch import full_disk
from maintd.checks.restore.sources import decoded
from maintd.clients.files import shown
from maintd.errors import TargetError
from maintd.job.context import Context

_SHOWN = 3


def unpack(ctx: Context, subject: str, path: Path, kind: str, folder: Path, about: Mapping[str, Any] | None) -> None:
    """Unpack an archive and compare each member with the manifest: kind, mode, size and sha256. Raises TargetError.

    Links that point outside of the archive are not made.
    """
    found: dict[str, dict[str, Any]] = {}
    outside, count = 0, 0
    with os_errors(folder):
        folder.mkdir(mode=0o700)
    with decoded(path, kind) as reader:
        try:
            with tarfile.open(fileobj=cast("IO[bytes]", reader), mode="r|") as archive:
                for member in archive:
                    count += 1
                    found[shown(member.name)] = _about(member)
                    try:
                        safe = tarfile.data_filter(member, str(folder))
                    except tarfile.FilterError:
                        outside += 1
                        continue
                    with os_errors(folder):
                        archive.extract(safe, folder, filter="data", set_attrs=False)
                    if member.isreg():
                        found[shown(member.name)]["sha256"] = _hash(folder / safe.name)
        except tarfile.TarError as error:
            raise DamagedError(f"{shown(path.name)}: {error}") from error
        except TargetError as error:
            raise full_disk(folder, error.message) or error from error
        for _ in reader.rest():
            pass
    ctx.measure("restore_members", count, "member", part=subject)
    ctx.passed(f"{subject}: unpacked", count, expected="all members")
    if outside:
        ctx.log(f"{subject}: {outside} links that point outside of the archive were not made")
    compare_members(ctx, subject, found, about)


def decrypt(ctx: Context, subject: str, path: Path, kind: str, keys: Keys, about: Mapping[str, Any] | None) -> None:
    """Decrypt an archive and read it to its end; its content is in no file, and no hash of it is recorded.

    Raises TargetError.
    """
    found: dict[str, dict[str, Any]] = {}
    try:
        with decoded(path, kind, keys) as reader:
            for member in tar.members(reader, ExpansionLimits()):
                names = {b"5": "folder", b"1": "link", b"2": "link"}
                found[shown(member.name.rstrip("/"))] = {
                    "kind": names.get(member.kind, "file"),
                    "mode": f"{member.mode:o}",
                    "size_bytes": member.size_bytes,
                }
            for _ in reader.rest():
                pass
    except LimitReachedError:
        raise
    except UnreadableError as error:
        # It is the disaster that the drill looks for: the key that is kept does not open the backup.
        hint = "find the identity of one of the recipients, and keep it with the backup's instructions"
        text = f"cannot be decrypted: {error.message}"
        ctx.fail(f"{subject}: decrypted", text, expected="decrypted", hint=f"{error.hint or ''}; {hint}".lstrip("; "))
        return
    ctx.measure("restore_members", len(found), "member", part=subject)
    ctx.passed(f"{subject}: decrypted", len(found), expected="all members")
    compare_members(ctx, subject, found, about)


def compare_members(
    ctx: Context, subject: str, found: Mapping[str, Mapping[str, Any]], about: Mapping[str, Any] | None
) -> None:
    """Compare what was unpacked with the members in the manifest, which has at most some 100,000 of them."""
    if about is None:
        hint = "make the backup by the job backup, whose manifest has the sha256 of each file"
        ctx.unknown(f"{subject}: compared with the original", "no manifest: compared to nothing", hint=hint)
        return
    wanted = {str(one["name"]): one for one in about.get("members") or []}
    count = int(about.get("member_count") or 0)
    unlike = [
        name
        for name, one in wanted.items()
        if name not in found
        or any(one.get(key) != found[name].get(key) for key in ("kind", "mode", "size_bytes", "sha256") if key in one)
    ]
    if len(wanted) == count:
        unlike += [name for name in found if name not in wanted]
    hint = f"restore from another set: {'; '.join(unlike[:_SHOWN])}" if unlike else ""
    ctx.check(f"{subject}: members unlike the manifest", len(unlike), at_most=0, hint=hint)
    if len(wanted) != count:
        ctx.check(f"{subject}: members", len(found), equals=count, hint="members are missing: restore from another set")


def _about(member: tarfile.TarInfo) -> dict[str, Any]:
    kind = "file" if member.isreg() else "folder" if member.isdir() else "link"
    return {"kind": kind, "mode": f"{stat.S_IMODE(member.mode):o}", "size_bytes": member.size}


def _hash(path: Path) -> str:
    digest = sha256()
    with os_errors(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(descriptor, "rb", buffering=0) as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()
