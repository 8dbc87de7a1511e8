"""Rendering of a report as Markdown, as self-contained HTML, and as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from maintd.reports import formatting
from maintd.reports.document import Cell, Document, Finding, Line, Mark, Table
from maintd.units import utc_text

WORDS: Mapping[Mark, str] = {
    "": "advice",
    "ok": "ok",
    "warn": "warning",
    "fail": "needs action",
    "unknown": "unknown",
}
"""The word for each mark in Markdown and HTML."""


def as_markdown(report: Document) -> str:
    """Render as Markdown; every text is escaped."""
    text = _environment(autoescape=False).get_template("report.md.j2").render(**_names(report))
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def as_html(report: Document) -> str:
    """Render as one HTML file without scripts or external resources, for light mode, dark mode and print."""
    return _environment(autoescape=True).get_template("report.html.j2").render(**_names(report)) + "\n"


def as_json(report: Document) -> str:
    """Render as JSON. A number is in the `unit` beside it; null means that it was not measured."""
    body = {
        "kind": report.kind,
        "title": report.title,
        "subtitle": report.subtitle,
        "made_at": utc_text(report.made_at),
        "status": report.mark,
        "headlines": [_line(item) for item in report.headlines],
        "findings": [_finding(item) for item in report.findings],
        "sections": [
            {
                "title": section.title,
                "lines": [_line(item) for item in section.lines],
                "tables": [_table(table) for table in section.tables],
                "notes": list(section.notes),
            }
            for section in report.sections
        ],
        "method": list(report.method),
        **report.data,
    }
    return json.dumps(body, indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n"


def as_files(report: Document) -> dict[str, str]:
    """Render in every format, by file name suffix: md, html, json."""
    return {"md": as_markdown(report), "html": as_html(report), "json": as_json(report)}


def _names(report: Document) -> dict[str, Any]:
    by_area = {area: [finding for finding in report.findings if finding.area == area] for area in report.areas}
    return {"report": report, "by_area": by_area, "words": WORDS, "at": formatting.instant(report.made_at)}


@cache
def _environment(*, autoescape: bool) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=autoescape,  # noqa: S701 - the Markdown template applies the filter `md` to every text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
    environment.filters["md"] = formatting.markdown
    environment.filters["code"] = formatting.code
    environment.filters["svg"] = Markup  # only for charts, which escape their texts
    return environment


def _line(item: Line) -> dict[str, Any]:
    return {
        "name": item.label,
        "value": item.value,
        "unit": item.unit,
        "text": item.text,
        "origin": item.origin,
        "status": item.mark,
    }


def _finding(item: Finding) -> dict[str, Any]:
    return {
        "status": item.mark,
        "area": item.area,
        "subject": item.subject,
        "meaning": item.meaning,
        "command": item.command,
    }


def _table(table: Table) -> dict[str, Any]:
    names = [column.title for column in table.columns]
    rows = [{name: _value(cell) for name, cell in zip(names, row, strict=True)} for row in table.rows]
    return {"title": table.title, "rows": rows, "empty": table.empty if not rows else ""}


def _value(cell: Cell) -> Any:
    return cell.text if cell.value is None and cell.text != "–" else cell.value
