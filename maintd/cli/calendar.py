"""`validate`, `reload`, `pause` and `unpause`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from maintd.cli import completion
from maintd.cli.app import App, json_option, whoami
from maintd.errors import CalendarError, UsageError

if TYPE_CHECKING:
    from maintd.calendar import Calendar
    from maintd.model.entry import Entry


@click.command("validate")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@json_option
@click.pass_obj
def validate_command(app: App, file: Path | None, as_json: bool) -> int:
    """Check a calendar.

    By default the one that the settings name. Every problem is told with file:line:column; a good calendar is told in
    plain English with what is due next.

    Exit code 2 when something is wrong, also when a job module cannot be used.
    """
    from maintd.calendar import calendar_path, load_calendar
    from maintd.config import sources
    from maintd.job.registry import JobRegistry
    from maintd.model.job import BrokenJob

    settings = app.settings
    for line in sources.warnings():
        app.note(line)
    registry = JobRegistry(settings.job_dirs, settings.job_cache_file)
    path = file or calendar_path(settings)
    with registry.one_process():
        calendar = load_calendar(path, registry.jobs, registry.validate_all)
        problems = [job.error for job in registry.jobs.values() if isinstance(job, BrokenJob)]
    problems += [f'entry "{name}" is disabled: {why}' for name, why in calendar.disabled.items()]
    if as_json:
        error = CalendarError(problems).as_json() if problems else {}
        app.out_json({**error, **_as_json(calendar, problems, app)})
    else:
        _print(app, calendar, problems)
    return CalendarError.exit_code if problems else 0


def _as_json(calendar: Calendar, problems: list[str], app: App) -> dict[str, Any]:
    return {
        "ok": not problems,
        "calendar": str(calendar.path),
        "timezone": calendar.timezone,
        "problems": problems,
        "warnings": list(calendar.warnings),
        "entries": [_entry_as_json(entry, app) for entry in calendar.entries],
    }


def _entry_as_json(entry: Entry, app: App) -> dict[str, Any]:
    from maintd.units import utc_text

    schedule, due, local = _told(entry, app)
    return {
        "entry": entry.name,
        "title": entry.title,
        "enabled": entry.enabled,
        "schedule": schedule,
        "next_due_at": None if due is None else utc_text(due),
        "next_due_local": local,
        "jobs": list(entry.jobs),
    }


def _told(entry: Entry, app: App) -> tuple[str, Any, str]:
    from maintd.schedule import compile_rule, describe, local_text

    if entry.rule is None:
        return "only by hand", None, ""
    due = compile_rule(entry.rule).next_after(app.now())
    return describe(entry.rule), due, "" if due is None else local_text(due, entry.rule.timezone)


def _print(app: App, calendar: Calendar, problems: list[str]) -> None:
    from maintd.present import from_now, utc_minute
    from maintd.present.text import Ink, Tone, plural, wrapped

    ink, lines = Ink(app.colour), []
    for entry in calendar.entries:
        schedule, due, local = _told(entry, app)
        off = "" if entry.enabled else " (not enabled)"
        lines += [f"{ink(entry.name, Tone.STRONG)}{off}", *wrapped(schedule, app.width, "  ", "  ")]
        if due is not None:
            utc = "" if local.endswith(" UTC") else f" = {utc_minute(due)}"
            lines += wrapped(f"next due {local}{utc}, {from_now(due, app.now())}", app.width, "  ", "    ")
        lines += wrapped("jobs: " + ", ".join(entry.jobs), app.width, "  ", "    ")
    app.out("\n".join(lines))
    for warning in calendar.warnings:
        app.note("\n".join(wrapped(f"warning: {warning}", app.width, "", "  ")))
    for problem in problems:
        app.note(problem)
    verdict = f"{plural(len(problems), 'problem')}" if problems else "no problem"
    app.note(f"{calendar.path}: {plural(len(calendar.entries), 'entry')}, time zone {calendar.timezone}, {verdict}")


@click.command("reload")
@json_option
@click.pass_obj
def reload_command(app: App, as_json: bool) -> int:
    """Read the calendar and the jobs again.

    A calendar with an error leaves the one in force as it is; exit code 2.
    """
    said = app.daemon.post("/reload", {})
    if as_json:
        app.out_json(said)
    elif said["ok"]:
        app.out("\n".join(said["changes"]) or "nothing changed")
    else:
        app.note("\n".join([*said["problems"], "the calendar that was in force stays so"]))
    return 0 if said["ok"] else CalendarError.exit_code


@click.command("pause")
@click.argument("name", shell_complete=completion.entries)
@click.option("--why", required=True, help="The reason; status shows it.")
@click.option("--until", metavar="WHEN", help="2026-12-06T02:00Z; without it until somebody unpauses it.")
@click.option("--for", "lasting", metavar="DURATION", help="How long, for example 2h or 3d.")
@json_option
@click.pass_obj
def pause_command(app: App, name: str, why: str, until: str | None, lasting: str | None, as_json: bool) -> None:
    """Stop an entry from falling due. What would have run is recorded as skipped."""
    from maintd.cli import arguments
    from maintd.units import utc_text

    if until is not None and lasting is not None:
        raise UsageError("--until and --for say the same thing twice", "give one of them")
    body: dict[str, Any] = {"why": why, "by": whoami()}
    if lasting is not None:
        body["until"] = utc_text(app.now() + arguments.lasting(lasting))
    elif until is not None:
        body["until"] = arguments.instant(until, app.now())
    said = app.daemon.post(f"/entries/{quote(name, safe='')}/pause", body)
    if as_json:
        app.out_json(said)
        return
    from maintd.model.entry import Pause
    from maintd.present import utc_minute

    paused = Pause.model_validate(said)
    until_text = f"until somebody types: maintd unpause {name}" if paused.until is None else utc_minute(paused.until)
    app.out(f"{name} is paused {until_text if paused.until is None else f'until {until_text}'}")


@click.command("unpause")
@click.argument("name", shell_complete=completion.entries)
@json_option
@click.pass_obj
def unpause_command(app: App, name: str, as_json: bool) -> None:
    """Let a paused entry fall due again."""
    said = app.daemon.post(f"/entries/{quote(name, safe='')}/unpause", {"by": whoami()})
    if as_json:
        app.out_json(said)
    else:
        app.out(f"{name} goes on" if said["unpaused"] else f"{name} was not paused")
