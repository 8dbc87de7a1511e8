"""What a report consists of, before it is Markdown, HTML or JSON. Texts are plain; the renderers escape them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from maintd.reports import formats
from maintd.reports.figure import Figure

Mark = Literal["", "ok", "warn", "fail", "unknown"]
"""How a line or a cell is shown: with the colour and the word of a check's status."""


@dataclass(frozen=True)
class Cell:
    """A table's cell. `value` is what JSON has; `share`, 0 to 1, is drawn as a bar."""

    text: str
    value: str | float | None = None
    mark: Mark = ""
    share: float | None = None


@dataclass(frozen=True)
class Column:
    """A table's column; one of numbers is set to the right."""

    title: str
    number: bool = False


def columns(*titles: str) -> tuple[Column, ...]:
    """Columns by their titles; one that ends in `>` is of numbers."""
    return tuple(Column(title.removesuffix(">"), title.endswith(">")) for title in titles)


@dataclass(frozen=True)
class Table:
    """Rows are as long as the columns. `empty` says why there are none."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    empty: str = ""


@dataclass(frozen=True)
class Chart:
    """A drawing, already SVG, and in words for who cannot see it."""

    title: str
    svg: str
    told: str


@dataclass(frozen=True)
class Line:
    """One stated number: what, its text, and where it comes from."""

    label: str
    text: str
    origin: str = ""
    value: str | float | None = None
    unit: str = ""
    mark: Mark = ""


@dataclass(frozen=True)
class Finding:
    """What somebody should do, and the exact next command."""

    mark: Mark
    area: str
    subject: str
    says: str
    command: str = ""


@dataclass(frozen=True)
class Section:
    """A heading with what stands under it."""

    title: str
    lines: tuple[Line, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Document:
    """A whole report. `areas` are the headings under which findings stand, all of them, also those without one."""

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
        """The worst of the findings."""
        found = {finding.mark for finding in self.findings}
        order: tuple[Mark, ...] = ("fail", "unknown", "warn")
        return next((mark for mark in order if mark in found), "ok")


def origin(figure: Figure) -> str:
    """Where a figure comes from, over which time, and how much of that was seen."""
    seen = "" if figure.coverage is None else f", {formats.share(figure.coverage)} of it seen"
    return f"{figure.source}; {figure.window}{seen}"


def told(figure: Figure) -> str:
    """The figure's number, or that it was not measured and why."""
    if figure.value is None:
        return f"not measured: {figure.cause}"
    return f"{'≥ ' if figure.at_least else ''}{formats.amount(figure.value, figure.unit)}"


def line(label: str, figure: Figure, mark: Mark = "") -> Line:
    """A figure as a line of the report."""
    shown: Mark = "unknown" if figure.value is None else mark
    return Line(label, told(figure), origin(figure), figure.value, figure.unit, shown)


def low(figure: Figure, least: float = 0.9) -> bool:
    """Whether too little of its window was seen to rely on it."""
    return figure.coverage is not None and figure.coverage < least


def number(value: float | None, unit: str, mark: Mark = "", missing: str = "–") -> Cell:
    """A cell with a number, or a dash."""
    return Cell(missing) if value is None else Cell(formats.amount(value, unit), value, mark)
