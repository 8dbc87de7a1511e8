"""References `${NAME}` and `${file:/run/secrets/x}` in params and targets. Only the child process resolves them.

A third kind, `${secret:ENTRY.STEP.PARAM}`, refers to a secret that the calendar has in plain text, see
`maintd.secret_params`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, SecretStr

from maintd.errors import JobError
from maintd.secret_params import REFERENCE

M = TypeVar("M", bound=BaseModel)


def has_reference(value: Any) -> bool:
    """True for a string that contains a reference."""
    return isinstance(value, str) and REFERENCE.search(value) is not None


def resolve_references(value: Any, environ: Mapping[str, str], secrets: Mapping[str, str] | None = None) -> Any:
    """Replace references in all strings of a value; `secrets` are those of the calendar by name.

    Raises JobError for a missing variable or secret, or an unreadable file.
    """
    if isinstance(value, str):
        if "${" not in value:
            return value
        return REFERENCE.sub(lambda match: _resolve(match[0][2:-1], environ, secrets), value)
    if value is None or isinstance(value, int | float):  # before the search for abstract classes, which is slow
        return value
    if isinstance(value, tuple):
        return tuple(resolve_references(item, environ, secrets) for item in value)
    if isinstance(value, list):
        return [resolve_references(item, environ, secrets) for item in value]
    if isinstance(value, dict | Mapping):
        return {key: resolve_references(item, environ, secrets) for key, item in value.items()}
    if isinstance(value, SecretStr):
        return SecretStr(resolve_references(value.get_secret_value(), environ, secrets))
    return value


def resolve_each(value: Any, environ: Mapping[str, str]) -> tuple[Any, dict[str, JobError]]:
    """A JSON value with those references replaced that can be, and the errors of the others, which stay as they are."""
    errors: dict[str, JobError] = {}

    def resolve(match: re.Match[str]) -> str:
        try:
            return _resolve(match[0][2:-1], environ, None)
        except JobError as error:
            errors[match[0]] = error
            return match[0]

    def walk(inner: Any) -> Any:
        if isinstance(inner, str):
            return REFERENCE.sub(resolve, inner)
        if isinstance(inner, list):
            return [walk(item) for item in inner]
        if isinstance(inner, dict):
            return {key: walk(item) for key, item in inner.items()}
        return inner

    return walk(value), errors


def referenced_values(value: Any, environ: Mapping[str, str], secrets: Mapping[str, str] | None = None) -> set[str]:
    """The values of all references in a value, to be redacted in logs. Unresolvable ones are ignored."""
    if isinstance(value, str):
        found = set()
        for match in REFERENCE.finditer(value):
            with suppress(JobError):
                found.add(_resolve(match[0][2:-1], environ, secrets))
        return found
    if isinstance(value, SecretStr):
        return referenced_values(value.get_secret_value(), environ, secrets)
    if isinstance(value, Mapping):
        return set().union(*(referenced_values(item, environ, secrets) for item in value.values()))
    if isinstance(value, tuple | list):
        return set().union(*(referenced_values(item, environ, secrets) for item in value))
    return set()


def resolved(target: M) -> M:
    """The target with its references resolved from the environment of this process. Raises JobError."""
    fields = {name: getattr(target, name) for name in type(target).model_fields}
    return target.model_copy(update={name: resolve_references(value, os.environ) for name, value in fields.items()})


def _resolve(reference: str, environ: Mapping[str, str], secrets: Mapping[str, str] | None) -> str:
    if reference.startswith("secret:"):
        name = reference.removeprefix("secret:")
        if secrets is None or name not in secrets:
            raise JobError(
                f"the secret {name} is not in the calendar of this node",
                "write it as ${file:/run/secrets/NAME}, or use the same calendar on every node",
            )
        return str(resolve_references(secrets[name], environ))  # it can contain the other kinds of reference
    if reference.startswith("file:"):
        try:
            return Path(reference[5:]).read_text(encoding="utf-8").rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise JobError(
                f"${{{reference}}}: cannot be read: {error}", "mount the secret or correct the path"
            ) from error
    if reference not in environ:
        raise JobError(f"${{{reference}}}: the environment variable is not set", "set it for the daemon")
    return environ[reference]
