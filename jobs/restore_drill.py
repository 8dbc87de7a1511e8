"""Restore the newest backup into scratch servers, prove what was restored, and measure how long it took.

Runbook: Quarterly Maintenance, Infrastructure Review, step 4 "Disaster Recovery Testing"

The newest good set of the job `backup` is restored as a person would do it in a disaster: its sums are compared,
Postgres is restored into a cluster of its own with its roles, Redis into a server of its own, folders are unpacked.
Then tables, rows, content, schema and keys are compared with the manifest, which has them from the snapshot of the
dump; amcheck reads every table and index; queries of the application have their expected values. A base backup is
recovered by a server of its own; it has the identifier of production, so that the kernel shows which process it is.
Secrets are decrypted in memory where an identity is configured. Recovery time and recovery point are measured against
their goals and against former drills. Neither the backups nor the live servers are changed: no server of a drill has a
port, and before anything is written the cluster must show that it is none of production's. The scratch folder is
deleted at the end. Dumps, snapshots and archives of other programs are restored too; they have no manifest, so that
what they are compared with is unknown. Not restored: base backups of other programs.
"""

import json
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

from pydantic import Field

from maintd.checks.backup_sets.making import reporter, require_folder
from maintd.checks.backups.keys import Keys, load_identities, open_gpg
from maintd.checks.probes import isolate_errors
from maintd.checks.requirements.jobs.backups import restore_drill as requirements
from maintd.checks.restore.databases import Query
from maintd.checks.restore.drill import Drill, Options, space_needed
from maintd.checks.restore.objectives import RESTORED, Stopwatch, loss_criteria, time_criteria
from maintd.checks.restore.scratch import require_space, scratch_folder
from maintd.checks.restore.sources import NEWEST, Source, choose, gap_between_sets, verify_files
from maintd.job import CheckStatus, Context, Duration, JobParams, Size, TargetError, job


class Params(JobParams):
    folder: str = "backup_sets"
    """Folder target with the sets of the job `backup`, or with backups of other programs."""
    choose: str = NEWEST
    """`newest`: the newest good set; `older`: one of the others, another one each day; or the name of a set."""
    files: tuple[str, ...] = ()
    """Patterns of files of other programs, whose newest are restored instead of a set; all, where there is no set."""
    scratch: str | None = None
    """Folder target to restore into, with enough free space; default: the work folder of this attempt."""
    min_free: Size = 2**30
    """Space on the disk of the scratch folder that stays free."""
    bin_dir: Path | None = None
    """Folder with Postgres' programs, those of the server too; default: that of the target, PATH, Debian's folders."""
    run_as: str = "postgres"
    """User of the scratch cluster where maintd runs as root, as which Postgres refuses to run."""
    redis_server: Path = Path("redis-server")
    """Program that loads snapshots: redis-server or valkey-server, of the version that was backed up or later."""
    jobs: int = Field(default=2, ge=1, le=64)
    """Sessions of pg_restore at the same time."""
    amcheck: bool = True
    """Check every restored table and index for damage."""
    queries: dict[str, Query] = {}
    """Queries of the application, with what is expected of their one value."""
    identity: Path | None = None
    """age key file for encrypted parts: the one that is kept for a disaster, where it may be on this machine."""
    gpg_key: Path | None = None
    """File with a secret key, written by `gpg --export-secret-keys`, for files that gpg encrypted."""
    gpg_passphrase: Path | None = None
    """File with the passphrase of `gpg_key`, or of files that were encrypted by `gpg --symmetric`."""
    rpo: Duration = timedelta(hours=26)
    """Goal of the recovery point: a newest backup that is older fails, a longer gap between backups warns."""
    gaps_within: Duration = timedelta(days=8)
    """Time before now in which gaps between good sets count."""
    rto: Duration = timedelta(hours=1)
    """Goal of the recovery time: a restore that takes longer fails."""
    max_slowdown: float = Field(default=2.0, gt=1)
    """A recovery time above this many times the median of former drills warns."""


@job(
    timeout="4h",
    repeatable=True,
    locks={"backups": "shared", "restore_drill": "exclusive"},
    requires=requirements,
    admin_params=True,  # they name programs, a key, and what is executed as the scratch server's superuser
)
def run(ctx: Context, params: Params) -> None:
    """Choose what to restore, restore it into a scratch folder, and compare times with their goals."""
    if params.folder not in ctx.targets.folders:
        hint = f"set targets.folders.{params.folder} in the calendar to the folder that the job backup writes to"
        raise TargetError(f'no folder "{params.folder}" is configured', hint, cause="not_configured")
    folder = ctx.target("folders", params.folder).path
    with isolate_errors(ctx, "restore drill", expected="done"):
        require_folder(folder)
        source = choose(ctx, params.folder, folder, params.choose, params.files)
        ctx.log(f"restores {source.name} of {source.taken_at:%Y-%m-%d %H:%M:%S}Z")
        report_loss(ctx, params, folder, source)
        drill(ctx, params, source)


def drill(ctx: Context, params: Params, source: Source) -> None:
    """Restore the source. Raises TargetError when nothing of it can be restored."""
    watch = Stopwatch()
    needed = space_needed(source)
    parent = ctx.target("folders", params.scratch).path if params.scratch is not None else None
    if parent is not None:
        require_folder(parent)
    with ExitStack() as stack, scratch_folder(ctx, parent, needed) as scratch:
        if scratch is None:
            ctx.log(f"would restore {source.name}, and needs {needed} bytes for it")
            return
        require_space(ctx, scratch, needed, params.min_free)
        identities = load_identities(ctx, params.identity) if params.identity is not None else None
        gpg = open_gpg(ctx, stack, params.gpg_key, params.gpg_passphrase)
        keys = Keys(identities, gpg, gpg_configured=not (params.gpg_key is None and params.gpg_passphrase is None))
        options = Options(
            params.bin_dir,
            params.run_as,
            params.redis_server,
            params.jobs,
            params.amcheck,
            params.queries,
            keys,
        )
        with watch.phase(ctx, "compare the sums"):
            source = verify_files(ctx, source, reporter(ctx))
        found = Drill(ctx, source, scratch, options, watch)
        found.restore_all()
    report_time(ctx, params, found)
    record = {"source": source.name, "taken_at": source.taken_at.isoformat(), **found.record}
    record |= {"recovery_seconds": watch.recovery, "proof_seconds": watch.proof, "not_restored": found.incomplete}
    ctx.save("restore-drill.json", json.dumps(record, indent=1, default=str), "application/json")
    ctx.measure("restore_bytes", source.size_bytes, "B")
    proven = ctx.worst in (CheckStatus.OK, CheckStatus.WARN)
    ctx.measure("restore_drill_success", int(proven))
    if proven:
        ctx.measure("restore_drill_last_success_timestamp", ctx.now().timestamp(), "s")
    if proven and not found.incomplete and not ctx.dry_run:
        ctx.hand_over(RESTORED, {"source": source.name, "seconds": sum(watch.recovery.values())})


def report_loss(ctx: Context, params: Params, folder: Path, source: Source) -> None:
    """Report what a failure now would lose."""
    age = max(ctx.now() - source.taken_at, timedelta(0))
    newest = params.choose == NEWEST
    gap = gap_between_sets(folder, ctx.now(), params.gaps_within) if source.manifest is not None and newest else None
    ctx.report(loss_criteria(age if newest else None, gap, params.rpo))
    if newest:
        ctx.measure("restore_rpo_seconds", age.total_seconds(), "s")
    if gap is not None:
        ctx.measure("restore_rpo_gap_seconds", gap.total_seconds(), "s")


def report_time(ctx: Context, params: Params, drill: Drill) -> None:
    """Report the recovery time; of a part that was not restored it is not known."""
    taken = drill.watch.report(ctx)
    if drill.incomplete:
        cause = f"not restored: {', '.join(drill.incomplete[:5])}"
        ctx.unknown("recovery time", cause, expected=f"at most {params.rto}", hint="see the checks of these parts")
        return
    former = [point.value for point in ctx.series("restore_rto_seconds")]
    ctx.report(time_criteria(taken, params.rto, former, params.max_slowdown))
    ctx.measure("restore_rto_seconds", taken.total_seconds(), "s")
