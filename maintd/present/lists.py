"""Due times, jobs, log lines and settings as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from maintd.model.access import ListedToken, TokenState
from maintd.model.evidence import LogLine
from maintd.model.job import BrokenJob, JobDescription, ParamDescription
from maintd.model.status import DueLimit, DueTime
from maintd.present.text import WIDTH, Style, Tone, ago, column_widths, from_now, printable, symbol, utc_minute, wrap
from maintd.units import format_duration, plural, value_text

if TYPE_CHECKING:  # its module takes as long to import as the others together
    from maintd.model.responses import LogEntry


def due_text(
    dues: Sequence[DueTime],
    *,
    now: datetime,
    limited: Sequence[DueLimit] = (),
    width: int = WIDTH,
    colour: bool = False,
) -> str:
    """Due times, grouped by day in the time zones of the entries; then the entries that have more than those."""
    if not dues:
        return "no due times\n"
    style = Style(colour)
    lines: list[str] = []
    day = ""
    rows = [(" ".join(due.local.split(" ")[2:]) or due.local, due.entry, _from_now(due, now)) for due in dues]
    sizes = column_widths(rows, gap=2)
    for due, row in zip(dues, rows, strict=True):
        today = " ".join(due.local.split(" ")[:2])
        if today != day:
            lines += [""] * bool(lines) + [style(today, Tone.STRONG)]
            day = today
        cells = "".join(cell.ljust(size) for cell, size in zip(row, sizes, strict=True))
        jobs = ", ".join(due.jobs)
        if 2 + len(cells) + len(jobs) <= width:
            lines.append(f"  {cells}{style(jobs, Tone.DIM)}".rstrip())
        else:
            lines.append(f"  {cells}".rstrip())
            lines += [style(line, Tone.DIM) for line in wrap(jobs, width, " " * (2 + sizes[0]), " " * (2 + sizes[0]))]
        if due.note:
            lines += [style(line, Tone.WARN) for line in wrap(due.note, width, "    ! ", "      ")]
    for limit in limited:
        text = f"only the first {limit.listed} due times of {limit.entry}, until {utc_minute(limit.listed_until)}"
        lines += [style(line, Tone.WARN) for line in wrap(text, width, "! ", "  ")]
    return "\n".join(lines) + "\n"


def _from_now(due: DueTime, now: datetime) -> str:
    utc = "" if due.local.endswith(" UTC") else f"{due.due_at.astimezone(UTC):%H:%M}Z, "
    return f"{utc}{from_now(due.due_at, now)}"


def jobs_text(jobs: Sequence[JobDescription | BrokenJob], *, width: int = WIDTH, colour: bool = False) -> str:
    """Every job with its summary; a broken one with its error."""
    style = Style(colour)
    size = max((len(job.name) for job in jobs), default=0)
    lines: list[str] = []
    for job in jobs:
        if isinstance(job, BrokenJob):
            lines.append(f"{symbol('failed', style)} {job.name.ljust(size)}  {style('broken', Tone.BAD)}")
            lines += wrap(job.error, width, "    ", "    ")
            continue
        head, *more = wrap(job.summary, width - size - 4)
        lines.append(f"  {style(job.name.ljust(size), Tone.STRONG)}  {head}")
        lines += [f"  {' ' * size}  {line}" for line in more]
    return "\n".join(lines) + "\n" if lines else "no jobs\n"


def job_text(job: JobDescription | BrokenJob, *, width: int = WIDTH, colour: bool = False) -> str:
    """One job: its description, its limits and effects, its params with types and defaults."""
    style = Style(colour)
    if isinstance(job, BrokenJob):
        return "\n".join([f"{symbol('failed', style)} {job.name}: broken", *wrap(job.error, width, "  ")]) + "\n"
    lines = [style(job.name, Tone.STRONG), *(f"  {line}".rstrip() for line in job.doc.strip().splitlines()), ""]
    facts = [
        ("file", str(job.path)),
        ("timeout", f"{format_duration(job.timeout)} per attempt"),
        ("effect", "makes changes" if job.mutates else "read-only"),
        ("retries", "allowed" if job.repeatable else "no automatic retries"),
        ("locks", ", ".join(f"{name} ({mode})" for name, mode in sorted(job.locks.items()))),
        ("targets", ", ".join(job.needs)),
        ("budget", budget_text(job.budget)),
    ]
    for name, text in facts:
        if text := printable(text):
            lines += wrap(text, width, f"  {name:8} ", " " * 11)
    lines += ["", f"  {plural(len(job.params), 'param')}" + (", set with -p name=value" if job.params else "")]
    for param in job.params:
        lines += _param_lines(param, width, style)
    return "\n".join(lines) + "\n"


def budget_text(budget: Mapping[str, int]) -> str:
    """What one attempt may change at most: `bytes: at most 1.0 GiB, remove image: at most 50`."""
    return ", ".join(
        f"{action}: at most {value_text(most, 'B' if action == 'bytes' else '')}"
        for action, most in sorted(budget.items())
    )


def _param_lines(param: ParamDescription, width: int, style: Style) -> Iterator[str]:
    head = f"    {style(param.name, Tone.STRONG)}: "
    if isinstance(param.default, dict) and (lines := list(_mapping_lines(param.default))):
        first, *more = wrap(f"{param.name}: {param.type}, default", width - 6)
        yield head + first.removeprefix(f"{param.name}: ")
        yield from (f"      {line}" for line in more)
        for line in lines:
            yield from wrap(line.strip(), width, " " * (len(line) - len(line.lstrip()) + 8), " " * 12)
    else:
        if param.required:
            yield f"{head}{param.type}, {style('required', Tone.WARN)}"
        else:
            first, *more = wrap(f"{param.name}: {param.type}, default {_default(param)}", width - 4)
            yield head + first.removeprefix(f"{param.name}: ")
            yield from (f"      {line}" for line in more)
    if param.description:
        yield from wrap(param.description, width, "      ", "      ")


def _default(param: ParamDescription) -> str:
    if param.default is None or param.default in ("", [], {}):
        return "none"
    return _plain(param.default)


def _mapping_lines(values: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """A mapping as in YAML, one line for each field that has a value."""
    for name, value in values.items():
        if isinstance(value, dict):
            below = list(_mapping_lines(value, indent + "  "))
            yield from [f"{indent}{name}:", *below] if below else []
        elif value not in (None, "", [], ()):
            yield f"{indent}{name}: {_plain(value)}"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(_plain, value)) if isinstance(value, list | tuple) else str(value)


def log_line_text(line: LogLine | LogEntry, step: str, *, colour: bool = False) -> str:
    """`04:00:07.123Z vacuum text`; a line from stdout or stderr names its stream."""
    style = Style(colour)
    at = f"{line.at.astimezone(UTC):%H:%M:%S}.{line.at.microsecond // 1000:03}Z"
    stream = "" if line.stream == "log" else f" {line.stream}:"
    return f"{style(at, Tone.DIM)} {style(step, Tone.LIVE)}{style(stream, Tone.DIM)} {printable(line.text)}"


def settings_text(rows: Sequence[tuple[str, str, str]], *, width: int = WIDTH, colour: bool = False) -> str:
    """Settings with value and origin, from rows (name, value, origin)."""
    style = Style(colour)
    size = max((len(name) for name, _, _ in rows), default=0) + 2
    lines: list[str] = []
    for name, value, origin in rows:
        value, origin = printable(value), printable(origin)
        text = f"{value or 'none'}  ({origin})"
        if size + len(text) <= width:
            lines.append(f"{name.ljust(size)}{value or 'none'}  {style(f'({origin})', Tone.DIM)}")
        else:
            lines.append(f"{name.ljust(size)}{value or 'none'}")
            lines += [style(line, Tone.DIM) for line in wrap(f"({origin})", width, " " * size, " " * size)]
    return "\n".join(lines) + "\n"


def tokens_text(tokens: Sequence[ListedToken], *, now: datetime, width: int = WIDTH, colour: bool = False) -> str:
    """Tokens with role, limits, expiry or end, and last use."""
    if not tokens:
        return "no tokens; create one with: maintd token create --role viewer NAME\n"
    style = Style(colour)
    sizes = column_widths([(token.name, token.role.value) for token in tokens], gap=2)
    lines: list[str] = []
    for token in tokens:
        match token.state:
            case TokenState.REVOKED:
                assert token.revoked_at is not None
                facts = [f"revoked {ago(token.revoked_at, now)} by {printable(token.revoked_by) or 'an operator'}"]
            case TokenState.EXPIRED:
                facts = [f"expired {ago(token.expires_at, now)}"]
            case TokenState.VALID:
                facts = [f"expires {utc_minute(token.expires_at)}"]
        if token.last_used_at is None:
            facts.append("never used")
        else:
            facts.append(f"last used {ago(token.last_used_at, now)} from {printable(token.last_used_from)}")
        if token.entries:
            facts.insert(0, f"for {printable(', '.join(token.entries))}")
        facts.append(f"held by {printable(token.person)}" if token.person else "of a program")
        head = f"{token.name.ljust(sizes[0])}{token.role.value.ljust(sizes[1])}"
        shown = wrap("; ".join(facts), width, head, " " * len(head))
        lines += shown if token.state is TokenState.VALID else [style(line, Tone.DIM) for line in shown]
    return "\n".join(lines) + "\n"
