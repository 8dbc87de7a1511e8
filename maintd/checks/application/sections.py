"""Sections of the application review's report: images, limits, runtimes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from maintd.checks.application.images import ImageSize
from maintd.checks.application.limits import Used
from maintd.checks.application.runtimes import Runtimes
from maintd.clients.docker import Container
from maintd.job.attempt_info import Point
from maintd.reports import charts, formatting
from maintd.reports.document import Cell, Chart, Section, Table, columns, number_cell

_CHARTED = 8


class Limited(NamedTuple):
    """A container with what it used."""

    container: Container
    memory: Used | None
    cpu: Used | None


def images_section(engine: str, images: Sequence[ImageSize], earlier: Mapping[str, Sequence[Point]]) -> Section:
    """Sizes and layers now, and the sizes of earlier runs by service."""
    rows = tuple(
        (
            Cell(item.service),
            Cell(item.name),
            number_cell(item.size_bytes, "B"),
            number_cell(earlier[item.service][0].value if earlier.get(item.service) else None, "B"),
            number_cell(item.layers, ""),
        )
        for item in sorted(images, key=lambda item: -item.size_bytes)
    )
    table = Table("Images in use", columns("Service", "Image", "Size>", "First run>", "Layers>"), rows, "no container")
    largest = sorted(images, key=lambda item: -item.size_bytes)[:_CHARTED]
    words = "; ".join(f"{item.service} {formatting.amount(item.size_bytes, 'B')}" for item in largest)
    svg = charts.bars(
        [(item.service, float(item.size_bytes)) for item in largest], "B", alt=f"Sizes of images: {words}"
    )
    drawn = (Chart(f"Sizes of images on {engine}, now", svg, words),) if svg else ()
    return Section(f"Images on {engine}", (), drawn, (table,), (f"Source: the engine {engine}, now.",))


def limits_section(engine: str, limited: Sequence[Limited], window: str) -> Section:
    """Limits and quantiles of each container."""
    rows = []
    for item in limited:
        for kind, unit, limit, used in (
            ("memory", "B", float(item.container.memory_limit), item.memory),
            ("CPU", "CPUs", item.container.cpu_limit, item.cpu),
        ):
            rows.append(
                (
                    Cell(item.container.label),
                    Cell(kind),
                    number_cell(limit or None, unit, missing="none"),
                    number_cell(used.p95 if used else None, unit, missing="not measured"),
                    number_cell(used.p99 if used else None, unit, missing="not measured"),
                    Cell(formatting.share(used.coverage if used else None)),
                    Cell(used.source if used else "–"),
                )
            )
    heads = columns("Container", "Limit of", "Limit>", "p95>", "p99>", "Coverage>", "Source")
    table = Table("Limits and use", heads, tuple(rows), "no container runs")
    return Section(f"Limits on {engine}", (), (), (table,), (f"Window: {window}, in steps of 5 minutes.",))


def runtimes_section(server: str, found: Runtimes, window: str) -> Section:
    """Which runtime each scrape target exports, and its numbers."""
    rows = tuple(
        (
            Cell(job),
            Cell(instance),
            Cell(", ".join(sorted(names)) or "none exported", mark="" if names else "warn"),
            Cell(formatting.share(found.coverage[job, instance])),
        )
        for (job, instance), names in sorted(found.targets.items())
    )
    values = tuple(
        (Cell(instance), Cell(f"{runtime} {name}".strip()), Cell(f"{value:.4g}", value))
        for (runtime, name), by_target in found.values.items()
        for (job, instance), value in sorted(by_target.items())
        if (names := found.targets.get((job, instance))) and (not runtime or runtime in names)
    )
    tables = (
        Table("Runtimes", columns("Job", "Instance", "Runtime", "Coverage>"), rows, "no scrape target"),
        Table("Numbers of runtimes", columns("Instance", "What", "Value>"), values, "none"),
    )
    return Section(f"Runtimes in {server}", (), (), tables, (f"Source: {server}; window: {window}.",))
