"""End the silences of this run, and prove with a test alert that notifications flow again.

Runbook: Emergency Procedures, Planned Maintenance Window

Ends what this run silenced, or the run that it resumes or undoes, and nothing else; also what was created again by
`window_watch`. The test alert is sent to Alertmanager, and must arrive at a webhook of this job, which listens on
`listen` for that time, within `group_wait` and a margin. It has a label of its own, so that it can be routed there and
nowhere else; how is in the hint of the check. Whether Prometheus reaches Alertmanager is a check of `alert_review`.
"""

from datetime import timedelta
from typing import Any

from pydantic import Field

from maintd.checks.alerts import flow, silencing
from maintd.checks.probes import isolate_errors
from maintd.clients import alertmanager
from maintd.clients.alertmanager import Alertmanager, Silence
from maintd.job import Context, Duration, JobParams, Role, job


class Params(JobParams):
    targets: tuple[str, ...] = ()
    """Names of Alertmanager targets; all by default."""
    prove: bool = True
    """Send a test alert afterwards."""
    listen: str | None = None
    """`HOST:PORT` that the webhook listens on while it waits: `0.0.0.0:9099` in a container whose port only
    Alertmanager reaches."""
    margin: Duration = timedelta(seconds=60)
    """How much longer than `group_wait` a notification may take."""
    created_by: str = Field(default="maintd", min_length=1)
    """Author of the silences, as in `alerts_silence`."""
    grace: Duration = timedelta(minutes=1)
    """A silence of an earlier run that is younger is left alone."""


@job(timeout="10m", mutates=True, repeatable=True, needs=("alertmanager",), reads_unfinished=True)
def run(ctx: Context, params: Params) -> None:
    """End the silences in each Alertmanager, then send a test alert to each."""
    known = silencing.records_in(ctx.handed(silencing.HANDED))
    chosen: dict[str, Any] = dict(ctx.chosen("alertmanager", params.targets))
    servers = [alertmanager.connect(target, name=name) for name, target in chosen.items()]
    # First of all, so that a watch under way does not renew what this job ends.
    known = {name: {**record, "state": silencing.ENDED} for name, record in known.items()}
    if known and not ctx.dry_run:
        ctx.hand_over(silencing.HANDED, known)
    for server in servers:
        check = f"{server.name}: silences of this run"
        with ctx.phase(f"end silences in {server.name}"), isolate_errors(ctx, check, expected="none", role=Role.WORK):
            end(ctx, params, server, known.get(server.name), check)
    for server in servers if params.prove else ():
        check = f"{server.name}: alerts flow"
        with ctx.phase(f"send a test alert to {server.name}"), isolate_errors(ctx, check, expected="a notification"):
            flow.prove(ctx, server, params.listen, params.margin)
        # A watch that was under way may have renewed what was ended above.
        with isolate_errors(ctx, f"{server.name}: silences created later", expected="none", role=Role.WORK):
            for silence in of_this_run(ctx, params, server, known.get(server.name)):
                silencing.end(ctx, server, silence, why="a watch renewed it")


def of_this_run(ctx: Context, params: Params, server: Alertmanager, record: dict[str, Any] | None) -> list[Silence]:
    """The silences of this run, or of the one that it undoes, in one Alertmanager. Raises TargetError."""
    tags = {str(run_id) for run_id in (ctx.run_id, ctx.undoes_run) if run_id}
    if record is None:
        return silencing.of_tags(server.silences(), tags, params.created_by)
    return silencing.of_tags(server.silences(), {*tags, record["tag"]}, record["by"])


def end(ctx: Context, params: Params, server: Alertmanager, record: dict[str, Any] | None, check: str) -> None:
    """End the silences of this run in one Alertmanager. Raises TargetError for one that stays active."""
    for silence in of_this_run(ctx, params, server, record):
        silencing.end(ctx, server, silence, why="the run no longer needs it")
    if not ctx.dry_run:
        left = len(of_this_run(ctx, params, server, record))
        ctx.check(check, left, equals=0, hint="end it by hand: amtool silence expire ID")
    silencing.end_left_behind(ctx, server, params.created_by, params.grace)
