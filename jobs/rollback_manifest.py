"""Record what runs before a change, so that it can be restored: images, configuration, versions of data and secrets.

Runbook: Emergency Rollback; Planned Maintenance Window, Pre-Maintenance Checklist

Of each service the image with its digests, tagged as `maintd/rollback:…` so that no clean-up removes it; copies of the
named files of the configuration; of files with the environment or secrets only keyed hashes, never the values; of
Postgres the position in the WAL and the version of the schema by a query; of Redis the time of its last save. The
manifest is written below a temporary name, renamed when it is whole, and read back; its sha256 is evidence of the run.
Old manifests and tags are removed by number. What cannot be recorded is named in the manifest, and fails the run.
"""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from maintd.checks.backup_sets.making import require_folder
from maintd.checks.backup_sets.writer import locked
from maintd.checks.probes import isolate_errors
from maintd.checks.requirements.jobs.windows import rollback_manifest as requirements
from maintd.checks.rollback import making
from maintd.checks.rollback.making import ManifestMaker
from maintd.checks.rollback.manifest import HANDED
from maintd.job import Context, JobParams, Role, TargetError, job


class Params(JobParams):
    to: str = "rollback"
    """Folder target that manifests are written to."""
    docker: tuple[str, ...] | None = None
    """Names of Docker targets; all by default, none: `[]`."""
    postgres: tuple[str, ...] | None = None
    """Names of Postgres targets; all by default, none: `[]`."""
    redis: tuple[str, ...] | None = None
    """Names of Redis targets; all by default, none: `[]`."""
    files: tuple[Path, ...] = ()
    """Files to copy, such as the compose file and configuration without secrets."""
    environment: tuple[Path, ...] = ()
    """Files with the environment, such as `.env`: only a keyed hash is recorded; needs `key`."""
    secrets: tuple[Path, ...] = ()
    """Files and folders with secrets: only keyed hashes are recorded; needs `key`."""
    key: Path | None = None
    """File with the key of these hashes, created when it does not exist; not in the folder of the manifests."""
    schema_versions: dict[str, str] = {}
    """By Postgres target, a query of the version of its schema: `{main: SELECT name FROM migrations ORDER BY id}`."""
    keep: int = Field(default=10, ge=1)
    """Keep the newest manifests."""
    keep_tags: int = Field(default=10, ge=1)
    """Keep the newest tags for a rollback of each service, besides those that manifests name."""
    max_tags: int = Field(default=100, ge=0)
    """Old tags that one run may remove."""

    @model_validator(mode="after")
    def _check_key(self) -> Self:
        if (self.secrets or self.environment) and self.key is None:
            raise ValueError("secrets and environment are recorded by a keyed hash only: set key to a file for it")
        return self


@job(
    timeout="15m",
    mutates=True,
    repeatable=True,
    locks={"docker": "shared", "rollback": "exclusive"},
    requires=requirements,
    admin_params=True,  # they name files to copy, and what is deleted
)
def run(ctx: Context, params: Params) -> None:
    """Record each part, write the manifest, and remove what is beyond the number that is kept."""
    if params.to not in ctx.targets.folders:
        hint = f"set targets.folders.{params.to} in the calendar: a folder that maintd may write to"
        raise TargetError(f'no folder "{params.to}" is configured', hint, cause="not_configured")
    kinds = (("docker", params.docker), ("postgres", params.postgres), ("redis", params.redis))
    engines, databases, servers = (tuple(ctx.targets.of(kind)) if names is None else names for kind, names in kinds)
    if not (engines or databases or servers or params.files or params.environment or params.secrets):
        raise TargetError("nothing to record is configured", "set targets.docker or files", cause="not_configured")
    ctx.limit("remove tag", params.max_tags)
    folder = ctx.target("folders", params.to).path
    require_folder(folder)
    if ctx.dry_run:
        make(ctx, params, folder, engines, databases, servers)
        return
    with isolate_errors(ctx, f"manifest in {params.to}", expected="written", role=Role.WORK), locked(folder):
        making.remove_leftovers(ctx, folder)
        if make(ctx, params, folder, engines, databases, servers):
            with isolate_errors(ctx, f"old manifests in {params.to}", expected="removed", role=Role.WORK):
                named = making.prune(ctx, folder, params.keep)
                for name in engines:
                    with isolate_errors(ctx, f"docker {name}: old tags", expected="removed", role=Role.WORK):
                        making.prune_tags(ctx, name, ctx.target("docker", name), params.keep_tags, named)


def make(
    ctx: Context,
    params: Params,
    folder: Path,
    engines: tuple[str, ...],
    databases: tuple[str, ...],
    servers: tuple[str, ...],
) -> bool:
    """Record and write; whether a manifest was written."""
    key = making.read_key(ctx, params.key, folder)
    maker = ManifestMaker(ctx, making.free_time(ctx, folder), key)
    for name in engines:
        with maker.part(f"docker {name}"):
            maker.add_engine(name, ctx.target("docker", name))
    for path in params.files:
        with maker.part(f"file {path}"):
            maker.add_file(path)
    for kind, paths in (("environment", params.environment), ("secrets", params.secrets)):
        for path in paths:
            with maker.part(f"{kind} {path}"):
                maker.add_keyed(kind, path)
    for name in databases:
        with maker.part(f"postgres {name}"):
            maker.add_postgres(name, params.schema_versions.get(name))
    for name in servers:
        with maker.part(f"redis {name}"):
            maker.add_redis(name)
    with ctx.phase("write the manifest"):
        found = making.write(maker, folder)
    hint = f"without {', '.join(maker.missing)}: see their checks" if maker.missing else ""
    ctx.check("parts missing in the manifest", len(maker.missing), at_most=0, hint=hint)
    if found is None:
        return False
    made_at = maker.made_at.isoformat()
    ctx.hand_over(HANDED, {"folder": params.to, "name": found.path.name, "sha256": found.sha256, "made_at": made_at})
    ctx.measure("rollback_manifest_timestamp", maker.made_at.timestamp(), "s")
    return True
