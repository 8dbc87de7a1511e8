"""`jobs` and `jobs show NAME`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from maintd.cli import completion
from maintd.cli.app import App, json_option
from maintd.errors import DaemonUnavailableError
from maintd.model.job import BrokenJob, JobDescription
from maintd.present import job_text, jobs_text


@click.group("jobs", invoke_without_command=True)
@json_option
@click.pass_context
def jobs_command(ctx: click.Context, as_json: bool) -> None:
    """List the jobs, or show one with its params."""
    if ctx.invoked_subcommand is not None:
        return
    app: App = ctx.obj
    found = _jobs(app)
    if as_json:
        app.out_json({"jobs": [job.model_dump(mode="json") for job in found]})
    else:
        app.out(jobs_text(found, **app.terminal))


@jobs_command.command("show")
@click.argument("name", shell_complete=completion.jobs)
@json_option
@click.pass_obj
def show(app: App, name: str, as_json: bool) -> int:
    """Show a job: what it does, its effects and limits, its params with types and defaults."""
    from maintd.errors import JobError, UnknownNameError

    known = {job.name: job for job in _jobs(app)}
    if name not in known:
        raise UnknownNameError("job", name, known)
    found = known[name]
    if as_json:
        app.out_json(found.model_dump(mode="json"))
    else:
        app.out(job_text(found, **app.terminal))
    return JobError.exit_code if isinstance(found, BrokenJob) else 0


def _jobs(app: App) -> Sequence[JobDescription | BrokenJob]:
    """The daemon's jobs; without a daemon those that this process finds. Needs neither store nor calendar."""
    try:
        return app.daemon.jobs()
    except DaemonUnavailableError:
        if app.remote is not None:
            raise
        return list(app.registry().jobs.values())
