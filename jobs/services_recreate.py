"""Replace the containers of services by ones from given images, one at a time, and swap back what is not healthy.

Runbook: Planned Maintenance Window, Maintenance Steps; Emergency Rollback

Images are named in the params, or are those of a rollback manifest; they must be on the engine. A new container gets
the configuration, networks, mounts, volumes and labels of the old one. The old one is stopped, renamed and kept until
the new one is healthy, then removed; else the new one is removed, and the old one runs again. What a run that was
killed has left is found by these names: the next run finishes it if the new container is healthy, or swaps back, and
reports it. With `back` it swaps back in any case, and restores the images that this run has replaced: as an undo.
The order, the drain, the health gate and what is never stopped are those of `services_restart`.
"""

from maintd.checks.requirements.jobs.windows import services_recreate as requirements
from maintd.checks.services.recreate import RecreateScope, replace_containers
from maintd.job import Context, JobParams, job


class Params(RecreateScope, JobParams):
    """Those of a replacement."""


@job(
    timeout="1h",
    mutates=True,
    locks={"docker": "exclusive", "stack": "exclusive"},
    needs=("docker",),
    requires=requirements,
    reads_calendar=True,
    admin_params=True,  # they name a program to run, and which image a service runs
)
def run(ctx: Context, params: Params) -> None:
    """End what was interrupted, find the images, then replace one container after the other."""
    replace_containers(ctx, params)
