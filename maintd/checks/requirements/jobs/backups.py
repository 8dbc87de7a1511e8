"""The requirements of the jobs that make, verify and restore backups."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from maintd.checks.requirements import local, postgres, redis
from maintd.checks.requirements.jobs.shared import folders, unconfigured_folder, unnamed
from maintd.checks.requirements.requirement import Requirement, Unconfigured
from maintd.clients import shell
from maintd.model.target import Targets


def backup(targets: Targets, params: Any) -> Iterator[Requirement | Unconfigured]:
    """The folders can be written; databases can be read as a whole by a client that is new enough; Redis sends a
    snapshot; the folders and files to pack are there."""
    for name in (params.to, params.copy_to):
        if name is not None and (name in targets.folders or name == params.copy_to):
            yield Requirement("folders", name, "write sets of backups", local.writes)
    if params.to not in targets.folders:
        yield unconfigured_folder(params.to)
        return
    chosen = (("postgres", params.postgres), ("redis", params.redis))
    named = (params.base_backups, params.paths, params.secrets)
    if all(unnamed(kind, targets, names) for kind, names in chosen) and not any(named):
        yield Unconfigured("something to back up", "set targets.postgres, or the param paths")
    for argv, need in ((params.copy_command, "copy a set"), (params.copy_verify, "verify the copy of a set")):
        if argv:
            yield Requirement("program", argv[0], need, local.can_start(shell.Command(argv)))
    for name in targets.postgres if params.postgres is None else params.postgres:
        place = targets.postgres.get(name)
        if place is not None:
            exercise = postgres.can_be_dumped(place)
            yield Requirement("postgres", name, "dump all its rows", exercise)
    for name in params.base_backups:
        place = targets.postgres.get(name)
        if place is not None:
            yield Requirement("postgres", name, "stream a base backup", postgres.may_stream(place))
    for name in targets.redis if params.redis is None else params.redis:
        yield Requirement("redis", name, "read its state", redis.may_run(("INFO",)))
        yield Requirement("redis", name, "receive a snapshot", redis.may_synchronize)
        exercise = redis.append_only_files(params.redis_data.get(name))
        yield Requirement("redis", name, "read its append-only files", exercise, optional=True)
    for path in (*params.paths.values(), *params.secrets.values()):
        yield (local.readable_folder if path.is_dir() else local.readable_file)(path, "back it up")


def backup_verify(targets: Targets, params: Any) -> Iterator[Requirement | Unconfigured]:
    """The folders can be read; keys and programs are there."""
    if params.root is None and "folders" not in params.model_fields_set and "backups" not in targets.folders:
        yield Unconfigured("folders backups", "set targets.folders.backups in the calendar, or the param root")
        return
    if params.root is not None:
        yield local.readable_folder(params.root, "read backups")
    else:
        yield from folders(targets, (*params.folders, *params.offsite))
    for path, need in (
        (params.identity, "decrypt backups of age"),
        (params.gpg_key, "decrypt backups of gpg"),
        (params.gpg_passphrase, "decrypt backups of gpg"),
    ):
        if path is not None:
            yield local.readable_file(path, need)
    if params.gpg_key is not None or params.gpg_passphrase is not None:
        yield local.program("gpg", "decrypt backups")
    for name in ("pg_restore", "pg_verifybackup") if params.pg_bin is not None else ():
        yield local.program(name, "verify backups of Postgres", folder=params.pg_bin)


def restore_drill(targets: Targets, params: Any) -> Iterator[Requirement | Unconfigured]:
    """The backups can be read; there is a place to restore into; servers of the right kind can be started."""
    if params.folder not in targets.folders:
        yield unconfigured_folder(params.folder)
        return
    yield from folders(targets, (params.folder,))
    if params.scratch is not None:
        yield Requirement("folders", params.scratch, "restore into it", local.writes)
    if params.identity is not None:
        yield local.readable_file(params.identity, "decrypt backups of age")
    for path in (params.gpg_key, params.gpg_passphrase):
        if path is not None:
            yield local.readable_file(path, "decrypt backups of gpg")
    if params.gpg_key is not None or params.gpg_passphrase is not None:
        yield local.program("gpg", "decrypt backups")
    dirs = {params.bin_dir} if params.bin_dir is not None else {place.bin_dir for place in targets.postgres.values()}
    for folder in dirs:
        yield Requirement("program", "initdb", "make a scratch cluster", local.server_programs(folder))
    if targets.redis:
        yield local.program(str(params.redis_server), "load a snapshot")
