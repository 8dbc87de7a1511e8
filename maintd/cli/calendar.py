"""`validate`, `pause` and `unpause`: the calendar and its entries."""

from __future__ import annotations

from pathlib import Path
from shlex import quote as shell_quote
from typing import TYPE_CHECKING, Any

import click

from maintd.cli import completion
from maintd.cli.app import App, current_user, json_option
from maintd.errors import CalendarError

if TYPE_CHECKING:
    from maintd.calendar import Calendar
    from maintd.client import Client
    from maintd.model.entry import Entry, Pause
    from maintd.notify.channel_urls import ListedChannel


@click.command("validate")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@json_option
@click.pass_obj
def validate_command(app: App, file: Path | None, as_json: bool) -> int:
    """Check a calendar and print it in plain English.

    By default the calendar of the settings, with its overlay. Errors are printed with file:line:column. Channels are
    listed with the scheme of their URL, which is parsed where its secrets can be read; nothing is sent. See also:
    maintd doctor, and maintd notify test CHANNEL

    Exit code 2 if the calendar or a job module has an error.
    """
    from maintd.calendar import load_calendar, load_configured, overlay_beside
    from maintd.config import sources
    from maintd.model.job import BrokenJob
    from maintd.notify.channel_urls import listed_channels

    settings = app.settings
    for line in sources.warnings(app.flags):
        app.note(line)
    registry = app.registry()
    with registry.one_process():
        if file is None:
            calendar = load_configured(settings, registry.jobs, registry.validate_all)
        else:
            overlay = settings.calendar_overlay or overlay_beside(file)
            calendar = load_calendar(file, registry.jobs, registry.validate_all, overlay=overlay, setting="")
        problems = [job.error for job in registry.jobs.values() if isinstance(job, BrokenJob)]
    problems += [f'entry "{name}" cannot run: {why}' for name, why in calendar.broken.items()]
    channels = listed_channels(calendar.notify)
    places = calendar.channel_places
    problems += [f'{places[one.name]}: channel "{one.name}": {one.problem}' for one in channels if one.problem]
    if as_json:
        error = CalendarError(problems).as_json() if problems else {}
        app.out_json({**error, **_as_json(calendar, problems, channels, app)})
    else:
        _print(app, calendar, problems, channels)
    return CalendarError.exit_code if problems else 0


def _as_json(calendar: Calendar, problems: list[str], channels: list[ListedChannel], app: App) -> dict[str, Any]:
    return {
        "ok": not problems,
        "calendar": str(calendar.path),
        "overlay": None if calendar.overlay is None else str(calendar.overlay),
        "timezone": calendar.timezone,
        "problems": problems,
        "warnings": list(calendar.warnings),
        "entries": [_entry_as_json(entry, app) for entry in calendar.entries],
        "channels": [one.model_dump(mode="json") for one in channels],
    }


def _entry_as_json(entry: Entry, app: App) -> dict[str, Any]:
    from maintd.present.procedures import procedure_texts
    from maintd.units import utc_text

    schedule, due, local = _schedule(entry, app)
    return {
        "entry": entry.name,
        "title": entry.title,
        "enabled": entry.enabled,
        "schedule": schedule,
        "next_due_at": None if due is None else utc_text(due),
        "next_due_local": local,
        "jobs": list(entry.jobs),
        "procedure": list(procedure_texts(entry)),
        "overlay": list(entry.overlay),
    }


def _schedule(entry: Entry, app: App) -> tuple[str, Any, str]:
    from maintd.schedule import compile_rule, describe, local_text

    if entry.rule is None:
        return describe(None), None, ""
    due = compile_rule(entry.rule).next_after(app.now()) if entry.enabled else None
    return describe(entry.rule), due, "" if due is None else local_text(due, entry.rule.timezone)


def _print(app: App, calendar: Calendar, problems: list[str], channels: list[ListedChannel]) -> None:
    from maintd.present import from_now, utc_minute
    from maintd.present.procedures import procedure_texts
    from maintd.present.text import Style, Tone, wrap
    from maintd.units import plural

    style, lines = Style(app.colour), []
    for entry in calendar.entries:
        schedule, due, local = _schedule(entry, app)
        off = "" if entry.enabled else " (disabled)"
        lines += [f"{style(entry.name, Tone.STRONG)}{off}", *wrap(schedule, app.width, "  ", "  ")]
        if due is not None:
            utc = "" if local.endswith(" UTC") else f" = {utc_minute(due)}"
            lines += wrap(f"next due {local}{utc}, {from_now(due, app.now())}", app.width, "  ", "    ")
        lines += wrap("jobs: " + ", ".join(entry.jobs), app.width, "  ", "    ")
        for text in procedure_texts(entry):
            lines += wrap(text, app.width, "  ", "    ")
        for text in entry.overlay:
            lines += wrap(f"overlay: {text}", app.width, "  ", "    ")
    if channels:
        lines.append(style("channels", Tone.STRONG))
        for one in channels:
            lines += wrap(_channel_text(one), app.width, "  ", "    ")
        lines += wrap(
            f"send a test with: maintd notify test {shell_quote(channels[0].name)}", app.width, "  → ", "    "
        )
    app.out("\n".join(lines))
    for warning in calendar.warnings:
        app.note("\n".join(wrap(f"warning: {warning}", app.width, "", "  ")))
    for problem in problems:
        app.note(problem)
    result = plural(len(problems), "error") if problems else "no errors"
    app.note(f"{calendar.place}: {plural(len(calendar.entries), 'entry')}, time zone {calendar.timezone}, {result}")


def _channel_text(channel: ListedChannel) -> str:
    """`mail: mailtos, by apprise`; never the URL."""
    scheme = channel.scheme or "the URL is a reference"
    how = {"apprise": f"{scheme}, by apprise", "webhook": f"webhook, {scheme}", "ping": f"monitor, {scheme}"}
    text = f"{channel.name}: {how[channel.kind]}"
    if channel.unresolved:
        return f"{text}; not parsed: {channel.unresolved}"
    return f"{text}; cannot be parsed" if channel.problem else text


@click.command("pause")
@click.argument("name", shell_complete=completion.entries)
@click.option("--why", required=True, help="The reason; shown in the status.")
@click.option("--until", metavar="WHEN", help="End of the pause, for example 2026-12-06T02:00Z.")
@click.option("--for", "lasting", metavar="DURATION", help="Duration of the pause: 2h, 3d.")
@json_option
@click.pass_obj
def pause_command(app: App, name: str, why: str, until: str | None, lasting: str | None, as_json: bool) -> None:
    """Pause an entry; its due times are recorded as skipped.

    Example: maintd pause weekly-cleanup --why "disk is being replaced" --for 2d
    """
    from maintd.cli import arguments

    ends_at = arguments.end_of(app.now(), until, lasting)

    def pause(client: Client) -> Pause:
        return client.pause(name, why, until=ends_at, by=current_user())

    if as_json:
        app.out_json(app.daemon.json_of(pause))
        return
    from maintd.present import utc_minute

    paused = pause(app.daemon)
    hint = f"; end the pause with: maintd unpause {shell_quote(name)}"
    app.out(f"{name} is paused{hint if paused.until is None else f' until {utc_minute(paused.until)}'}")


@click.command("unpause")
@click.argument("name", shell_complete=completion.entries)
@click.option("--why", default="", help="The reason, for the audit log.")
@json_option
@click.pass_obj
def unpause_command(app: App, name: str, why: str, as_json: bool) -> None:
    """End the pause of an entry."""

    def unpause(client: Client) -> bool:
        return client.unpause(name, why=why, by=current_user())

    if as_json:
        app.out_json(app.daemon.json_of(unpause))
    else:
        app.out(f"{name} is unpaused" if unpause(app.daemon) else f"{name} was not paused")
