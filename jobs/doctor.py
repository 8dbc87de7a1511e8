"""Examine, before it is needed, whether the entries of the calendar have all that their jobs need.

Runbook: Planned Maintenance Window, Pre-Maintenance Checklist

Exercises what each job declares, without an effect: targets answer, queries can be planned on this server's version,
tables may be maintained, commands may be run, PromQL has series, programs, keys and folders are there, clocks agree.
Also whether channels of notices and monitors of pings can be reached, whether the store is outside of the servers that
it maintains, and whether the end-of-life data is fresh. Of a job that declares only kinds of targets, nothing is
examined but that they answer.
"""

from datetime import timedelta

from pydantic import BaseModel

from maintd.checks.docker.end_of_life import age_criterion
from maintd.checks.docker.end_of_life_table import AS_OF
from maintd.checks.requirements.channels import ChannelToExamine, report_channels
from maintd.checks.requirements.examine import ExaminedStep, collect_needs, examine
from maintd.checks.requirements.store_place import StorePlace, report_store
from maintd.job import Context, Duration, JobParams, UnknownNameError, job


class Subject(BaseModel):
    """What maintd hands to the job: the steps and channels of its calendar, and where its store is."""

    steps: tuple[ExaminedStep, ...] = ()
    store: StorePlace | None = None
    channels: tuple[ChannelToExamine, ...] = ()


class Params(JobParams):
    entries: tuple[str, ...] = ()
    """Names of entries; default: all of the calendar."""
    time_limit: Duration = timedelta(seconds=8)
    """Time for the examination of one target; all are examined at once."""
    end_of_life_max_age: Duration = timedelta(days=365)
    """Warn when the built-in table of end-of-life dates is older."""
    calendar: Subject = Subject()
    """Set by maintd: the steps of the calendar as it is active."""


@job(timeout="5m", repeatable=True, reads_calendar=True)
def run(ctx: Context, params: Params) -> None:
    known = {step.entry for step in params.calendar.steps}
    for name in params.entries:
        if name not in known:
            raise UnknownNameError("entry", name, sorted(known))
    steps = [step for step in params.calendar.steps if not params.entries or step.entry in params.entries]
    with ctx.phase("collect what the jobs need"):
        if not steps:
            ctx.unknown("steps of the calendar", "empty: no enabled entry was handed over", expected="at least one")
        needs = collect_needs(ctx, steps)
        count = sum(len(wanted.users) for wanted in needs.places.values())
        ctx.log(f"{len(steps)} steps need {count} things of {len(needs.places)} targets")
    with ctx.phase("exercise it"):
        examine(ctx, needs, params.time_limit, named=bool(params.entries))
    with ctx.phase("check maintd itself"):
        report_channels(ctx, params.calendar.channels if not params.entries else (), params.time_limit)
        if params.calendar.store is not None:
            report_store(ctx, params.calendar.store)
        criterion = age_criterion(AS_OF.keys(), ctx.now().date(), params.end_of_life_max_age)
        ctx.report([criterion] if criterion is not None else [])
