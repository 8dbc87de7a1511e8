"""Search with atheris: `python -m fuzz --target calendar --minutes 5`. See docs/fuzzing.md.

1. A child process fuzzes one target, guided by coverage, from its corpus, until the time is over or it finds something.
2. A finding is kept as `finding-…`. 3. Of the inputs that reach code which no named input reaches, the smallest are
kept while the corpus stays small.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

LONGEST = 4096
"""Maximum bytes of one input; what needs more (an endless line, an alias bomb) has a test of its own."""

_SEARCHED = re.compile(r"[0-9a-f]{16}")

ROOM_FILES, ROOM_BYTES = 190, 250_000
"""Maximum size of a corpus after a search: below what the tests allow, so that findings have room."""


def main() -> int:
    """Return 0 when nothing was found, 1 otherwise, 2 without atheris."""
    parser = argparse.ArgumentParser(prog="fuzz", description="search for inputs that break a property")
    parser.add_argument("--target", default="all")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--child", nargs="*", help=argparse.SUPPRESS)
    asked, rest = parser.parse_known_args()
    if asked.child is not None:
        return _child(asked.target, [*asked.child, *rest])
    from fuzz.targets import TARGETS

    names = list(TARGETS) if asked.target == "all" else [asked.target]
    if unknown := set(names) - set(TARGETS):
        parser.error(f"unknown target: {', '.join(unknown)}; targets are {', '.join(TARGETS)}")
    return max(_search(name, asked.minutes, asked.seed) for name in names)


def _search(target: str, minutes: float, seed: int) -> int:
    from fuzz.targets import CORPUS

    kept = CORPUS / target
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="maintd-fuzz-") as folder:
        new, found = Path(folder) / "new", Path(folder) / "found"
        new.mkdir()
        found.mkdir()
        options = [
            f"-max_total_time={round(minutes * 60)}",
            f"-max_len={LONGEST}",
            "-timeout=20",
            f"-seed={seed}",
            "-rss_limit_mb=3000",
            "-print_final_stats=1",
            f"-artifact_prefix={found}/",
        ]
        print(f"== {target}: {minutes:g} minutes", flush=True)
        status = _run(target, [*options, str(new), str(kept)], Path(folder))
        for path in found.iterdir():
            if path.name.startswith("slow-unit"):  # the property measures the time of this process only
                continue
            name = f"finding-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
            shutil.copy(path, kept / name)
            print(f"found: {kept / name}; rename it after its content")
        best = Path(folder) / "best"
        best.mkdir()
        named = [path for path in kept.iterdir() if not _SEARCHED.fullmatch(path.name)]
        for path in named:
            shutil.copy(path, best)
        merge = ["-merge=1", "-use_counters=0", f"-max_len={LONGEST}", "-timeout=20"]
        _run(target, [*merge, str(best), str(kept), str(new)], Path(folder))
        print(f"== {target}: {_keep(best, named, kept)} inputs kept beside {len(named)} named ones", flush=True)
    return 1 if status else 0


def _run(target: str, options: list[str], folder: Path) -> int:
    """Run in a process whose temporary files are deleted with the folder: libFuzzer exits without cleaning up."""
    return subprocess.run(
        [sys.executable, "-m", "fuzz", "--target", target, "--child", "--", *options],
        check=False,
        env=os.environ | {"TMPDIR": str(folder)},
    ).returncode


def _keep(best: Path, named: list[Path], kept: Path) -> int:
    """Replace the inputs of earlier searches with those of `best`, smallest first, while there is room."""
    have = {path.read_bytes() for path in named}
    size, added = sum(map(len, have)), 0
    found = sorted({path.read_bytes() for path in best.iterdir()} - have, key=lambda data: (len(data), data))
    for path in kept.iterdir():
        if _SEARCHED.fullmatch(path.name):
            path.unlink()
    for data in found[: ROOM_FILES - len(named)]:
        if size + len(data) <= ROOM_BYTES:
            (kept / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
            size, added = size + len(data), added + 1
    return added


def _child(target: str, options: list[str]) -> int:
    try:
        import atheris  # not in the lock file: it has no wheels for some Pythons
    except ImportError:
        print("atheris is not installed; run: make fuzz", file=sys.stderr)
        return 2
    with atheris.instrument_imports(include=["maintd", "cronsim", "oncalendar"]):
        from fuzz.targets import TARGETS
    with TARGETS[target]() as holds:
        # To merge, libFuzzer starts itself again in a shell, by what it takes for the name of the program.
        itself = shlex.join([sys.executable, "-m", "fuzz", "--target", target, "--child", "--"])
        atheris.Setup([itself, *options], holds)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
