"""Back up Postgres, Redis, folders and secrets as one set, verified while it is written, and keep a number of sets.

Runbook: Schedules, "Daily backup"

A set is written below a temporary name and renamed when it is whole, so that a run that is killed leaves nothing that
looks like a backup. Each file is hashed and decoded while it is written. Postgres: `pg_dump -Fc` of each database, with
rows and content hashes of its tables from the same snapshot, and the roles without their passwords; where it is asked
for, a base backup of the server with its manifest and WAL. Redis: the append-only files where it loads these, else a
snapshot over the connection, as for a replica. Folders and files: tar.gz. Secrets: encrypted to age recipients; this
process cannot decrypt them. A manifest has what a restore is proven by. A part that fails is missing in the set, which
then is not a good one. Old sets are deleted only when the new one is good, by number and never by age alone. A set is
copied to a second folder, or by a command, and the copy is verified.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, StringConstraints, model_validator

from maintd.checks.backup_sets import base_backup, copying, making, postgres, redis
from maintd.checks.backup_sets.copying import check_placeholders
from maintd.checks.backup_sets.layout import find_sets
from maintd.checks.backup_sets.making import SetMaker
from maintd.checks.backup_sets.packing import parse_recipient
from maintd.checks.backup_sets.retention import Keep
from maintd.checks.backup_sets.writer import SetWriter, free_name, locked
from maintd.checks.probes import isolate_errors
from maintd.checks.requirements.jobs.backups import backup as requirements
from maintd.clients.redis import connect
from maintd.job import Context, Duration, JobParams, Role, Size, TargetError, job

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z_-]{0,40}$")]


class Params(JobParams):
    to: str = "backup_sets"
    """Folder target that sets are written to."""
    copy_to: str | None = None
    """Folder target with a second copy of each set, on another disk."""
    copy_command: tuple[str, ...] = ()
    """Program that copies each set elsewhere, as a list: `[rclone, copy, "{set}", "remote:sets/{name}"]`."""
    copy_verify: tuple[str, ...] = ()
    """Program that compares the copy with the set: `[rclone, check, --download, "{set}", "remote:sets/{name}"]`."""
    copy_read: str = ""
    """Folder of the copy as it is seen here, `/mnt/remote/{name}`: it is read back and compared."""
    copy_env: dict[str, SecretStr] = {}
    """Added to the environment of these programs. `${NAME}` and `${file:…}` are resolved when the job runs."""
    postgres: tuple[str, ...] | None = None
    """Names of Postgres targets; all by default, none: `[]`."""
    base_backups: tuple[str, ...] = ()
    """Names of Postgres targets whose servers are also backed up as a whole, by pg_basebackup."""
    databases: tuple[str, ...] = ()
    """Patterns of further databases of these servers; `*`: all. By default the one in the dsn of each target."""
    exclude_databases: tuple[str, ...] = ()
    """Patterns of databases that need no backup."""
    hashes: bool = True
    """Hash the rows of each table. Without it they are only counted."""
    redis: tuple[str, ...] | None = None
    """Names of Redis targets; all by default, none: `[]`."""
    redis_data: dict[str, Path] = {}
    """Data folder of a Redis target as maintd sees it, to read its append-only files: `{main: /mnt/redis}`."""
    memory_limit: Size | None = None
    """Memory limit of Redis' container; a save that would exceed it fails the check before it starts."""
    paths: dict[Name, Path] = {}
    """Folders and files to pack, by a name: `{config: /opt/stack/config}`."""
    secrets: dict[Name, Path] = {}
    """Folders and files to pack and encrypt, by a name; needs `recipients`."""
    recipients: tuple[str, ...] = ()
    """age recipients: `age1…` or a public key of ssh. Keep their identities away from this machine."""
    stall: Duration = timedelta(minutes=10)
    """A program or server that sends nothing for longer is stopped."""
    lock_timeout: Duration = timedelta(minutes=1)
    """How long pg_dump waits for the lock of a table."""
    min_free: Size = 2**30
    """Space on the disk that stays free."""
    last: int = Field(default=3, ge=1)
    """Keep the last good sets, whatever their dates."""
    daily: int = Field(default=7, ge=0)
    """Keep the last good set of each of the latest days that have one."""
    weekly: int = Field(default=4, ge=0)
    """Keep the last good set of each of the latest weeks that have one."""
    monthly: int = Field(default=6, ge=0)
    """Keep the last good set of each of the latest months that have one."""
    max_deletes: int = Field(default=5, ge=0)
    """Sets that one run may delete; when there are more, none is deleted."""

    @model_validator(mode="after")
    def _check_recipients(self) -> Self:
        if self.secrets and not self.recipients:
            raise ValueError("secrets are only written encrypted: set recipients, from age-keygen -y FILE")
        for recipient in self.recipients:
            if "${" not in recipient:  # a reference is resolved when the job runs
                parse_recipient(recipient)
        check_placeholders((*self.copy_command, *self.copy_verify, self.copy_read))
        if self.copy_command and not any("{set}" in word for word in self.copy_command):
            raise ValueError("copy_command must have {set}, the folder that it copies")
        if not self.copy_command and (self.copy_verify or self.copy_read):
            raise ValueError("copy_verify and copy_read verify the copy of copy_command: set it")
        if self.copy_read and "{name}" not in self.copy_read:
            raise ValueError("copy_read must have {name}, the name of the set")
        return self


@job(
    timeout="4h",
    mutates=True,
    repeatable=True,
    locks={"backups": "exclusive"},
    requires=requirements,
    admin_params=True,  # they name files to read, who can decrypt secrets, and how many sets are kept
)
def run(ctx: Context, params: Params) -> None:
    """Make one set, copy it, and delete what is beyond the number of sets that are kept."""
    if params.to not in ctx.targets.folders:
        hint = f"set targets.folders.{params.to} in the calendar: a folder that maintd may write to"
        raise TargetError(f'no folder "{params.to}" is configured', hint, cause="not_configured")
    chosen = {kind: ctx.targets.of(kind) if names is None else dict.fromkeys(names) for kind, names in kinds(params)}
    if not (any(chosen.values()) or params.base_backups or params.paths or params.secrets):
        raise TargetError("nothing to back up is configured", "set targets.postgres or paths", cause="not_configured")
    folder, keep = ctx.target("folders", params.to).path, Keep(params.last, params.daily, params.weekly, params.monthly)
    with isolate_errors(ctx, f"set in {params.to}", expected="written", role=Role.WORK), writable(ctx, folder):
        name = make(ctx, params, folder, tuple(chosen["postgres"]), tuple(chosen["redis"]))
        if name or ctx.dry_run:
            making.prune(ctx, params.to, folder, keep, params.max_deletes, name)
        if name and params.copy_to is not None:
            with isolate_errors(ctx, f"copy in {params.copy_to}", expected="written", role=Role.WORK):
                other = ctx.target("folders", params.copy_to).path
                with ctx.phase(f"copy the set to {params.copy_to}"), writable(ctx, other):
                    making.copy_set(ctx, folder / name, other, making.reporter(ctx), params.min_free)
                    making.prune(ctx, params.copy_to, other, keep, params.max_deletes, name)
        if name and params.copy_command:
            copy_by_command(ctx, params, folder / name)


def copy_by_command(ctx: Context, params: Params, path: Path) -> None:
    """Copy a set by the command, then verify the copy in each way that is configured."""
    env = {name: value.get_secret_value() for name, value in params.copy_env.items()}
    program = Path(params.copy_command[0]).name
    copied = False
    with isolate_errors(ctx, f"copy by {program}", expected="copied", role=Role.WORK):
        with ctx.phase(f"copy the set by {program}"):
            copying.copy_by_command(ctx, path, params.copy_command, env)
        ctx.passed(f"copy by {program}", path.name, expected="copied")
        copied = True
    name, expected = f"copy by {program}: verified", "the same as the set"
    if not copied:
        return
    if params.copy_verify:
        with isolate_errors(ctx, name, expected=expected, role=Role.WORK):
            with ctx.phase(f"verify the copy by {Path(params.copy_verify[0]).name}"):
                copying.verify_by_command(ctx, path, params.copy_verify, env)
            ctx.passed(name, f"{Path(params.copy_verify[0]).name} ended with 0", expected=expected)
    if params.copy_read:
        with isolate_errors(ctx, f"{name} by reading", expected=expected, role=Role.WORK):
            with ctx.phase("read the copy back"):
                count = copying.verify_by_reading(path, params.copy_read)
            ctx.passed(f"{name} by reading", f"{count} files", expected=expected)
    if not (params.copy_verify or params.copy_read):
        hint = "set copy_verify to a command that compares it, or copy_read to its folder"
        ctx.unknown(name, "not verified: no way is configured", expected=expected, hint=hint)


def kinds(params: Params) -> tuple[tuple[str, tuple[str, ...] | None], ...]:
    """The kinds of target with the names that are given."""
    return ("postgres", params.postgres), ("redis", params.redis)


@contextmanager
def writable(ctx: Context, folder: Path) -> Iterator[None]:
    """Be the only run that writes into the folder, without leftovers of runs that have ended. Raises TargetError."""
    making.require_folder(folder)
    with ExitStack() as stack:
        if not ctx.dry_run:
            stack.enter_context(locked(folder))
            making.remove_leftovers(ctx, folder)
        yield


def make(ctx: Context, params: Params, folder: Path, databases: tuple[str, ...], servers: tuple[str, ...]) -> str:
    """Make the set. Its name; empty when there is none, as in a dry run."""
    name = free_name(folder, ctx.now)
    maker = SetMaker(ctx, SetWriter(folder, name, params.min_free, making.reporter(ctx)), ctx.now())
    options = postgres.DumpOptions(
        params.databases, params.exclude_databases, params.hashes, params.stall, params.lock_timeout
    )
    found: dict[str, dict[str, int]] = {}
    for target in databases:
        with maker.part(f"postgres {target}", "find the databases of"):
            place = ctx.target("postgres", target)
            found[target] = postgres.choose_databases(ctx, place, target, options, ctx.targets.postgres)
    size = sum(sum(sizes.values()) for sizes in found.values())
    for target in params.base_backups:
        with maker.part(f"postgres {target}: base backup", "find the size of"):
            size += base_backup.size_of(ctx.target("postgres", target), target)
    packed = [("files", label, path) for label, path in params.paths.items()]
    packed += [("secrets", label, path) for label, path in params.secrets.items()]
    for part, label, path in packed:
        with maker.part(f"{part} {label}", "find the size of"):
            size += making.size_of(path)
    parts = [base_backup.name_of(target) for target in params.base_backups]
    making.require_space(ctx, params.to, folder, find_sets(folder), size, params.min_free, parts)
    with ctx.change("create", folder / name, parts=len(found) + len(servers) + len(parts)) as allowed, maker.writer:
        if not allowed:
            plan = {target: ", ".join(sizes) for target, sizes in found.items()}
            ctx.log(f"would back up databases: {plan}, redis: {servers}, {[*params.paths, *params.secrets]}")
            return ""
        maker.writer.create()
        for target, chosen in found.items():
            dump(ctx, maker, target, tuple(chosen), options)
        for target in params.base_backups:
            subject = f"postgres {target}: base backup"
            if subject not in maker.missing:
                with maker.part(subject):
                    place = ctx.target("postgres", target)
                    maker.add(
                        "base_backups", subject, *base_backup.save(ctx, maker.writer, place, target, params.stall)
                    )
        for target in servers:
            with maker.part(f"redis {target}"):
                place = ctx.target("redis", target)
                data = params.redis_data.get(target)
                how = redis.SaveOptions(place.streams, params.memory_limit, data, params.stall)
                with connect(place, name=target) as server:
                    saved = redis.save(ctx, maker.writer, server, how)
                maker.add("redis", f"redis {target}", *saved)
        for part, label, path in packed:
            if f"{part} {label}" not in maker.missing:
                with maker.part(f"{part} {label}"):
                    maker.add_packed(part, label, path, params.recipients if part == "secrets" else ())
        if not maker.files:
            allowed.failed("no part could be written")
            return ""
        maker.complete()
        return name


def dump(ctx: Context, maker: SetMaker, target: str, databases: tuple[str, ...], options: postgres.DumpOptions) -> None:
    """Dump the roles of a server and some of its databases, each by itself."""
    place = ctx.target("postgres", target)
    with maker.part(f"postgres {target}: roles"):
        file, about = postgres.dump_globals(maker.writer, place, target, options.stall)
        maker.add("globals", f"postgres {target}: roles", file, about)
    for database in databases:
        with maker.part(f"postgres {target}: {database}"):
            file, about = postgres.dump_again(ctx, maker.writer, place, target, database, options)
            maker.add("postgres", f"postgres {target}: {database}", file, about)
