"""Silence particular alerts while a run works on what they watch, for a short time that is renewed.

Runbook: Emergency Procedures, Planned Maintenance Window

A matcher that would hide nearly everything is refused, and so is one that would hide the canary, an alert that must be
seen in any case. The silence is read back; it ends by itself after `lasts`, unless `window_watch` renews it while the
run has not ended, so that none is left by a run that was killed. Silences of earlier runs that are over are ended.
"""

from datetime import timedelta
from typing import Any, Self

from pydantic import Field, model_validator

from maintd.checks.alerts import silencing
from maintd.checks.probes import isolate_errors
from maintd.clients import alertmanager
from maintd.clients.alertmanager import Alertmanager
from maintd.job import Context, Duration, JobParams, Role, job


class Params(JobParams):
    targets: tuple[str, ...] = ()
    """Names of Alertmanager targets; all by default."""
    matchers: tuple[str, ...] = Field(min_length=1)
    """Which alerts, all of: ['service=~"orders|quotes"']."""
    canary: dict[str, str] = Field(default={"alertname": "Watchdog"}, min_length=1)
    """Labels of an alert that is never hidden, best of one that always fires."""
    lasts: Duration = timedelta(minutes=15)
    """The silence ends after this time unless it is renewed, at most 2h."""
    reason: str = Field(default="maintenance", max_length=200)
    """The comment of the silence, after the number of the run."""
    created_by: str = Field(default="maintd", min_length=1)
    """Author of the silence. Give each maintd a name of its own where several use one Alertmanager."""
    max_hidden: int = Field(default=50, ge=0)
    """Alerts that the silence may hide at once; more are taken for a mistake, and the silence is ended again."""
    grace: Duration = timedelta(minutes=1)
    """A silence of an earlier run that is younger is left alone."""

    @model_validator(mode="after")
    def _check_matchers(self) -> Self:
        if not timedelta(seconds=5) <= self.lasts <= silencing.LONGEST:
            raise ValueError("lasts: give 5s to 2h; window_watch renews the silence while the run has not ended")
        silencing.require_narrow(parsed(self), self.canary)
        return self


def parsed(params: Params) -> list[dict[str, Any]]:
    """The matchers as Alertmanager's API takes them."""
    return [silencing.parse_matcher(text) for text in params.matchers]


@job(timeout="5m", mutates=True, repeatable=True, needs=("alertmanager",), reads_unfinished=True)
def run(ctx: Context, params: Params) -> None:
    """Create or renew the silence in each Alertmanager."""
    known = silencing.records_in(ctx.handed(silencing.HANDED))
    chosen: dict[str, Any] = dict(ctx.chosen("alertmanager", params.targets))
    for name, target in chosen.items():
        check = f"{name}: silenced"
        server = alertmanager.connect(target, name=name)
        with ctx.phase(f"silence alerts in {name}"), isolate_errors(ctx, check, role=Role.WORK):
            silence(ctx, params, known, server, check)
        with isolate_errors(ctx, f"{name}: silences of earlier runs"):
            silencing.end_left_behind(ctx, server, params.created_by, params.grace)


def silence(ctx: Context, params: Params, known: dict[str, dict[str, Any]], server: Alertmanager, check: str) -> None:
    """Silence in one Alertmanager. Raises TargetError unless the silence is active afterwards."""
    record = silencing.new_record(ctx, parsed(params), params.lasts, params.created_by)
    before = known.get(server.name)
    if before is not None and before["state"] == silencing.SILENCED and before["matchers"] == record["matchers"]:
        record["tag"] = before["tag"]  # of an earlier attempt, or of the run that this one resumes
    known[server.name] = record
    if not ctx.dry_run:
        ctx.hand_over(silencing.HANDED, dict(known))
    found = silencing.keep(ctx, server, record, f"{ctx.entry}: {params.reason}")
    if found is None:
        return
    hidden = silencing.hidden_by(found, server)
    for labels in hidden[: params.max_hidden]:
        ctx.log(f"{server.name}: hides {dict(labels)}")
    canary = sum(params.canary.items() <= dict(labels).items() for labels in hidden)
    ctx.check(f"{server.name}: canary alerts hidden", canary, equals=0, hint="narrow the matchers")
    hint = "narrow the matchers, or raise max_hidden"
    ctx.check(f"{server.name}: alerts hidden", len(hidden), at_most=params.max_hidden, hint=hint)
    if canary or len(hidden) > params.max_hidden:
        known[server.name] = {**record, "state": silencing.ENDED}
        ctx.hand_over(silencing.HANDED, dict(known))
        silencing.end(ctx, server, found, why="it hides too much")
        return
    ctx.passed(check, f"until {found.ends_at:%H:%M:%S} UTC", expected="an active silence")
