"""`jobs` and `jobs show NAME`."""

from __future__ import annotations

from typing import Any

import click
from pydantic import TypeAdapter

from maintd.cli import completion
from maintd.cli.app import App, json_option
from maintd.errors import DaemonUnavailableError
from maintd.model.job import BrokenJob, JobDescription
from maintd.present import job_text, jobs_text

RegisteredJob = JobDescription | BrokenJob
_KNOWN: TypeAdapter[RegisteredJob] = TypeAdapter(RegisteredJob)


@click.group("jobs", invoke_without_command=True)
@json_option
@click.pass_context
def jobs_command(ctx: click.Context, as_json: bool) -> None:
    """The jobs there are. `jobs show NAME`: one with its params."""
    if ctx.invoked_subcommand is not None:
        return
    app: App = ctx.obj
    said = _all(app)
    if as_json:
        app.out_json({"jobs": said})
    else:
        app.out(jobs_text([_KNOWN.validate_python(job) for job in said], **app.style))


@jobs_command.command("show")
@click.argument("name", shell_complete=completion.jobs)
@json_option
@click.pass_obj
def show(app: App, name: str, as_json: bool) -> int:
    """One job: what it does, how it is treated, its params with types and defaults."""
    from maintd.errors import JobError, UnknownNameError

    known = {job["name"]: job for job in _all(app)}
    if name not in known:
        raise UnknownNameError("job", name, known)
    said = known[name]
    if as_json:
        app.out_json(said)
    else:
        app.out(job_text(_KNOWN.validate_python(said), **app.style))
    return JobError.exit_code if "error" in said else 0


def _all(app: App) -> list[dict[str, Any]]:
    """As the daemon has them; without one, as this process finds them. Neither store nor calendar is needed."""
    try:
        said: list[dict[str, Any]] = app.daemon.get("/jobs")["jobs"]
        return said
    except DaemonUnavailableError:
        from maintd.job.registry import JobRegistry

        registry = JobRegistry(app.settings.job_dirs, app.settings.job_cache_file)
        return [job.model_dump(mode="json") for job in registry.jobs.values()]
