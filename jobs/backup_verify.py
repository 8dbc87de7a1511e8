"""Verify that the newest backup of each set is recent, unchanged since it was made, and readable to its last byte.

Runbook: Weekly Maintenance, System Cleanup, step 5 "Backup Verification"

`level: age` checks backups without reading them: present, recent, of typical size, private. `level: checksum` also
compares the sha256 that was recorded when the backup was made. `level: decode` also decrypts, decompresses and parses
everything inside, and compares tables, rows and members with what is expected. Supports tar, pg_dump's formats, SQL of
mysqldump and sqlite3, base backups, snapshots and append-only files of Redis and Valkey, zip, SQLite, inside of gzip,
zstd, xz, bzip2, age and gpg. What is not supported is named and unknown. A pattern in `expect` without any file fails.
Read-only; nothing is unpacked beside the backups.
"""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta
from os.path import realpath
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from maintd.checks.backups.discovery import Selection, compare_with_copies, devices_of, find_sets
from maintd.checks.backups.evaluate import Expected
from maintd.checks.backups.keys import load_identities, open_gpg
from maintd.checks.backups.stream import ExpansionLimits
from maintd.checks.backups.verify import BackupVerifier, VerifyOptions, report_metadata
from maintd.checks.probes import isolate_errors
from maintd.checks.requirements.jobs.backups import backup_verify as requirements
from maintd.clients.files import shown
from maintd.job import Context, Duration, JobParams, Size, TargetError, job


class Params(JobParams):
    root: Path | None = None
    """Folder with the backups; default: those of the folder targets in `folders`."""
    folders: tuple[str, ...] = ("backups",)
    """Folder targets with backups."""
    patterns: tuple[str, ...] = ("**/*",)
    """Which files are backups, by path in the folder; `**/*` selects all files with the suffix of a known format."""
    exclude: tuple[str, ...] = ()
    """Patterns of files to ignore."""
    level: Literal["age", "checksum", "decode"] = "decode"
    """How thoroughly to verify; each level includes those before."""
    expect: dict[str, Expected] = {}
    """Expectations by pattern of the path or name; default: a new backup of each series."""
    others: Literal["once", "recurring"] = "once"
    """Whether new backups of the series outside of `expect` are needed, too; without `expect` they always are."""
    offsite: tuple[str, ...] = ()
    """Folder targets with copies of the same files in another place; each set needs a recent copy of the same size."""
    offsite_within: Duration = timedelta(hours=26)
    """Time in which a backup is copied: added to the maximum age of the copies."""
    warn_age: Duration = timedelta(hours=26)
    """A newest backup older than this warns."""
    max_age: Duration = timedelta(hours=50)
    """A newest backup older than this fails."""
    newest: int = Field(default=1, ge=1)
    """Number of newest backups of each set to read."""
    older: int = Field(default=1, ge=0)
    """Number of older backups of each set to read, different ones each day."""
    private: bool = True
    """A backup that others than its owner may read warns."""
    data: tuple[Path, ...] = ()
    """Folders with live data; a backup on the same device warns."""
    identity: Path | None = None
    """age key file, for encrypted backups."""
    gpg_key: Path | None = None
    """File with a secret key, written by `gpg --export-secret-keys`, for backups that gpg encrypted."""
    gpg_passphrase: Path | None = None
    """File with the passphrase of `gpg_key`, or of backups that were encrypted by `gpg --symmetric`."""
    pg_bin: Path | None = None
    """Folder with pg_restore and pg_verifybackup of the server's version, to run them too."""
    max_plain: Size = 4 * 2**40
    """A backup that expands beyond this is unknown: the rest of it is not verified."""
    max_ratio: float = Field(default=300, gt=1)
    """A backup that expands to more than this many times its size is unknown: the rest of it is not verified."""
    max_members: int = Field(default=5_000_000, ge=1)
    """A tar or zip archive with more members is unknown: the rest of it is not verified."""


@job(timeout="2h", repeatable=True, locks={"backups": "shared"}, history_of="job", requires=requirements)
def run(ctx: Context, params: Params) -> None:
    if params.root is None and "folders" not in params.model_fields_set and "backups" not in ctx.targets.folders:
        hint = "set targets.folders.backups in the calendar, or the param root"
        raise TargetError('no folder "backups" is configured', hint, cause="not_configured")
    data_devices = devices_of(ctx, params.data)
    records: list[dict[str, Any]] = []
    with ExitStack() as stack:
        options = verify_options(ctx, params, stack)
        # Reading takes long: what was read before a failure is kept.
        stack.callback(save_records, ctx, records)
        for name in ("",) if params.root else params.folders:
            # Each folder is checked by itself: one that is missing does not hide what is in the next.
            with isolate_errors(ctx, f"backups in {name or shown(params.root)}", expected="readable"):
                root = params.root or ctx.target("folders", name).path
                verify_folder(ctx, params, options, root, name, data_devices, records)


def save_records(ctx: Context, records: list[dict[str, Any]]) -> None:
    """Save what was read of each backup as an artifact."""
    if records:
        ctx.save("backups-read.json", json.dumps({"backups": records}, indent=1), "application/json")


def verify_folder(
    ctx: Context,
    params: Params,
    options: VerifyOptions,
    root: Path,
    name: str,
    data_devices: Sequence[int],
    records: list[dict[str, Any]],
) -> None:
    """Check the backups in one folder. Raises TargetError when the folder cannot be opened."""
    selection = Selection(params.patterns, params.exclude, params.expect, others_recur=params.others == "recurring")
    with ctx.phase(f"find backups in {shown(root)}"):
        sets = find_sets(ctx, selection, root, name)
    for backup_set in sets:
        with (
            ctx.phase(f"{backup_set.name}: check age, size and mode"),
            isolate_errors(ctx, f"{backup_set.name}: metadata"),
        ):
            report_metadata(
                ctx,
                backup_set,
                warn_age=params.warn_age,
                max_age=params.max_age,
                private=params.private,
                data_devices=data_devices,
                decode=params.level == "decode",
            )
    for copies in params.offsite:
        with ctx.phase(f"compare with the copies in {copies}"), isolate_errors(ctx, f"copies in {copies}"):
            place = ctx.target("folders", copies).path
            compare_with_copies(ctx, selection, sets, place, copies, params.max_age, params.offsite_within)
    if params.level != "age":
        BackupVerifier(ctx, options, Path(realpath(root)), records).verify(sets)


def verify_options(ctx: Context, params: Params, stack: ExitStack) -> VerifyOptions:
    """The options of the verifier. A key file that cannot be read is unknown, and the rest is verified without it."""
    decode = params.level == "decode"
    return VerifyOptions(
        level=params.level,
        newest=params.newest,
        older=params.older,
        limits=ExpansionLimits(params.max_plain, params.max_ratio, params.max_members),
        identities=load_identities(ctx, params.identity) if params.identity else (),
        gpg=open_gpg(ctx, stack, params.gpg_key, params.gpg_passphrase) if decode else None,
        pg_bin=params.pg_bin,
    )
