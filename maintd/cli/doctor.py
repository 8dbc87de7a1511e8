"""`doctor`: what entries need, examined before they need it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from maintd.cli import completion
from maintd.cli.app import App, current_user, json_option
from maintd.errors import RefusedError, UnknownNameError

if TYPE_CHECKING:
    from maintd.model.evidence import Check
    from maintd.model.run import Run


@click.command("doctor")
@click.argument("entry", required=False, shell_complete=completion.names)
@json_option
@click.pass_obj
def doctor_command(app: App, entry: str | None, as_json: bool) -> int:
    """Examine whether entries have all that their jobs need, before they need it.

    Read-only, and not recorded: targets answer, queries can be planned on the server's version, rights are exercised
    without an effect, programs, keys and folders are there, clocks agree. Run it where the daemon runs, as its user.

    Exit code: 0 all that is required is there, 1 something is missing or could not be examined, or nothing of ENTRY
    runs, since it is not configured; 3 unknown entry. Without ENTRY, those that are not configured are only listed.

    Example: maintd doctor weekly-cleanup
    """
    from maintd.calendar import entry_for_job, load_configured
    from maintd.clock import SystemClock
    from maintd.config import logging
    from maintd.executor.foreground import run_here
    from maintd.model.job import JobDescription
    from maintd.operations.examination import calendar_for_jobs
    from maintd.present import exit_code_of
    from maintd.present.doctor import doctor_text

    settings = app.settings
    logging.configure(
        settings.model_copy(update={"log_level": "warning"}) if settings.log_level == "info" else settings
    )
    registry = app.registry()
    with registry.one_process():
        calendar = load_configured(settings, registry.jobs, registry.validate_all)
    if entry is not None and entry not in {known.name for known in calendar.entries}:
        raise UnknownNameError("entry", entry, [known.name for known in calendar.entries])
    job = registry.jobs["doctor"]
    if not isinstance(job, JobDescription):
        raise RefusedError(f'job "doctor" is broken: {job.error}', "see: maintd jobs")
    run = run_here(
        entry_for_job(job, {"entries": [entry]} if entry is not None else {}),
        settings=settings,
        targets=calendar.targets.merged(settings.targets),
        jobs=registry.jobs,
        store=None,
        clock=SystemClock(),
        params={},
        secrets=calendar.secrets,
        calendar=lambda: calendar_for_jobs(calendar, registry.jobs, settings),
        dry_run=True,
        requested_by=current_user(),
        why="",
        on_report=lambda step, attempt, item: None,
    )
    if as_json:
        app.report_json(
            {
                "state": run.state.value,
                "reason": run.reason,
                "checks": [check.model_dump(mode="json", exclude={"type"}) for check in _checks(run)],
            }
        )
    else:
        app.report(doctor_text(_checks(run), run, **app.terminal))
    return exit_code_of(run.state)


def _checks(run: Run) -> list[Check]:
    return [check for step in run.steps for attempt in step.attempts[-1:] for check in attempt.checks]
