"""`run NAME --here`: runs in the foreground, for when the daemon or its store is broken."""

from __future__ import annotations

from contextlib import suppress
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from maintd.cli import completion
from maintd.cli.app import App, current_user, json_option
from maintd.errors import CalendarError, MaintdError, RefusedError, StoreError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from maintd.calendar import Calendar
    from maintd.job.registry import JobRegistry
    from maintd.model.entry import Entry, Freeze
    from maintd.model.target import Targets
    from maintd.store import Store


@click.command("run")
@click.argument("name", shell_complete=completion.names)
@click.option("--here", is_flag=True, help="Run in this process; required, since `trigger` runs it in the daemon.")
@click.option(
    "-p",
    "pairs",
    multiple=True,
    metavar="PARAM=VALUE",
    help="Set a param; repeatable. For an entry with several steps: STEP.PARAM=VALUE.",
)
@click.option("--why", default="", help="The reason; stored with the run.")
@click.option("--dry-run", is_flag=True, help="Make no changes; list those that it would make.")
@click.option("--emergency", is_flag=True, help="Also during a freeze; needs --why, and is shown with the run.")
@click.option("--no-store", is_flag=True, help="Do not record the run.")
@json_option
@click.pass_obj
def run_command(
    app: App,
    name: str,
    here: bool,
    pairs: tuple[str, ...],
    why: str,
    dry_run: bool,
    emergency: bool,
    no_store: bool,
    as_json: bool,
) -> int:
    """Run an entry or a job without a daemon.

    It runs in the foreground and is recorded if the store is writable. The exit code is that of the run, as with
    `trigger --wait`. Ctrl-C cancels the run.

    Example: maintd run backup_verify --here --no-store
    """
    if not here:
        raise UsageError("`run` needs --here", f"to run it in the daemon: maintd trigger {quote(name)} --wait")
    if emergency and not why.strip():
        raise UsageError("an emergency needs a reason", 'add for example --why "the disk is full"')
    from maintd.cli.arguments import params
    from maintd.clock import SystemClock
    from maintd.config import logging, sources
    from maintd.executor.foreground import run_here
    from maintd.present import exit_code_of, report_lines, run_text

    settings = app.settings
    logging.configure(
        settings.model_copy(update={"log_level": "warning"}) if settings.log_level == "info" else settings
    )
    for line in sources.warnings(app.flags):
        app.note(line)
    given = params(pairs)
    registry = app.registry()
    entry, targets, secrets, freezes = _entry(app, registry, name, given)
    store = None if no_store else _open(app)

    def print_report(step: str, attempt: int, item: object) -> None:
        if not as_json:
            for line in report_lines(step, attempt, item, **app.terminal):
                app.report(line)

    try:
        run = run_here(
            entry,
            settings=settings,
            targets=targets,
            jobs=registry.jobs,
            store=store,
            clock=SystemClock(),
            params=given,
            secrets=secrets,
            dry_run=dry_run,
            requested_by=current_user(),
            why=why,
            emergency=emergency,
            freezes=freezes,
            on_report=print_report,
        )
    finally:
        if store is not None:
            with suppress(StoreError):
                store.close()
    if as_json:
        app.report_json(run.model_dump(mode="json"))
    else:
        app.report("\n" + run_text(run, now=app.now(), **app.terminal))
    return exit_code_of(run.state)


def _open(app: App) -> Store | None:
    from maintd.clock import SystemClock
    from maintd.store import open_store

    settings = app.settings
    try:
        return open_store(settings.store, clock=SystemClock(), migrate=True, state_dir=settings.state_dir)
    except (StoreError, OSError) as error:
        app.note(f"the run is not recorded, because the store cannot be written: {error}")
        return None


def _entry(
    app: App, registry: JobRegistry, name: str, given: Mapping[str, Any]
) -> tuple[Entry, Targets, Mapping[str, str], Sequence[Freeze]]:
    """The entry, whose params are valid, the targets, and the calendar's secrets and freezes.

    With a broken calendar, only jobs are known.
    """
    from maintd.calendar import entry_for_job
    from maintd.model.job import BrokenJob, JobDescription
    from maintd.operations.params import with_params

    calendar = _calendar(app, registry)
    known = {entry.name: entry for entry in calendar.entries} if calendar is not None else {}
    entry = known.get(name)
    if entry is None:
        job = registry.jobs.get(name)
        if job is None:
            raise UnknownNameError("entry or job", name, [*known, *registry.jobs])
        if isinstance(job, BrokenJob):
            raise RefusedError(f'job "{name}" is broken: {job.error}', "fix the module")
        entry = entry_for_job(job, {})
    found = {step.job: registry.jobs.get(step.job) for step in entry.steps}
    jobs = {key: job for key, job in found.items() if isinstance(job, JobDescription)}
    steps = with_params(entry, given, jobs)
    problems = [
        f"{step.name}.{'.'.join(map(str, problem.location))}: {problem.message}"
        for step in steps
        if step.job
        for problem in registry.validate(step.job, step.params)
    ]
    if problems:
        raise UsageError("\n".join(problems), f"see: maintd jobs show {steps[0].job}")
    targets = app.settings.targets if calendar is None else calendar.targets.merged(app.settings.targets)
    if calendar is None:
        return entry, targets, {}, ()
    return entry, targets, calendar.secrets, calendar.freezes


def _calendar(app: App, registry: JobRegistry) -> Calendar | None:
    from maintd.calendar import load_configured

    try:
        with registry.one_process():
            return load_configured(app.settings, registry.jobs, registry.validate_all)
    except CalendarError as error:
        app.note(f"{error}\nthe calendar has errors; only jobs and the targets of the settings are available")
    except MaintdError as error:
        app.note(f"{error}; only jobs and the targets of the settings are available")
    return None
