"""`jobs` and `jobs show NAME`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from shlex import quote

import click

from maintd.cli import completion
from maintd.cli.app import App, json_option
from maintd.errors import DaemonUnavailableError, MaintdError
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
        raise with_own_jobs(app, UnknownNameError("job", name, known), name, known.values)
    found = known[name]
    if as_json:
        app.out_json(found.model_dump(mode="json"))
    else:
        app.out(job_text(found, **app.terminal))
    return JobError.exit_code if isinstance(found, BrokenJob) else 0


def with_own_jobs(
    app: App, error: MaintdError, name: str, known: Callable[[], Iterable[JobDescription | BrokenJob]]
) -> MaintdError:
    """The error that a daemon has no job of this name, with what to do where this command's own folders have it.

    known: returns the daemon's jobs; called only for a job that this command has.
    """
    if app.remote is not None or not app.daemon_answers:
        return error
    try:
        jobs = app.registry().jobs
        own = jobs.get(name)
    except MaintdError:  # its folders cannot be read: what the daemon answered is the error
        return error
    if own is None:
        return error
    folder = own.path.parent
    if any(job.path.parent == folder for job in known()):
        error.hint = f"{own.path} is newer than what the daemon has loaded; run: maintd reload"
    else:
        error.hint = (
            f"the daemon has other job folders than this shell, which finds {own.path}; "
            f"set MAINTD_JOBS_PATH={quote(app.settings.jobs_path)} for the daemon, and restart it"
        )
    return error


def _jobs(app: App) -> Sequence[JobDescription | BrokenJob]:
    """The daemon's jobs; without a daemon those that this process finds. Needs neither store nor calendar."""
    try:
        return app.daemon.jobs()
    except DaemonUnavailableError:
        if app.remote is not None:
            raise
        app.daemon_answers = False
        return list(app.registry().jobs.values())
