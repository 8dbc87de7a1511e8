"""Rotate the secrets of a stack one at a time, see the new value accepted and the old one refused, or go back.

Runbook: Monthly Maintenance, Security Review, step 2 "Secrets Rotation"

Only what the target calls `generated` gets a new value; external secrets are only reminded of by their age, and never
written. Before the first change the folder is encrypted to age recipients. The present value of a secret is tried, a
new one is set at its server, the file is written in place, and the services that read it are restarted one at a time.
Then the new value must be accepted, and the old one refused; else the old one is brought back everywhere. Each step is
written down before it is done, so that the next run continues what was killed. No value is in SQL, a log or a record:
servers get verifiers and hashes, evidence has keyed fingerprints. The files' ages, modes and contents are checked.
"""

from datetime import timedelta

from pydantic import Field

from maintd.checks.probes import isolate_errors
from maintd.checks.requirements.jobs.security import secrets_rotate as requirements
from maintd.checks.secrets.consumers import Consumers
from maintd.checks.secrets.folder import SecretsFolder
from maintd.checks.services.rollout import OwnPlace, RestartScope
from maintd.job import Context, Duration, JobParams, Role, job


class Params(RestartScope, JobParams):
    """Those of a rotation; the others are those of a restart."""

    targets: tuple[str, ...] = ()
    """Names of secrets targets; all by default."""
    rotate: bool = True
    """Make new values. Without it, files are checked, and what is under way is continued."""
    only: tuple[str, ...] = ()
    """Names of the secrets to rotate; by default all that maintd generates."""
    min_age: Duration = timedelta(days=25)
    """Leave secrets as they are that are younger. `0s` to rotate at once."""
    keep: int = Field(default=10, ge=1)
    """Encrypted backups of the folder that are kept."""
    calendar: OwnPlace = OwnPlace()
    """Set by maintd: where its store is."""


@job(
    timeout="1h",
    mutates=True,
    locks={"secrets": "exclusive", "docker": "exclusive", "stack": "exclusive"},
    needs=("secrets",),
    requires=requirements,
    reads_calendar=True,
    admin_params=True,  # they name a program to run, and which secrets change
)
def run(ctx: Context, params: Params) -> None:
    """Rotate what is due in each folder, then check all files."""
    with Consumers(ctx, params, params.calendar.store) as consumers:
        for name in ctx.chosen("secrets", params.targets):
            with isolate_errors(ctx, f"folder {name}", expected="usable", role=Role.WORK):
                folder = SecretsFolder.of(ctx, name, consumers, params.keep)
                with ctx.phase(f"rotate secrets in {name}"):
                    folder.rotate(params.only, params.min_age, new=params.rotate)
                with ctx.phase(f"check the files in {name}"):
                    folder.check()
