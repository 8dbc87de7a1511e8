"""Sets of backups in a folder, and in the folders with their copies: found, counted, and what was not read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from os.path import realpath
from pathlib import Path

from maintd.checks.backups.catalog import find_backups
from maintd.checks.backups.evaluate import BackupSet, Expected, copy_criteria, group
from maintd.clients.files import shown
from maintd.job.context import Context

_ACCESS = "grant read access, or exclude them by the patterns"


@dataclass(frozen=True)
class Selection:
    """Which files are backups, and what is expected of them, by pattern of the path or name."""

    patterns: Sequence[str]
    exclude: Sequence[str]
    expect: Mapping[str, Expected]
    others_recur: bool = False  # new backups of the series outside of `expect` are needed, too


def find_sets(ctx: Context, selection: Selection, root: Path, name: str) -> list[BackupSet]:
    """Find the backups below a folder and group them into sets. Raises TargetError when it cannot be opened."""
    subject = f"backups in {name or shown(root)}"
    found = find_backups(Path(realpath(root)), selection.patterns, selection.exclude, selection.expect, now=ctx.now())
    if found.unread:
        cause = f"{len(found.unread)} not: {'; '.join(found.unread[:3])}"
        ctx.unknown(f"{subject}: folders read", cause, hint=_ACCESS)
    hint = (
        f"no file in {shown(root)} matches {', '.join(selection.patterns)}: "
        "correct the param patterns, or check the job that makes the backups"
    )
    ctx.check(subject, len(found.backups), at_least=1, hint=hint)
    if found.tally.not_understood:
        hint = (
            "verify them by other means and name them in the param exclude, or add a pattern with kind: data to expect"
        )
        ctx.report([found.tally.criterion(f"{subject}: kinds of files", "files", at_most_share=0, hint=hint)])
    return group(found.backups, selection.expect, others_recur=selection.others_recur)


def compare_with_copies(
    ctx: Context,
    selection: Selection,
    sets: Sequence[BackupSet],
    root: Path,
    name: str,
    max_age: timedelta,
    within: timedelta,
) -> None:
    """Compare sets with their copies in another folder. `within`: added to the maximum age of a set's copies."""
    place = Path(realpath(root))
    found = find_backups(place, selection.patterns, selection.exclude, selection.expect, now=ctx.now())
    if found.unread:
        ctx.unknown(f"copies in {name}: folders read", "; ".join(found.unread[:3]), hint=_ACCESS)
    copies = {one.name: one for one in group(found.backups, selection.expect)}
    for one in sets:
        if one.backups:
            oldest = (one.expected.max_age or max_age) + within
            ctx.report(copy_criteria(one, copies.get(one.name), ctx.now(), oldest), f"{one.name} in {name}")


def devices_of(ctx: Context, folders: Sequence[Path]) -> list[int]:
    """The devices of the folders with live data; one that cannot be accessed is unknown."""
    devices = []
    for folder in folders:
        try:
            devices.append(folder.stat().st_dev)
        except OSError as error:
            ctx.unknown(
                f"data in {shown(folder)}",
                str(error.strerror),
                hint="mount it here, or remove it from the param data: whether copies are on its disk is not known",
            )
    return devices
