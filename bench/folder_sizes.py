"""How fast the sizes of folders are computed: `du` against the job capacity_report's reading of a folder.

    python bench/folder_sizes.py [--files 200000] [--repeat 5] [--folder /var/tmp]

Makes a tree of so many small files in folders of a hundred, three deep, one in fifty a hard link, then computes its
size in each way, warm, the best of the repeats. Prints seconds, files per second, the ratio to `du -s`, and whether the
result is the same.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

from maintd.checks.host.folder_sizes import sizes  # noqa: E402
from maintd.clients.files import Tree, disk_bytes  # noqa: E402

PER_FOLDER = 100


def main() -> None:
    """Create the tree, compute its size in each way, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="maintd-folders-", dir=options.folder) as name:
        root = Path(name)
        make(root, options.files)
        ways: dict[str, Callable[[], int | None]] = {
            "du -s": lambda: du(root),
            "os.scandir with stat, no more": lambda: scan(str(root)),
            "folder_sizes, by direct child": lambda: int(sum(sizes(root, timedelta(hours=1))[0].values())),
            "Tree.walk, never through a link": lambda: walk(root),
        }
        took = {way: float("inf") for way in ways}
        results: dict[str, int | None] = {}
        for _ in range(options.repeat):  # each round times all ways, so that a busy machine affects all
            for way, compute in ways.items():
                began = time.perf_counter()
                results[way] = compute()
                took[way] = min(took[way], time.perf_counter() - began)
        print(f"{options.files:,} files, best of {options.repeat}\n")
        print("| how | s | files/s | × | as du |\n|---|---|---|---|---|")
        for way, seconds in took.items():
            same = {None: "–", results["du -s"]: "yes"}.get(results[way], "NO")
            print(
                f"| {way} | {seconds:.2f} | {options.files / seconds:,.0f} | {seconds / took['du -s']:.1f} | {same} |"
            )


def du(root: Path) -> int:
    done = subprocess.run(["du", "-sx", "--block-size=512", str(root)], check=True, capture_output=True)
    return int(done.stdout.split()[0]) * 512


def scan(folder: str) -> None:
    """The floor for Python: every entry listed and stat called."""
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)


def walk(root: Path) -> None:
    # Folders themselves are not counted, so the result differs from du's.
    with Tree(root) as tree:
        disk_bytes(tree.walk())


def make(root: Path, files: int) -> None:
    """Write files of 10 to 1,000 bytes."""
    for number in range(files):
        folder = number // PER_FOLDER
        path = root / f"{folder % 10}" / f"{folder // 10 % 10}" / f"{folder}"
        if number % PER_FOLDER == 0:
            path.mkdir(parents=True)
        if number % 50 == 49:
            os.link(path / f"file-{number - 1}", path / f"file-{number}")
        else:
            (path / f"file-{number}").write_bytes(b"x" * (10 + number % 990))


if __name__ == "__main__":
    main()
