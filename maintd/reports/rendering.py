"""A report as Markdown, as one HTML file that needs nothing else, and as JSON."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from maintd.reports import formats
from maintd.reports.document import Cell, Document, Finding, Line, Table
from maintd.units import utc_text

WORDS = {"ok": "in order", "warn": "warning", "fail": "needs action", "unknown": "not known"}
"""What the page and the Markdown call each mark."""


def as_markdown(report: Document) -> str:
    """The report for a person with a text editor. Every text from outside is escaped."""
    text = _environment(autoescape=False).get_template("report.md.j2").render(**_names(report))
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def as_html(report: Document) -> str:
    """The report for a browser or a printer: no script, no request, light and dark."""
    return _environment(autoescape=True).get_template("report.html.j2").render(**_names(report)) + "\n"


def as_json(report: Document) -> str:
    """The report for a program. Numbers are in the unit beside them; null is what was not measured."""
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
    """All forms by their ending: md, html, json."""
    return {"md": as_markdown(report), "html": as_html(report), "json": as_json(report)}


def _names(report: Document) -> dict[str, Any]:
    by_area = {area: [finding for finding in report.findings if finding.area == area] for area in report.areas}
    return {"report": report, "by_area": by_area, "words": WORDS, "at": formats.instant(report.made_at)}


@cache
def _environment(*, autoescape: bool) -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=autoescape,  # noqa: S701 - Markdown has its own escape, `md`, on every text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
    made.filters["md"] = formats.markdown
    made.filters["code"] = formats.code
    made.filters["drawn"] = Markup  # only for our own drawings, which escape what they show
    return made


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
        "says": item.says,
        "command": item.command,
    }


def _table(table: Table) -> dict[str, Any]:
    names = [column.title for column in table.columns]
    rows = [{name: _value(cell) for name, cell in zip(names, row, strict=True)} for row in table.rows]
    return {"title": table.title, "rows": rows, "empty": table.empty if not rows else ""}


def _value(cell: Cell) -> Any:
    return cell.text if cell.value is None and cell.text != "–" else cell.value
