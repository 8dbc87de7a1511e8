"""State what a restore of the newest backup would lose: what was written since, in tables, rows and WAL.

Runbook: Emergency Rollback

Before a person approves a rollback of data: the live tables are counted and hashed, and compared with the manifest of
the backup, which has the same from the dump's own snapshot. Equal rows and hashes in all tables prove that nothing was
written since. Otherwise the tables that differ are named, with the answers of the site's own queries, and how much WAL
the server has written, which is only a bound. What cannot be compared is stated as unknown. Read-only. The job
`rollback` restores the set that is stated here, and refuses when more was written after that.
"""

from maintd.checks.probes import isolate_errors
from maintd.checks.requirements.jobs.windows import rollback_loss as requirements
from maintd.checks.rollback import data
from maintd.job import Context, JobParams, job


class Params(JobParams):
    postgres: str | None = None
    """Name of the Postgres target; by default the only one, or `main`."""
    backups: str = "backup_sets"
    """Folder target with the sets of the job `backup`."""
    set: str = "newest"
    """The newest good set, or the name of one."""
    loss: dict[str, str] = {}
    """Queries of what was written since, by name: `{orders: "SELECT count(*) FROM orders WHERE ts > %(since)s"}`."""


@job(
    timeout="1h",
    repeatable=True,
    locks={"backups": "shared"},
    needs=("postgres", "folders"),
    requires=requirements,
)
def run(ctx: Context, params: Params) -> None:
    """Choose the set, and compare the live database with it."""
    data.require_sets(ctx, params.backups)
    with isolate_errors(ctx, "loss", expected="stated"):
        name, target = data.postgres_target(ctx, params.postgres)
        data.state_loss(ctx, name, target, params.backups, params.set, params.loss)
