"""Write the modules that are generated from the data files of this folder: python docs/data/generate.py [--check].

`--check` writes nothing, and exits with 1 when a module is out of date with its data file. Both print how old the data
of each product are. Age is no error: a checkout of any age passes its tests, and `image_updates` warns at run time.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "end_of_life.toml"
MODULE = Path(__file__).parents[2] / "maintd/checks/docker/end_of_life_table.py"
RELEASE = re.compile(r"\d+(\.\d+)*")

HEAD = '''"""Last days of support, by product and release. Generated from docs/data/end_of_life.toml by make data."""

from collections.abc import Mapping
from datetime import date

SUPPORTED = "supported"
"""The value of a release that was supported when its product's data were recorded, without a published end."""

'''


def module(text: str) -> str:
    """The module's text for a data file's text. Raises ValueError naming the product that is wrong."""
    products: dict[str, dict[str, Any]] = tomllib.loads(text)
    for name, product in products.items():
        _validate(name, product)
    sources = "".join(f'    "{name}": "{product["source"]}",\n' for name, product in products.items())
    days = "".join(f'    "{name}": {_date(product["as_of"])},\n' for name, product in products.items())
    ends = "".join(
        f'    "{name}": {{\n'
        + "".join(f'        "{release}": {_end(name, release, end)},\n' for release, end in product["releases"].items())
        + "    },\n"
        for name, product in products.items()
    )
    return (
        f"{HEAD}# The page on which the project publishes its dates.\nSOURCES: Mapping[str, str] = {{\n{sources}}}\n\n"
        f"# The day whose state of that page is recorded here.\nAS_OF: Mapping[str, date] = {{\n{days}}}\n\n"
        "# A date, SUPPORTED, or the reason why the end is unknown.\n"
        f"ENDS: Mapping[str, Mapping[str, date | str]] = {{\n{ends}}}\n"
    )


def _validate(name: str, product: dict[str, Any]) -> None:
    if set(product) != {"source", "as_of", "releases"} or not isinstance(product["as_of"], date):
        raise ValueError(f"{name}: must have source, as_of (a date) and releases")
    figures = [tuple(map(int, release.split("."))) for release in product["releases"] if RELEASE.fullmatch(release)]
    if len(figures) != len(product["releases"]) or figures != sorted(figures):
        raise ValueError(f"{name}: its releases must be numbers, oldest first")


def _date(day: date) -> str:
    return f"date({day.year}, {day.month}, {day.day})"


def _end(name: str, release: str, end: object) -> str:
    if end == "supported":
        return "SUPPORTED"
    if isinstance(end, date):
        return _date(end)
    if isinstance(end, str) and end.strip():
        return '"' + end.replace("\\", r"\\").replace('"', r"\"") + '"'
    raise ValueError(f'{name} {release}: must be a date, "supported" or the reason why it is unknown, not {end!r}')


def ages(text: str, today: date) -> Iterator[str]:
    """A line for each product with the age of its data."""
    for name, product in tomllib.loads(text).items():
        yield f"{name}: as of {product['as_of']}, {(today - product['as_of']).days} days old; see {product['source']}"


def main(arguments: list[str]) -> int:
    """Write or check the module; return the exit code."""
    text = DATA.read_text(encoding="utf-8")
    fresh = module(text)
    print("\n".join(ages(text, datetime.now(UTC).date())))
    if MODULE.exists() and MODULE.read_text(encoding="utf-8") == fresh:
        return 0
    if "--check" in arguments:
        print(f"{MODULE.name} is out of date with {DATA.name}; run: make data")
        return 1
    MODULE.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
