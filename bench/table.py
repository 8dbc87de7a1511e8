"""A row of the comparison as values, and as a table with the ratios first."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from peers.base import Promises


@dataclass
class Figure:
    """What was seen of one contender: a value for each repeat, or the reason why there is none.

    `promises` is None for a floor. `more` are further columns, medians of the repeats.
    """

    contender: str
    values: list[float] = field(default_factory=list)
    promises: Promises | None = None
    more: dict[str, float | str] = field(default_factory=dict)
    missing: str = ""
    note: str = ""
    command: str = ""

    @property
    def value(self) -> float:
        return statistics.median(self.values)


@dataclass
class Row:
    """One question. The first figure is maintd's; `more_is_better` for rates.

    With `remarks` the figures have no values, and the remarks are printed below them instead of the verdicts.
    """

    key: str
    title: str
    unit: str
    figures: list[Figure]
    more_is_better: bool = False
    per_run: bool = True
    remarks: list[str] | None = None

    @property
    def ours(self) -> Figure:
        return self.figures[0]

    def ratio(self, figure: Figure) -> float | None:
        """Return maintd's value divided by the contender's; None if either is missing."""
        if not (figure.values and self.ours.values) or figure.value <= 0:
            return None
        return self.ours.value / figure.value

    def cost(self, figure: Figure) -> float:
        """Return how many times better than maintd the contender is; above 1 if it is ahead."""
        ratio = self.ratio(figure)
        assert ratio is not None
        return 1 / ratio if self.more_is_better else ratio

    def document(self) -> dict[str, Any]:
        return asdict(self) | {"ratios": {figure.contender: self.ratio(figure) for figure in self.figures}}


def text(row: Row) -> str:
    """Return the row as a Markdown table, with the verdicts on the goals."""
    names = list(dict.fromkeys(name for figure in row.figures for name in figure.more))
    if row.remarks is not None:
        return _in_words(row, names, row.remarks)
    sense = "above 1: maintd does more" if row.more_is_better else "below 1: maintd is ahead"
    head = ["contender", "maintd ÷ it", row.unit, "least – most", *names, "isolates", "history", "logs", "what it does"]
    lines = [f"### {row.key}: {row.title}", f"({sense})", "", _line(head), _line(["---"] * len(head))]
    lines += [_line(_cells(row, figure, names)) for figure in row.figures]
    return "\n".join([*lines, "", *_verdict(row), ""])


def _in_words(row: Row, names: Sequence[str], remarks: Sequence[str]) -> str:
    head = ["contender", *names, "what it does"]
    lines = [f"### {row.key}: {row.title}", "", _line(head), _line(["---"] * len(head))]
    lines += [
        _line([figure.contender, *(str(figure.more.get(name, "-")) for name in names), _description(figure)])
        for figure in row.figures
    ]
    return "\n".join([*lines, "", *(f"- {remark}" for remark in remarks), ""])


def _description(figure: Figure) -> str:
    promised = figure.promises.description if figure.promises else "floor"
    return "; ".join(part for part in (figure.missing, promised, figure.note) if part)


def _cells(row: Row, figure: Figure, names: Sequence[str]) -> list[str]:
    ratio = row.ratio(figure)
    value = spread = "-"
    if figure.values:
        value = short(figure.value)
        if len(figure.values) > 1:
            spread = f"{short(min(figure.values))} – {short(max(figure.values))}"
    promises = figure.promises
    marks = (
        [("yes" if mark else "no") for mark in (promises.isolates, promises.durable, promises.logs)]
        if promises
        else ["", "", ""]
    )
    extras = [short(extra) if isinstance(extra := figure.more.get(name, ""), float) else extra for name in names]
    return [
        figure.contender,
        "-" if ratio is None else f"{ratio:.2f}",
        value,
        spread,
        *extras,
        *marks,
        _description(figure),
    ]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def log_progress(text: str) -> None:
    """Print what is being measured now."""
    print(text, file=sys.stderr, flush=True)


def short(value: float) -> str:
    """Format a number with three significant digits."""
    size = abs(value)
    return (
        f"{value:,.0f}"
        if size >= 100
        else f"{value:.1f}"
        if size >= 10
        else f"{value:.2f}"
        if size >= 0.1
        else f"{value:.3f}"
    )


def _verdict(row: Row) -> list[str]:
    """Return the verdicts on two goals: first of those that record durably, and within twice the best of any kind.

    The row `kill` shows who records durably, see `Promises`.
    """
    if not row.ours.values:
        return [f"**maintd has no figure here**: {row.ours.missing}"]
    others = [
        figure
        for figure in row.figures[1:]
        if figure.promises and row.ratio(figure) is not None and not figure.contender.startswith("maintd")
    ]
    if not others:
        return []

    def best(among: list[Figure]) -> Figure | None:
        return max(among, key=row.cost, default=None)

    lines = []
    for whose, own in (
        ("first of those that record durably", False),
        ("first of rows written here for their price", True),
    ):
        among = [
            figure for figure in others if figure.promises and figure.promises.durable and figure.promises.own is own
        ]
        if first := best(among):
            lines.append(
                f"- {whose}: **{'yes' if row.cost(first) < 1 else 'no'}**, "
                f"{row.cost(first):.2f} × the cost of {first.contender}"
            )
    any_kind = best(others)
    if any_kind:
        within = row.cost(any_kind) <= 2
        lines.append(
            f"- within 2 × the best of any kind: **{'yes' if within else 'no'}**, "
            f"{row.cost(any_kind):.2f} × the cost of {any_kind.contender}"
        )
    both = best(
        [figure for figure in others if figure.promises and figure.promises.durable and figure.promises.isolates]
    )
    if row.per_run and both:
        lines.append(
            f"- beside the best that isolates and records: {row.cost(both):.2f} × the cost of {both.contender}"
        )
    found = {figure.contender: figure for figure in others}
    thread, process, rows = (found.get(f"APScheduler, {form}") for form in ("thread", "process", "thread + rows"))
    if row.per_run and thread:
        prices = [
            f"{name} {row.cost(thread) / row.cost(form):.1f} ×"
            for name, form in (("a process", process), ("two fsynced rows", rows))
            if form
        ]
        lines.append(f"- the price, measured on APScheduler in a thread: {', '.join(prices)}")
    return lines
