"""Keys for encrypted backups; one that cannot be read is unknown, and the rest is verified without it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maintd.checks.backups.age_encryption import read_identities
from maintd.checks.backups.gpg import Gpg
from maintd.errors import TargetError, UnknownNameError
from maintd.job.context import Context


@dataclass(frozen=True)
class Keys:
    """Keys that open encrypted files. identities: of age; None when none is configured, empty when it cannot be read.

    gpg_configured: whether a key or passphrase is configured; `gpg` is None as well when it cannot be used.
    """

    identities: tuple[Any, ...] | None = None
    gpg: Gpg | None = None
    gpg_configured: bool = False

    def missing(self, kind: str) -> tuple[str, bool] | None:
        """Why a file of this kind, like `tar.gz.age`, cannot be opened, and whether a key is configured; or None."""
        layers = kind.split(".")
        if "age" in layers and not self.identities:
            configured = self.identities is not None
            cause = "the identity could not be read" if configured else "not configured: no identity is set"
            return cause, configured
        if "gpg" in layers and self.gpg is None:
            unset = "not configured: neither gpg_key nor gpg_passphrase is set"
            return ("the key of gpg could not be read" if self.gpg_configured else unset), self.gpg_configured
        return None


NO_KEYS = Keys()


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
