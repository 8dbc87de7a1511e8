"""Sections of the query review's report: the statements by each ranking, tables, indexes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from maintd.checks.postgres.indexes import Index
from maintd.checks.postgres.statement_history import Basis, Executed, Interval, ranked
from maintd.checks.postgres.table_scans import Candidate, ScannedTable
from maintd.reports import charts, formatting
from maintd.reports.document import Cell, Chart, Line, Section, Table, columns, number_cell

RANKINGS: Mapping[str, tuple[str, str]] = {
    "exec_ms": ("total time", "ms"),
    "calls": ("calls", ""),
    "mean_ms": ("mean time", "ms"),
    "temp_blocks": ("temporary blocks read and written", ""),
    "wal_bytes": ("write-ahead log", "B"),
    "io_ms": ("I/O time", "ms"),
}
"""What statements are ranked by: title and unit."""
MEASURED = 50
"""Tables whose share of sequential scans is kept for trends, the largest."""
_SHOWN, _CHARTED = 10, 8


def statements_section(target: str, found: Interval, slower: Sequence[Executed], *, timed: bool) -> Section:
    """The statements of a target by each ranking."""
    origin = f"pg_stat_statements of {target}; {found.window}"
    total_ms = sum(item.exec_ms for item in found.executed)
    lines = (
        Line("Compared with", found.basis.value, origin),
        Line("Statements", f"{len(found.executed):,}", origin, len(found.executed)),
        Line("Calls", f"{sum(item.calls for item in found.executed):,.0f}", origin),
        Line("Time of execution", formatting.amount(total_ms / 1000, "s"), origin, total_ms / 1000, "s"),
    )
    tables = []
    for ranking, (title, _) in RANKINGS.items():
        rows = tuple(_row(place, item, ranking) for place, item in enumerate(_of(found, ranking), 1))
        empty = "not measured: track_io_timing is off" if ranking == "io_ms" and not timed else "none"
        heads = columns("#>", "Query", "Role", *(f"{head[0].upper()}{head[1:]}>" for head in _heads(ranking)), "Text")
        tables.append(Table(f"Queries by {title}", heads, rows, empty))
    tables.append(
        Table(
            "Queries slower than before",
            columns("Query", "Mean before>", "Mean now>", "Calls>", "Text"),
            tuple(
                (
                    Cell(str(item.statement.query_id)),
                    _milliseconds(item.mean_before_ms),
                    _milliseconds(item.mean_ms),
                    number_cell(item.calls, ""),
                    Cell(item.statement.text),
                )
                for item in slower
            ),
            "there is no earlier snapshot" if found.basis is Basis.FIRST else "none",
        )
    )
    top = _of(found, "exec_ms")[:_CHARTED]
    described = "; ".join(f"{item.statement.query_id}: {item.exec_ms / 1000:.3g} s" for item in top)
    items = [(str(item.statement.query_id)[-6:], item.exec_ms / 1000) for item in top]
    svg = charts.bars(items, "s", alt=f"Time of execution by query: {described}")
    drawn = (Chart(f"Time of execution by query, {found.window}", svg, described),) if svg else ()
    notes = ["Texts are without literals and comments. A query is named by the last digits of its id in the chart."]
    if any(item.at_most for item in found.executed):
        notes.append("≤: the last run did not keep this statement, so the number may include executions before it.")
    return Section(f"Queries of {target}", lines, drawn, tuple(tables), tuple(notes))


def _of(found: Interval, ranking: str) -> list[Executed]:
    return ranked(found.executed, ranking, _SHOWN)


def _heads(ranking: str) -> list[str]:
    """The columns of numbers: that of the ranking, then those that it is not."""
    return list(dict.fromkeys([RANKINGS[ranking][0], "calls", "mean time", "rows per call"]))


def _row(place: int, item: Executed, ranking: str) -> tuple[Cell, ...]:
    title, unit = RANKINGS[ranking]
    value, rows = item.value(ranking), item.counters["rows"]
    shown = _milliseconds(value) if unit == "ms" else number_cell(value, unit)
    if item.at_most and ranking != "mean_ms":
        shown = Cell(f"≤ {shown.text}", shown.value)
    cells = {
        "calls": number_cell(item.calls, ""),
        "mean time": _milliseconds(item.mean_ms),
        "rows per call": number_cell(rows / item.calls if rows is not None and item.calls else None, ""),
        title: shown,
    }
    numbers = (cells[head] for head in _heads(ranking))
    return (
        number_cell(place, ""),
        Cell(str(item.statement.query_id)),
        Cell(item.statement.role),
        *numbers,
        Cell(item.statement.text),
    )


def _milliseconds(value: float | None) -> Cell:
    return Cell("–") if value is None else Cell(formatting.amount(value / 1000, "s"), value)


def tables_section(
    target: str,
    tables: Sequence[ScannedTable],
    whole: Sequence[ScannedTable],
    advice: Sequence[Candidate],
    idle: Sequence[Index],
    window: str,
    *,
    estimated: bool,
) -> Section:
    """How the largest tables are read, and what indexes are advised or unused."""
    chosen = list(dict.fromkeys([*whole, *tables[:_SHOWN]]))
    heads = columns("Table", "Size>", "Rows>", "Sequential scans>", "Of all scans>", "Rows per scan>")
    rows = tuple(
        (
            Cell(table.label, mark="warn" if table in whole else ""),
            number_cell(table.size_bytes, "B"),
            number_cell(table.rows, ""),
            number_cell(table.seq_scans, ""),
            Cell(formatting.share(table.sequential_share), table.sequential_share, share=table.sequential_share),
            number_cell(table.rows_per_scan, ""),
        )
        for table in chosen
    )
    advised = tuple(
        (
            Cell(one.statement_text),
            Cell(str(one.statement.statement.query_id)),
            number_cell(one.cost[0] if one.cost else None, ""),
            number_cell(one.cost[1] if one.cost else None, ""),
            number_cell(one.size_bytes, "B"),
        )
        for one in advice
    )
    unused = tuple(
        (Cell(index.label), Cell(index.table_name), number_cell(index.size_bytes, "B"), number_cell(index.scans, ""))
        for index in idle
    )
    note = (
        "Costs are the planner's, with hypothetical indexes of HypoPG; nothing was created or executed."
        if estimated
        else "The gain of an advised index is not estimated: HypoPG is not installed in this database."
    )
    return Section(
        f"Tables and indexes of {target}",
        (Line("Counted", window, f"pg_stat_database of {target}"),),
        (),
        (
            Table("How tables are read", heads, rows, "there is no table"),
            Table("Indexes advised", columns("Change", "Query", "Cost>", "With it>", "Size>"), advised, "none"),
            Table("Indexes hardly used", columns("Index", "Table", "Size>", "Scans>"), unused, "none"),
        ),
        (note,),
    )
