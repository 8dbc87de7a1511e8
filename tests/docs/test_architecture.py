"""docs/architecture.md lists the packages and modules that exist, and import-linter's layers."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")

LARGE = 150
"""Lines above which a module must be listed."""


def _listed() -> dict[str, list[str]]:
    """Package → its listed modules, as paths from the top."""
    section = TEXT.split("## Packages and modules\n")[1].split("\n## ")[0]
    found: dict[str, list[str]] = {}
    package = ""
    for line in section.splitlines():
        if heading := re.match(r"\*\*`(\S+)/`\*\* \S", line):
            package = heading[1]
            found[package] = []
        elif module := re.match(r"- `(\S+)`: \S", line):
            path = (ROOT / package / module[1]).resolve()
            found[package].append(str(path.relative_to(ROOT)))
    return found


def _tree() -> list[Path]:
    return [path for path in sorted((ROOT / "maintd").rglob("*.py")) if "__pycache__" not in path.parts]


def test_every_listed_module_exists() -> None:
    listed = [module for modules in _listed().values() for module in modules]

    assert [module for module in listed if not (ROOT / module).is_file()] == []
    assert len(listed) == len(set(listed))


def test_every_package_is_listed() -> None:
    packages = {str(path.parent.relative_to(ROOT)) for path in _tree()}

    assert set(_listed()) == packages


def test_every_large_module_is_listed() -> None:
    listed = {module for modules in _listed().values() for module in modules}
    large = {
        str(path.relative_to(ROOT)) for path in _tree() if len(path.read_text(encoding="utf-8").splitlines()) > LARGE
    }

    assert sorted(large - listed) == []


def test_every_layer_is_drawn_in_its_order() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    drawn = re.search(r"## Layers\n.*?```text\n(.*?)```", TEXT, re.DOTALL)
    assert drawn is not None

    rows = [re.split(r"\s{2,}", line)[0] for line in drawn[1].splitlines()]

    assert rows == [layer.replace("maintd.", "") for layer in layers]


def test_every_part_of_maintd_has_a_layer() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    named = {part.removeprefix("maintd.") for row in layers for part in row.split(" | ")}
    parts = {
        path.stem for path in (ROOT / "maintd").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }

    assert parts - named == {"__init__", "__main__"}


def test_every_top_folder_is_listed() -> None:
    section = TEXT.split("## Other folders\n")[1]
    folders = {f"{name}/" for name in ("jobs", "docs", "docs/data", "deploy", "bench") if (ROOT / name).is_dir()}
    folders |= {
        f"tests/{path.name}/" for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"
    }

    assert set(re.findall(r"`([\w/]+/)`", section)) == folders


def test_every_decision_record_is_in_the_index() -> None:
    folder = ROOT / "docs/decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")

    assert [path.name for path in sorted(folder.glob("0*.md")) if f"({path.name})" not in index] == []


def test_the_top_level_holds_only_what_belongs_there() -> None:
    """The top level is agreed with the customer; a new file belongs into one of its folders."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    top = {path.split("/")[0] for path in tracked}
    files = {"pyproject.toml", "schedules.yaml", "Dockerfile", "Makefile", "uv.lock", ".gitignore", ".dockerignore"}
    files |= {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE"}
    folders = {"maintd", "jobs", "deploy", "tests", "docs", "bench", ".ci"}

    assert sorted(top - files - folders) == []
