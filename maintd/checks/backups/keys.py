"""Keys for encrypted backups; one that cannot be read is unknown, and the rest is verified without it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from maintd.checks.backups.age_encryption import read_identities
from maintd.checks.backups.gpg import Gpg
from maintd.errors import TargetError, UnknownNameError
from maintd.job.context import Context


def load_identities(ctx: Context, path: Path) -> tuple[Any, ...]:
    """The age identities in a file; empty when it cannot be read, which is reported."""
    try:
        return tuple(read_identities(path))
    except (TargetError, UnknownNameError) as error:
        ctx.report_error("identity", error)
        return ()


def open_gpg(ctx: Context, stack: ExitStack, key: Path | None, passphrase: Path | None) -> Gpg | None:
    """gpg with its key, until `stack` is closed; None without a key, or when it cannot be read, which is reported."""
    if key is None and passphrase is None:
        return None
    try:
        return stack.enter_context(Gpg(key, passphrase, ctx.work_dir))
    except TargetError as error:
        ctx.report_error("gpg key", error)
        return None
