"""The reports folder: only what was written there is deleted, and nothing is overwritten."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from maintd.reports import publish

REPORT = {"md": "new", "json": "{}"}


def write(folder: Path, name: str, *, keep: int = 2, dry_run: bool = False, kind: str = "capacity") -> list[str]:
    """Publish a report; return its changes as `write NAME` and `delete NAME`."""
    changes: list[str] = []

    @contextmanager
    def change(action: str, path: Path) -> Iterator[bool]:
        changes.append(f"{action} {path.name}")
        yield not dry_run

    files = {suffix: f"{name} {text} {len(list(folder.glob('*')))}" for suffix, text in REPORT.items()}
    publish.publish_files(files, name, folder, kind=kind, keep=keep, change=change)
    return changes


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_only_the_newest_reports_are_kept(tmp_path: Path) -> None:
    for stamp in ("202608", "202609", "202610"):
        write(tmp_path, f"capacity-{stamp}")

    changes = write(tmp_path, "capacity-202611")

    assert changes == [
        "write capacity-202611.md",
        "write capacity-202611.json",
        "delete capacity-202609.json",
        "delete capacity-202609.md",
    ]
    assert {name.split(".")[0] for name in names(tmp_path)} == {"capacity-202610", "capacity-202611"}


@pytest.mark.parametrize(
    "name", ["capacity-202601.md", "capacity-20260101.html", "capacity-202601-2.json", "capacity-202601.txt"]
)
def test_a_file_of_another_program_is_never_deleted(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("notes of an operator")
    for stamp in ("202608", "202609", "202610"):
        write(tmp_path, f"capacity-{stamp}", keep=1)

    assert (tmp_path / name).read_text() == "notes of an operator"


def test_a_report_that_was_edited_is_not_deleted(tmp_path: Path) -> None:
    write(tmp_path, "capacity-202601")
    with (tmp_path / "capacity-202601.md").open("a") as file:
        file.write("\nAgreed on Monday: order a larger disk.\n")

    write(tmp_path, "capacity-202602", keep=1)

    assert "capacity-202601.md" in names(tmp_path)
    assert "capacity-202601.json" not in names(tmp_path)


def test_a_link_or_folder_in_the_place_of_a_report_is_not_deleted(tmp_path: Path) -> None:
    write(tmp_path, "capacity-202601")
    original = tmp_path.parent / f"{tmp_path.name}-original.md"
    (tmp_path / "capacity-202601.md").rename(original)
    (tmp_path / "capacity-202601.md").symlink_to(original)
    (tmp_path / "capacity-202601.json").unlink()
    (tmp_path / "capacity-202601.json").mkdir()

    changes = write(tmp_path, "capacity-202602", keep=1)

    assert changes == ["write capacity-202602.md", "write capacity-202602.json"]
    assert original.exists()


@pytest.mark.parametrize("kind", ["file", "link", "dangling link", "folder", "other suffix"])
def test_a_report_never_replaces_what_is_there(tmp_path: Path, kind: str) -> None:
    there = tmp_path / f"capacity-202611.{'json' if kind == 'other suffix' else 'md'}"
    if kind == "folder":
        there.mkdir()
    elif kind == "dangling link":
        there.symlink_to(tmp_path / "elsewhere")
    elif kind == "link":
        there.symlink_to(os.devnull)
    else:
        there.write_text("of an operator")

    changes = write(tmp_path, "capacity-202611")

    assert changes == ["write capacity-202611-2.md", "write capacity-202611-2.json"]
    assert not (tmp_path / "elsewhere").exists()
    if there.is_file() and not there.is_symlink():
        assert there.read_text() == "of an operator"


def test_reports_of_one_day_are_kept_side_by_side_and_count_as_reports(tmp_path: Path) -> None:
    for _ in range(12):
        write(tmp_path, "capacity-202611", keep=3)

    assert {name.split(".")[0] for name in names(tmp_path)} == {f"capacity-202611-{number}" for number in (10, 11, 12)}


@pytest.mark.parametrize("earlier", range(5))
@pytest.mark.parametrize("keep", [1, 2, 4])
def test_a_dry_run_plans_exactly_what_the_run_does(tmp_path: Path, earlier: int, keep: int) -> None:
    for number in range(earlier):
        write(tmp_path, f"capacity-2026{number + 1:02d}", keep=10)
    (tmp_path / "capacity-202601-2.md").write_text("of an operator")

    planned = write(tmp_path, "capacity-202603", keep=keep, dry_run=True)
    before = names(tmp_path)
    done = write(tmp_path, "capacity-202603", keep=keep)

    assert planned == done
    assert len(before) == 2 * earlier + 1


def test_a_dry_run_in_a_folder_that_is_not_there_creates_nothing(tmp_path: Path) -> None:
    assert write(tmp_path / "reports", "capacity-202611", dry_run=True) == [
        "write capacity-202611.md",
        "write capacity-202611.json",
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_report_of_an_earlier_date_is_not_deleted_as_soon_as_it_is_written(tmp_path: Path) -> None:
    for stamp in ("202609", "202610", "202611"):
        write(tmp_path, f"capacity-{stamp}", keep=3)

    write(tmp_path, "capacity-202601", keep=3)

    assert "capacity-202601.md" in names(tmp_path)


def test_kinds_do_not_delete_each_other(tmp_path: Path) -> None:
    write(tmp_path, "performance-20260101", kind="performance", keep=1)

    write(tmp_path, "capacity-202611", keep=1)

    assert "performance-20260101.md" in names(tmp_path)


@pytest.mark.parametrize(
    "line",
    ["0" * 64 + "  capacity-202601.md", "junk", "", "\x00" * 80, "0" * 64 + "  ../capacity-202601.md", "é" * 5000],
)
def test_a_damaged_record_deletes_nothing_that_it_does_not_prove(tmp_path: Path, line: str) -> None:
    (tmp_path / "capacity-202601.md").write_text("of an operator")
    (tmp_path.parent / "capacity-202601.md").write_text("outside")
    (tmp_path / publish.RECORD).write_text(line + "\n")

    write(tmp_path, "capacity-202611", keep=1)

    assert (tmp_path / "capacity-202601.md").read_text() == "of an operator"
    assert (tmp_path.parent / "capacity-202601.md").read_text() == "outside"


def test_a_temporary_file_left_by_a_crash_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / f".capacity-202611.md.{os.getpid()}.part").write_text("half")

    write(tmp_path, "capacity-202611")

    assert (tmp_path / "capacity-202611.md").read_text().startswith("capacity-202611 new")
    assert not list(tmp_path.glob(".*.part"))
