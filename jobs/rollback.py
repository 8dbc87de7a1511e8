"""Roll back images and configuration, a schema, or data: the least level that helps.

Runbook: Emergency Rollback

Level `images`: the images and the copied files of a rollback manifest, as in `services_recreate`; no data. Level
`schema`: named down-migrations, each in a transaction, back to the version in the manifest. Level `data`: the database
of a target from a backup set, into a new database that is proven as in `restore_drill`, and then takes the name of the
damaged one, which is kept beside it and never dropped. What was written since the backup is lost by that: a gate of the
run must have been approved by a person, or the loss typed at a terminal. Nothing is changed while a halt target is not
halted, a right is missing, or the backup has changed. What a run that was killed has left is found, and finished or
ended, by the next one; with `back` it is only ended.
"""

from datetime import timedelta
from typing import Literal, Self

from pydantic import Field, model_validator

from maintd.checks.probes import isolate_errors
from maintd.checks.requirements.jobs.windows import rollback as requirements
from maintd.checks.restore.databases import Query
from maintd.checks.rollback import data, manifest
from maintd.checks.rollback.files import restore_files
from maintd.checks.rollback.permission import require_halted
from maintd.checks.rollback.schema import Down, SchemaRollback
from maintd.checks.rollback.writers import Writers
from maintd.checks.services.recreate import RecreateScope, replace_containers
from maintd.checks.services.rollout import OwnPlace, RolloutScope
from maintd.clients.pg_dump import as_role
from maintd.clients.postgres import connect
from maintd.job import Context, Duration, JobParams, Role, TargetError, job

HANDED = "rollback"
"""Name of the value for an undo: the params of a rollback of data that it needs, too."""


class Params(RolloutScope, JobParams):
    """Those of a rollback; the ones about services are for the level images, and for `writers`."""

    level: Literal["images", "schema", "data"]
    """`images`, `schema` or `data`: the first one that helps."""
    manifest: str = "rollback"
    """Folder target with rollback manifests: the one that this run made, else the newest."""
    files: bool = True
    """Level images: restore the files that the manifest has copies of."""
    readers: tuple[str, ...] = ()
    """Level images: services to replace also with the same image when a file was restored, since they read it."""
    postgres: str | None = None
    """Levels schema and data: name of the Postgres target; by default the only one, or `main`."""
    role: str | None = None
    """Levels schema and data: role to work as, of which the target's user is a member, such as the owner."""
    schema_version: str | None = None
    """Level schema: the query of the version that `rollback_manifest` has recorded by."""
    down: str | None = None
    """Level schema: path of the file of SQL that takes a migration back: `/migrations/{version}.down.sql`."""
    down_program: tuple[str, ...] = ()
    """Level schema: program that takes a migration back, instead of files: `[migrate, down, "{version}"]`."""
    forget: str | None = None
    """Level schema: SQL after each file that removes its row: `DELETE FROM migrations WHERE name = %(version)s`."""
    lock_timeout: Duration = timedelta(minutes=1)
    """Level schema: how long each wait for a lock may take."""
    backups: str = "backup_sets"
    """Level data: folder target with the sets of the job `backup`."""
    set: str = "newest"
    """Level data: the newest good set, or the name of one; after a gate the one that `rollback_loss` has stated."""
    approved_at: str = "gate"
    """Level data: name of the gate whose approval by a person counts."""
    accept_loss: str = ""
    """Level data, with `maintd run --here` only: the text that the job asks for, which names the loss."""
    halted: bool = True
    """Require that all halt targets are halted. For images this counts only where there are such targets."""
    writers: tuple[str, ...] = ()
    """Level data: services that write to the database, stopped before it is replaced, and started afterwards."""
    loss: dict[str, str] = {}
    """Level data: queries of what was written since the backup, with `%(since)s`, for the log."""
    queries: dict[str, Query] = {}
    """Level data: queries of the application, with what is expected of their one value in the restored database."""
    jobs: int = Field(default=2, ge=1, le=64)
    """Level data: sessions of pg_restore at the same time."""
    amcheck: bool = True
    """Level data: check every restored table and index for damage, where the database has the extension amcheck."""
    unproven: bool = False
    """Level data: swap also when a check of the restored database has no result. One that failed keeps it out."""
    back: bool = False
    """Level data: only end what a run that was stopped has left before the swap. As an undo."""
    calendar: OwnPlace = OwnPlace()
    """Set by maintd: where its store is."""

    @model_validator(mode="after")
    def _check_level(self) -> Self:
        if self.level == "schema" and not self.schema_version:
            raise ValueError("level schema needs schema_version, the query of the schema's version")
        if self.level == "schema" and not (self.down or self.down_program):
            raise ValueError("level schema needs down or down_program: how a migration is taken back")
        if self.down and self.down_program:
            raise ValueError("name down or down_program, not both")
        return self


@job(
    timeout="2h",
    mutates=True,
    locks={"docker": "exclusive", "postgres": "exclusive", "stack": "exclusive", "backups": "shared"},
    needs=("docker or postgres",),
    requires=requirements,
    reads_calendar=True,
    admin_params=True,  # they name programs, files of SQL, and what is restored
)
def run(ctx: Context, params: Params) -> None:
    """Roll back on the chosen level."""
    started = ctx.now()
    if params.level == "data" and not params.back:
        data.require_sets(ctx, params.backups)
    with isolate_errors(ctx, f"rollback of {params.level}", expected="done", role=Role.WORK):
        match params.level:
            case "images":
                images(ctx, params)
            case "schema":
                schema(ctx, params)
            case "data":
                restore(ctx, params)
        if not ctx.dry_run and not ctx.failed:
            ctx.measure("rollback_duration_seconds", (ctx.now() - started).total_seconds(), "s", level=params.level)


def images(ctx: Context, params: Params) -> None:
    """Restore the files of the manifest, then the images."""
    require_halted(ctx, needed=params.halted and bool(ctx.targets.halts))
    found = manifest.of_run(ctx, params.manifest)
    changed = restore_files(ctx, found) if params.files else []
    ctx.log(f"{found.path.name}: files that were restored: {', '.join(changed) or 'none'}")
    shared = {name: getattr(params, name) for name in RolloutScope.model_fields}
    own = {"manifest": params.manifest, "calendar": params.calendar}
    if found.manifest.images:
        replace_containers(ctx, RecreateScope.model_validate({**shared, **own}))
    if changed and params.readers:
        scope = {**shared, **own, "services": params.readers, "force": True}
        replace_containers(ctx, RecreateScope.model_validate(scope))
    elif changed:
        hint = "restart the services that read them, or name these in the param readers"
        ctx.unknown("services read the files that were restored", "no readers are named", expected="read", hint=hint)


def schema(ctx: Context, params: Params) -> None:
    """Take the schema back to the version in the manifest."""
    require_halted(ctx, needed=params.halted)
    name, target = data.postgres_target(ctx, params.postgres)
    found = manifest.of_run(ctx, params.manifest)
    record = next((one for one in found.manifest.postgres if one.target == name), None)
    if record is None:
        text = f"{found.path.name} has nothing about postgres {name}"
        raise TargetError(text, "use another manifest", cause="not_found")
    place = as_role(target, params.role)
    with connect(place, "rollback", name=f"postgres {name}", read_only=False) as session:
        down = Down(params.down, params.down_program, params.forget)
        SchemaRollback(ctx, session, params.schema_version or "", down, params.lock_timeout).run(record)


def restore(ctx: Context, params: Params) -> None:
    """Replace the database by one from a backup, or with `back` end what is left of that."""
    name, target = data.postgres_target(ctx, params.postgres)
    if params.back:
        # An undo has params of its own: what it does not name is that of the step that it undoes.
        before = ctx.handed(HANDED) or {}
        missing = {key: value for key, value in before.items() if not getattr(params, key)}
        params = params.model_copy(update=missing)
    else:
        ctx.hand_over(HANDED, {key: getattr(params, key) for key in ("role", "writers", "only_running")})
    writers = Writers(ctx, params, params.writers, params.calendar.store)
    if params.back:
        data.give_up(ctx, name, target, params.role, writers)
        return
    options = data.DataOptions(
        params.backups,
        params.set,
        params.role,
        params.approved_at,
        params.accept_loss,
        params.halted,
        params.jobs,
        params.amcheck,
        params.unproven,
        params.loss,
        params.queries,
    )
    data.roll_back(ctx, name, target, options, writers)
