"""Lists for people: what is due, the jobs, one job, the lines of a log, the settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from maintd.model.evidence import LogLine
from maintd.model.job import BrokenJob, JobDescription, ParamDescription
from maintd.model.status import DueTime
from maintd.present.text import WIDTH, Ink, Tone, columns, from_now, plural, printable, symbol, wrapped
from maintd.units import format_duration


def due_text(dues: Sequence[DueTime], *, now: datetime, width: int = WIDTH, colour: bool = False) -> str:
    """What falls due, by day of the entries' own time zones."""
    if not dues:
        return "nothing is due\n"
    ink = Ink(colour)
    lines: list[str] = []
    day = ""
    rows = [(" ".join(due.local.split(" ")[2:]) or due.local, due.entry, _from_now(due, now)) for due in dues]
    sizes = columns(rows, gap=2)
    for due, row in zip(dues, rows, strict=True):
        today = " ".join(due.local.split(" ")[:2])
        if today != day:
            lines += [""] * bool(lines) + [ink(today, Tone.STRONG)]
            day = today
        cells = "".join(cell.ljust(size) for cell, size in zip(row, sizes, strict=True))
        jobs = ", ".join(due.jobs)
        if 2 + len(cells) + len(jobs) <= width:
            lines.append(f"  {cells}{ink(jobs, Tone.DIM)}".rstrip())
        else:
            lines.append(f"  {cells}".rstrip())
            lines += [ink(line, Tone.DIM) for line in wrapped(jobs, width, " " * (2 + sizes[0]), " " * (2 + sizes[0]))]
        if due.note:
            lines += [ink(line, Tone.WARN) for line in wrapped(due.note, width, "    ! ", "      ")]
    return "\n".join(lines) + "\n"


def _from_now(due: DueTime, now: datetime) -> str:
    utc = "" if due.local.endswith(" UTC") else f"{due.due_at.astimezone(UTC):%H:%M}Z, "
    return f"{utc}{from_now(due.due_at, now)}"


def jobs_text(jobs: Sequence[JobDescription | BrokenJob], *, width: int = WIDTH, colour: bool = False) -> str:
    """Every job with its first line; one that cannot be used with what is wrong."""
    ink = Ink(colour)
    size = max((len(job.name) for job in jobs), default=0)
    lines: list[str] = []
    for job in jobs:
        if isinstance(job, BrokenJob):
            lines.append(f"{symbol('failed', ink)} {job.name.ljust(size)}  {ink('cannot be used', Tone.BAD)}")
            lines += wrapped(job.error, width, "    ", "    ")
            continue
        head, *more = wrapped(job.summary, width - size - 4)
        lines.append(f"  {ink(job.name.ljust(size), Tone.STRONG)}  {head}")
        lines += [f"  {' ' * size}  {line}" for line in more]
    return "\n".join(lines) + "\n" if lines else "no job\n"


def job_text(job: JobDescription | BrokenJob, *, width: int = WIDTH, colour: bool = False) -> str:
    """One job: what it does, how it is treated, its params with types and defaults."""
    ink = Ink(colour)
    if isinstance(job, BrokenJob):
        return (
            "\n".join([f"{symbol('failed', ink)} {job.name} cannot be used", *wrapped(job.error, width, "  ")]) + "\n"
        )
    lines = [ink(job.name, Tone.STRONG), *(f"  {line}".rstrip() for line in job.doc.strip().splitlines()), ""]
    facts = [
        ("file", str(job.path)),
        ("timeout", f"{format_duration(job.timeout)} for an attempt"),
        ("effect", "changes something outside" if job.mutates else "only looks"),
        ("retries", "may be tried again after a failure" if job.repeatable else "is never tried again by itself"),
        ("locks", ", ".join(f"{name} ({mode})" for name, mode in sorted(job.locks.items()))),
        ("needs", ", ".join(f"a {kind} target" for kind in job.needs)),
        ("budget", ", ".join(f"{most} × {action}" for action, most in sorted(job.budget.items()))),
    ]
    for name, text in facts:
        if text:
            lines += wrapped(text, width, f"  {name:8} ", " " * 11)
    lines += ["", f"  {plural(len(job.params), 'param')}" + (", given as -p name=value" if job.params else "")]
    for param in job.params:
        lines += _param_lines(param, width, ink)
    return "\n".join(lines) + "\n"


def _param_lines(param: ParamDescription, width: int, ink: Ink) -> Iterator[str]:
    default = ink("required", Tone.WARN) if param.required else f"default {_default(param)}"
    yield f"    {ink(param.name, Tone.STRONG)}: {param.type}, {default}"
    if param.description:
        yield from wrapped(param.description, width, "      ", "      ")


def _default(param: ParamDescription) -> str:
    if param.default is None or param.default in ("", [], {}):
        return "none"
    return ", ".join(map(str, param.default)) if isinstance(param.default, list | tuple) else str(param.default)


def log_line_text(line: LogLine, step: str, *, colour: bool = False) -> str:
    """`04:00:07.123 vacuum  text`; what a job printed is marked with its stream."""
    ink = Ink(colour)
    at = f"{line.at.astimezone(UTC):%H:%M:%S}.{line.at.microsecond // 1000:03}Z"
    stream = "" if line.stream == "log" else f" {line.stream}:"
    return f"{ink(at, Tone.DIM)} {ink(step, Tone.LIVE)}{ink(stream, Tone.DIM)} {printable(line.text)}"


def settings_text(rows: Sequence[tuple[str, str, str]], *, width: int = WIDTH, colour: bool = False) -> str:
    """Each setting with its value and where that came from: (name, value, origin)."""
    ink = Ink(colour)
    size = max((len(name) for name, _, _ in rows), default=0) + 2
    lines: list[str] = []
    for name, value, origin in rows:
        told = f"{value or 'none'}  ({origin})"
        if size + len(told) <= width:
            lines.append(f"{name.ljust(size)}{value or 'none'}  {ink(f'({origin})', Tone.DIM)}")
        else:
            lines.append(f"{name.ljust(size)}{value or 'none'}")
            lines += [ink(line, Tone.DIM) for line in wrapped(f"({origin})", width, " " * size, " " * size)]
    return "\n".join(lines) + "\n"
