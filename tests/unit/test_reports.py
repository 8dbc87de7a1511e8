"""Rendering of reports: escaping, formats, numbers, charts, and the reports folder."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import get_args
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt

from maintd.checks import capacity
from maintd.checks.assessment import Assessment
from maintd.job.attempt_info import KnownFinding
from maintd.job.criterion import Criterion
from maintd.reports import charts, formatting, rendering
from maintd.reports.document import (
    Cell,
    Chart,
    Document,
    Finding,
    Line,
    Mark,
    Section,
    Table,
    columns,
    figure_line,
    number_cell,
)
from maintd.reports.figure import Figure, unmeasured
from maintd.reports.resource import resource

NOW = datetime(2026, 11, 24, 3, 30, tzinfo=UTC)
HOSTILE = "a|b`c``d <script>alert(1)</script> *e* _f_ [g](javascript:h) \\i\n# j &amp; ${k} {{ l }} {% m %}"


def document(text: str = HOSTILE) -> Document:
    """One of everything, with the text in every place that a name may come to."""
    svg = charts.lines(
        [charts.Trace(text, [(NOW, 1.0), (NOW + timedelta(days=3), 2.0)])],
        "B",
        alt=text,
        limits=[charts.Limit(text, 2)],
    )
    bars = charts.bars([(text, 1.0), (text, None), (text, -2.0)], "USD", alt=text)
    rows = ((Cell(text, text), number_cell(5, "B", "warn"), Cell("x", 0.5, "fail", 0.5)),)
    table = Table(text, columns(text, "number>", "share>"), rows)
    section = Section(
        text,
        (Line(text, text, text, 1.5, "B", "warn"), figure_line(text, unmeasured("kind", text, "B", text, text))),
        (Chart(text, svg, text), Chart(text, bars, text)),
        (table, Table("none", columns("a"), (), text)),
        (text,),
    )
    finding = Finding("fail", "area", text, text, text)
    return Document(
        "kind", text, text, NOW, (Line(text, text, text, 1.0),), (section,), (finding,), ("area", "other"), (text,)
    )


class Tags(HTMLParser):
    """The tags of a page, and its visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_text_is_escaped_in_html() -> None:
    page = Tags(rendering.as_html(document()))

    assert "script" not in page.tags
    assert not any(name.startswith("on") for name in page.attributes)
    assert any("<script>alert(1)</script>" in text for text in page.texts)
    assert any("{{ l }} {% m %}" in text for text in page.texts)


def test_the_html_is_self_contained() -> None:
    page = rendering.as_html(document("plain"))

    assert not re.search(r"(src|href)=|url\(|@import|https?://(?!www\.w3\.org)", page)
    assert "default-src 'none'" in page


def test_text_is_escaped_in_markdown() -> None:
    text = rendering.as_markdown(document())
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    page = Tags(html)

    assert not {"script", "em", "a", "img"} & set(page.tags)
    assert page.tags.count("table") == 1
    assert page.tags.count("td") == 3  # a | in a name makes no further cell
    assert page.tags.count("h1") == 1
    assert any("<script>alert(1)</script>" in part for part in page.texts)


def test_the_json_has_numbers_and_their_units() -> None:
    body = json.loads(rendering.as_json(document()))

    assert body["status"] == "fail"
    assert body["made_at"] == "2026-11-24T03:30:00Z"
    assert body["sections"][0]["lines"][0] | {} == {
        "name": HOSTILE,
        "value": 1.5,
        "unit": "B",
        "text": HOSTILE,
        "origin": HOSTILE,
        "status": "warn",
    }
    assert body["sections"][0]["lines"][1]["value"] is None
    assert body["sections"][0]["tables"][0]["rows"] == [{HOSTILE: HOSTILE, "number": 5, "share": 0.5}]


def test_an_area_without_findings_is_shown() -> None:
    for text in (rendering.as_markdown(document("plain")), rendering.as_html(document("plain"))):
        assert re.search(r"other[^\n]*\n?.*o recommendations", text, re.DOTALL)


@pytest.mark.parametrize("mark", get_args(Mark))
def test_every_mark_of_a_finding_a_line_and_a_cell_is_rendered(mark: Mark) -> None:
    table = Table("t", columns("a"), ((Cell("x", 1, mark),),))
    section = Section("s", (Line("l", "1", mark=mark),), tables=(table,))
    found = Finding(mark, "area", "subject of the finding", "meaning", "du -sh /")
    report = Document("kind", "t", "s", NOW, (Line("l", "1", mark=mark),), (section,), (found,), ("area",))

    files = rendering.as_files(report)

    assert {form: "subject of the finding" in text for form, text in files.items()} == dict.fromkeys(files, True)


@pytest.mark.parametrize(
    "figure",
    [
        Figure("docker", "images", 9e9, "B", "engine", details={"unused": 5e9}),
        Figure("docker", "build cache", 2**31, "B", "engine", details={"unused": 2**31}),
        Figure("container memory", "shop", 1e6, "B", "engine", capacity=64e6, measure="container_memory_bytes"),
    ],
    ids=["images", "build cache", "memory limit"],
)
def test_what_can_be_saved_is_part_of_a_report(figure: Figure) -> None:
    earlier = [(NOW - timedelta(days=day), 1e6) for day in range(30, 0, -1)]
    found = capacity.savings([resource(figure, earlier, NOW)])
    report = Document("kind", "t", "s", NOW, (), (), tuple(found), (capacity.COST,))

    files = rendering.as_files(report)

    assert len(found) == 1
    assert all(figure.name in text for text in files.values())
    assert report.mark == "ok"  # no alarm


def test_a_figure_without_a_value_is_shown_with_its_cause() -> None:
    made = figure_line("Disk", unmeasured("file system", "/", "B", "statvfs of /", "no answer in 5 s"))

    assert made.text == "not measured: no answer in 5 s"
    assert made.mark == "unknown"


def test_a_figure_is_shown_with_its_source_window_and_coverage() -> None:
    made = figure_line("P95", Figure("latency", "web", 5.0, "s", "x_bucket", "7 days until y", 0.9997, at_least=True))

    assert made.text == "≥ 5 s"
    assert made.origin == "x_bucket; 7 days until y, 99.9 % coverage"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "", "0"),
        (1204, "", "1,204"),
        (12.34, "%", "12.3 %"),
        (0.085, "s", "85 ms"),
        (1.234, "s", "1.23 s"),
        (3700, "s", "1 h 1 min"),
        (1536, "B", "1.5 KiB"),
        (2048, "B/s", "2.0 KiB/s"),
        (0.25, "/s", "0.25/s"),
        (2.5, "USD", "2.5 USD"),
        (0.00001, "%", "<0.01 %"),
        (-12.0, "USD", "-12 USD"),
    ],
)
def test_numbers_are_formatted_for_people(value: float, unit: str, text: str) -> None:
    assert formatting.amount(value, unit) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0.2, "less than a day"), (1, "1 day"), (13.6, "14 days"), (60, "9 weeks"), (365, "12 months")],
)
def test_days_ahead_are_formatted_in_suitable_units(count: float, text: str) -> None:
    assert formatting.days(count) == text


@pytest.mark.parametrize("text", ["1. x", "- x", "+ x", "# x", "--- x", "=== x", "1) x"])
def test_text_at_the_start_of_a_line_opens_no_block(text: str) -> None:
    html = MarkdownIt("commonmark").render(formatting.markdown(text))

    assert html.strip() == f"<p>{text}</p>"


def test_a_command_with_backticks_is_one_code_span() -> None:
    html = MarkdownIt("commonmark").render(f"Next: {formatting.code('echo `date` ``x``')}")

    assert html.strip() == "<p>Next: <code>echo `date` ``x``</code></p>"


@pytest.mark.parametrize(
    "values", [[1.0, 1.0], [0.0, 0.0], [-5.0, 5.0], [1e15, 2e15], [1e-9, 2e-9], [None, 1.0, None, 2.0]]
)
@pytest.mark.parametrize("unit", ["B", "s", "%", ""])
def test_every_chart_is_well_formed_and_within_its_frame(values: list[float | None], unit: str) -> None:
    points = [(NOW + timedelta(hours=index), value) for index, value in enumerate(values)]

    svg = charts.lines([charts.Trace("a<b", points)], unit, alt="x & y")

    tree = ElementTree.fromstring(svg)
    heights = [float(y) for shape in tree.iter("polyline") for y in re.findall(r",(-?[\d.]+)", shape.attrib["points"])]
    assert all(0 <= y <= 220 for y in heights)
    assert tree.attrib["aria-label"] == "x & y"


def test_a_gap_is_not_drawn_across() -> None:
    points = [(NOW + timedelta(hours=hour), None if hour == 2 else float(hour)) for hour in range(5)]

    svg = charts.lines([charts.Trace("a", points)], "", alt="")

    assert svg.count("<polyline") == 2


def test_a_peak_survives_thinning() -> None:
    points = [(NOW + timedelta(minutes=index), 100.0 if index == 3333 else 1.0) for index in range(10_000)]

    svg = charts.lines([charts.Trace("a", points)], "", alt="")

    heights = [float(y) for y in re.findall(r",(-?[\d.]+)", re.findall(r'points="([^"]+)"', svg)[0])]
    assert len(heights) <= 500
    assert max(heights) - min(heights) > 100


@pytest.mark.parametrize("points", [[], [(NOW, 1.0)], [(NOW, None), (NOW, None)]])
def test_without_two_values_there_is_no_chart(points: list[tuple[datetime, float | None]]) -> None:
    assert charts.lines([charts.Trace("a", points)], "", alt="") == ""
    assert charts.bars([("a", None)], "", alt="") == ""


@pytest.mark.parametrize(
    ("value", "mark"), [(None, "unknown"), (79.0, "ok"), (80.0, "ok"), (80.1, "warn"), (90.1, "fail")]
)
def test_an_assessment_has_the_mark_of_its_check(value: float | None, mark: str) -> None:
    criterion = Criterion("c", value, at_most=90, warn_above=80, unknown="d" if value is None else "")

    assert Assessment("a", "b", criterion).finding({}).mark == mark


def test_a_recommendation_has_since_when_its_finding_is_open_and_who_acknowledged_it() -> None:
    item = Assessment("a", "disk", Criterion("disk: used", 95.0, at_most=90), "it is full", "df -h")
    known = KnownFinding(NOW - timedelta(days=7), "ada", "a disk is ordered", NOW + timedelta(days=7))

    assert item.finding({}).subject == "disk (new)"
    assert item.finding({"disk: used": KnownFinding(known.since)}).subject == "disk (open since 2026-11-17)"
    subject = item.finding({"disk: used": known}).subject
    assert subject == "disk (open since 2026-11-17, acknowledged by ada until 2026-12-01: a disk is ordered)"
