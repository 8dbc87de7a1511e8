"""The files of a set that maintd made, compared with its manifest without reading them."""

from __future__ import annotations

from pathlib import Path

from maintd.checks.backup_sets.layout import MANIFEST, SUMS, read_manifest
from maintd.checks.backups.catalog import read_checksums


def compare_manifest(folder: Path) -> tuple[list[str], list[str]]:
    """What differs between the manifest, the list of sums and the files; and the parts that the set was made without.

    Raises OSError when the folder cannot be read.
    """
    try:
        manifest = read_manifest(folder)
        files = {str(name): (int(file["size_bytes"]), str(file["sha256"])) for name, file in manifest["files"].items()}
        missing = [str(name) for name in manifest["missing"]]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        return [f"{MANIFEST}: {error}"], []
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    sums = dict(read_checksums(folder / SUMS)) if SUMS in sizes else {}
    differences = [] if sums else [f"{SUMS} is missing or empty"]
    for name, (size, sha256) in files.items():
        if name not in sizes:
            differences.append(f"{name} is missing")
        elif sizes[name] != size:
            differences.append(f"{name} has {sizes[name]} bytes, not {size}")
        elif sums and sums.get(name) != sha256:
            differences.append(f"{name} has another sum in {SUMS}")
    known = {*files, MANIFEST, SUMS}
    return differences + [f"{name} is not in the manifest" for name in sorted(sizes.keys() - known)], missing


def is_sealed(path: Path) -> bool:
    """Whether a file was encrypted, and decoded before, when its set was made, by the manifest beside it."""
    try:
        file = read_manifest(path.parent)["files"][path.name]
        return str(file["kind"]).endswith(".age") and file["verified"] == "decode"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
