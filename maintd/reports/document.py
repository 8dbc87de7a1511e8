"""The content of a report, independent of its format. Texts are plain; `rendering` escapes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from maintd.reports import formatting
from maintd.reports.figure import Figure

Mark = Literal["", "ok", "warn", "fail", "unknown"]
"""The status that a line or a cell is shown with; empty: none."""


@dataclass(frozen=True)
class Cell:
    """A table cell. `value` is used in JSON; `share`, 0 to 1, is drawn as a bar."""

    text: str
    value: str | float | None = None
    mark: Mark = ""
    share: float | None = None


@dataclass(frozen=True)
class Column:
    """A table column; a column of numbers is aligned to the right."""

    title: str
    number: bool = False


def columns(*titles: str) -> tuple[Column, ...]:
    """Make columns from titles; a trailing `>` marks a column of numbers."""
    return tuple(Column(title.removesuffix(">"), title.endswith(">")) for title in titles)


@dataclass(frozen=True)
class Table:
    """A table whose rows are as long as its columns. `empty` is shown when there are no rows, with the reason."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    empty: str = ""


@dataclass(frozen=True)
class Chart:
    """An SVG drawing, with a description in words for the Markdown report and for screen readers."""

    title: str
    svg: str
    description: str


@dataclass(frozen=True)
class Line:
    """One labelled number with its origin."""

    label: str
    text: str
    origin: str = ""
    value: str | float | None = None
    unit: str = ""
    mark: Mark = ""


@dataclass(frozen=True)
class Finding:
    """A recommendation: what is wrong with `subject`, and the command to run next."""

    mark: Mark
    area: str
    subject: str
    meaning: str
    command: str = ""


@dataclass(frozen=True)
class Section:
    """A heading with its lines, charts, tables and notes."""

    title: str
    lines: tuple[Line, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Document:
    """A whole report. `areas` are the headings of the recommendations; an area without findings is shown too."""

    kind: str
    title: str
    subtitle: str
    made_at: datetime
    headlines: tuple[Line, ...]
    sections: tuple[Section, ...]
    findings: tuple[Finding, ...]
    areas: tuple[str, ...]
    method: tuple[str, ...] = ()
    data: dict[str, object] = field(default_factory=dict)

    @property
    def mark(self) -> Mark:
        """The worst mark of the findings."""
        found = {finding.mark for finding in self.findings}
        order: tuple[Mark, ...] = ("fail", "unknown", "warn")
        return next((mark for mark in order if mark in found), "ok")


def origin(figure: Figure) -> str:
    """Describe where a figure comes from: source, window and coverage."""
    coverage = "" if figure.coverage is None else f", {formatting.share(figure.coverage)} coverage"
    new = f", new since {figure.new_since:%Y-%m-%d %H:%M}" if figure.new_since else ""
    return f"{figure.source}; {figure.window}{coverage}{new}"


def value_text(figure: Figure) -> str:
    """The figure's number with its unit, or "not measured" and the cause."""
    if figure.value is None:
        return f"not measured: {figure.cause_and_hint}"
    return f"{'≥ ' if figure.at_least else ''}{formatting.amount(figure.value, figure.unit)}"


def figure_line(label: str, figure: Figure, mark: Mark = "") -> Line:
    """Make a line from a figure."""
    shown: Mark = "unknown" if figure.value is None else mark
    return Line(label, value_text(figure), origin(figure), figure.value, figure.unit, shown)


def poorly_covered(figure: Figure, least: float = 0.9) -> bool:
    """Whether too few samples cover the figure's window. least: the coverage needed, 0 to 1."""
    return figure.coverage is not None and figure.coverage < least


def number_cell(value: float | None, unit: str, mark: Mark = "", missing: str = "–") -> Cell:
    """Make a cell from a number; `missing` is shown for None."""
    return Cell(missing) if value is None else Cell(formatting.amount(value, unit), value, mark)
