"""What is wrong with the files of secrets: their age, mode and content."""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from maintd.checks.backup_sets.writer import os_errors
from maintd.checks.hints import command
from maintd.checks.secrets.files import SecretFile, read_file
from maintd.checks.secrets.values import entropy_bits, is_default
from maintd.checks.secrets.versions import FOLDER
from maintd.clients.files import instant_of, shown
from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus
from maintd.model.target import Secret, SecretsTarget

_ALLOWED = (0o600, 0o400)
_FAR_OLDER = 2
"""Times `max_age`, from which on an age fails."""


@dataclass(frozen=True)
class Found:
    """A file of a registered secret. `example`: it has the value of its example; None: there is none to compare."""

    name: str
    secret: Secret
    file: SecretFile
    example: bool | None

    def age(self, now: datetime) -> timedelta:
        """Time since it was written."""
        return now - instant_of(self.file.modified_ns / 1e9)


def collect(target: SecretsTarget, name: str) -> Found:
    """Read the file of one secret. Raises TargetError."""
    secret = target.secrets[name]
    path = target.path / (secret.file or name)
    file = read_file(path)
    beside = path.with_name(f"{path.name}.example")
    example = secret.example or (beside if beside.exists() else None)
    same = read_file(example).value.strip() == file.value.strip() if example is not None else None
    return Found(name, secret, file, same)


def evaluate(found: Found, now: datetime) -> Iterator[Criterion]:
    """The criteria of one secret."""
    name, secret, file = found.name, found.secret, found.file
    if secret.kind != "derived":
        yield _age(found, now)
    mode = f"{file.mode:04o}"
    open_to_all = bool(file.mode & (stat.S_IRWXO | stat.S_IWGRP))
    hint = f"{command('chmod', '0600', secret.file or name)}; a group that must read it: 0640"
    yield Criterion(
        f"mode of {name}",
        mode,
        one_of=[f"{allowed:04o}" for allowed in _ALLOWED],
        severity=CheckStatus.FAIL if open_to_all else CheckStatus.WARN,
        hint=hint,
    )
    text = file.value.decode(errors="replace")
    empty = not text.strip()
    yield Criterion(
        f"content of {name}", "empty" if empty else "a value", equals="a value", hint="write a value into it"
    )
    if empty:
        return
    hint = "write it without a line end: some programs take it for a part of the value"
    yield Criterion(
        f"white space around {name}",
        "some" if text != text.strip() else "none",
        equals="none",
        severity=CheckStatus.WARN,
        hint=hint,
    )
    if not secret.min_bits or secret.kind == "derived":
        return
    default = "its example" if found.example else "a default" if is_default(text) else "its own"
    yield Criterion(f"value of {name}", default, equals="its own", hint="rotate it: this value is public")
    yield Criterion(
        f"entropy of {name}",
        math.floor(entropy_bits(text.strip())),
        at_least=secret.min_bits,
        severity=CheckStatus.WARN,
        unit="bit",
        hint="rotate it: it can be guessed; for what is no secret by itself set min_bits: 0",
    )


def _age(found: Found, now: datetime) -> Criterion:
    age = found.age(now)
    if age < timedelta(minutes=-5):
        cause = "the file is from the future: its age is not known"
        hint = "correct the clock, or touch it"
        return Criterion(f"age of {found.name}", unknown=cause, at_most=found.secret.max_age, hint=hint)
    by_hand = found.secret.procedure or "issue a new one where it comes from, and write it into its file"
    hint = (
        "run: maintd trigger secrets-rotation" if found.secret.kind == "generated" else f"rotate it by hand: {by_hand}"
    )
    most = found.secret.max_age * _FAR_OLDER
    return Criterion(
        f"age of {found.name}", max(age, timedelta()), at_most=most, warn_above=found.secret.max_age, hint=hint
    )


def evaluate_together(found: Mapping[str, Found]) -> Iterator[Criterion]:
    """The criteria of several secrets: no two have the same value."""
    for name, one in found.items():
        if one.secret.kind == "derived" or not one.secret.min_bits:
            continue
        value = one.file.value.strip()
        same = sorted(
            other
            for other, item in found.items()
            if other != name and item.secret.min_bits and value and item.file.value.strip() == value
        )
        hint = f"rotate {name}: who knows one knows both"
        yield Criterion(f"others with the value of {name}", ", ".join(same) or "none", equals="none", hint=hint)


def unregistered(target: SecretsTarget) -> list[str]:
    """Files of the folder that no secret names; maintd never writes them. Raises TargetError."""
    known = {secret.file or name for name, secret in target.secrets.items()}
    known |= {secret.user_file for secret in target.secrets.values() if secret.user_file}
    with os_errors(target.path):
        names = [path.name for path in target.path.iterdir() if path.is_file() and not path.name.startswith(".")]
    return sorted(shown(name) for name in names if name not in known and not name.endswith(".example"))


def folder_criteria(target: SecretsTarget) -> Iterator[Criterion]:
    """The criteria of the folder itself. Raises TargetError."""
    with os_errors(target.path):
        mode = stat.S_IMODE(target.path.stat().st_mode)
    others = "some" if mode & stat.S_IRWXO else "none"
    yield Criterion(
        "rights of others in the folder", others, equals="none", hint=command("chmod", "0700", str(target.path))
    )
    names = ", ".join(unregistered(target)[:20]) or "none"
    hint = "add them to the secrets of the target, or remove them; maintd never writes them"
    yield Criterion("files that no secret names", names, equals="none", severity=CheckStatus.WARN, hint=hint)


def leftover(target: SecretsTarget) -> list[str]:
    """Names of rotations under way in the folder that no secret names any more. Raises TargetError."""
    path = Path(target.path) / FOLDER
    with os_errors(path):
        if not path.is_dir():
            return []
        found = [item.parent.name for item in path.glob("*/journal.json")]
    return sorted(name for name in found if target.secrets.get(name, Secret()).kind != "generated")
