"""Measures of all jobs: one unit per name, and a suffix of the name that agrees with the unit."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator

import pytest
from support.job_runs import JOBS

SUFFIXES = {"_bytes": "B", "_seconds": "s", "_percent": "%", "_days": "day", "_ratio": "", "_rate": "B/s", "_ms": "ms"}
ONE_OF = {"B", "s", "%", "day", "", "B/s", "ms"}
"""Units of measures; others are the singular of what is counted."""


def uses() -> Iterator[tuple[str, str, str]]:
    """Name, unit and place of each measure whose name and unit are constants."""
    for folder in (JOBS, JOBS.parent / "maintd"):
        for path in folder.rglob("*.py"):
            for name, unit, line in measures(path.read_text()):
                yield name, unit, f"{path.relative_to(JOBS.parent)}:{line}"


def measures(source: str) -> Iterator[tuple[str, str, int]]:
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call):
            continue
        named = {keyword.arg: keyword.value for keyword in call.keywords}
        if isinstance(call.func, ast.Attribute) and call.func.attr in ("measure", "increase") and call.args:
            name, unit = call.args[0], call.args[2] if len(call.args) > 2 else named.get("unit", ast.Constant(""))
        elif "measure" in named and len(call.args) > 3:  # a figure of a report: kind, name, value, unit
            name, unit = named["measure"], call.args[3]
        else:
            continue
        if isinstance(name, ast.Constant) and isinstance(unit, ast.Constant):
            yield str(name.value), str(unit.value), call.lineno


def conflicts(found: Iterator[tuple[str, str, str]]) -> list[str]:
    places = defaultdict[str, dict[str, str]](dict)
    wrong = []
    for name, unit, place in found:
        places[name].setdefault(unit, place)
        suffix = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)
        if suffix is not None and unit != SUFFIXES[suffix]:
            wrong.append(f"{place}: {name} is in {unit!r}, not {SUFFIXES[suffix]!r}")
        if unit not in ONE_OF and (unit != unit.lower() or unit.endswith("s") or len(unit) < 3):
            wrong.append(f"{place}: {name} has the unit {unit!r}")
    return wrong + [f"{name}: {units}" for name, units in places.items() if len(units) > 1]


def test_a_measure_has_one_unit_everywhere_and_its_suffix_agrees() -> None:
    found = list(uses())

    assert len(found) > 100
    assert conflicts(iter(found)) == []


@pytest.mark.parametrize(
    "source",
    [
        "ctx.measure('age_days', 1, 'd')",
        "ctx.measure('age_days', 1, 'days')",
        "ctx.measure('x_bytes', 1)",
        "ctx.measure('x_seconds', 1, 'ms')",
        "ctx.measure('x', 1, 'row'); ctx.measure('x', 1)",
        "ctx.measure('x', 1, 'row'); Figure('a', 'b', 1.0, '', 'source', measure='x')",
        "Figure('a', 'b', 1.0, 'KiB', 'source', measure='x_bytes')",
        "ctx.increase('x', 1, 'rows')",
    ],
)
def test_a_name_with_two_units_or_another_unit_is_found(source: str) -> None:
    assert conflicts((name, unit, f"{line}") for name, unit, line in measures(source))
