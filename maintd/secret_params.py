"""Secrets among params: rows have only references to what the job declares as `SecretStr`.

Before params become part of a plan, each secret that is written out is replaced by a reference that the child resolves:
`${secret:ENTRY.STEP.PARAM}` for one of the calendar, which each node keeps in memory, or `${file:…}` for one that was
given for a single run, which is kept in a file of the state directory until the run has ended.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

_ONLY_REFERENCES = re.compile(r"(?:\$\{[^}]+\})+")

REFERENCE = re.compile(r"\$\{(?:(?:file|secret):[^}]+|[A-Za-z_][A-Za-z0-9_]*)\}")
"""`${NAME}`, `${file:PATH}` or `${secret:NAME}`."""

_KINDS = ("file", "secret")
_OPENED = re.compile(r"(\$?)\{\s*([A-Za-z]+)\s*:(?=\s*([^\s}]?))")
_UNCLOSED_NAME = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*$")

ALL_SECRET: Mapping[str, Any] = {
    "$ref": "#/$defs/any",
    "$defs": {
        "any": {
            "format": "password",
            "additionalProperties": {"$ref": "#/$defs/any"},
            "items": {"$ref": "#/$defs/any"},
        }
    },
}
"""A schema by which every text is a secret."""

Reference = Callable[[str, str], str]
"""Takes the path of a param, such as `env.TOKEN`, and its secret; returns the reference to it."""


def malformed_reference(text: str) -> str:
    """What is wrong with a reference that was meant, and is none, so that the text itself would be used; else empty.

    `$`, `${NAME}` and what shells write, `${NAME:-default}` or `${NAME:0:3}`, are left alone. Nothing of the text is in
    the answer but the reference's kind: the rest may be a secret.
    """
    if "{" not in text:
        return ""
    from difflib import get_close_matches  # a slow import that only few texts need

    whole = {found.start(): found for found in REFERENCE.finditer(text)}
    for found in _OPENED.finditer(text):
        dollar, word, first = found.groups()
        kind = next(iter(get_close_matches(word.lower(), _KINDS, n=1)), None)
        of_path = first in ("/", "~") or (first == "." and kind is not None)
        if found.start() in whole or not (word in _KINDS or of_path or (kind is not None and first.isalpha())):
            continue
        right = f'"${{{kind or "file"}:"'
        if dollar and found[0] == right[1:-1] and first:
            return f'the reference {right} has no closing brace; write "${{{kind}:…}}"'
        if dollar and not first:
            return f'the reference {right} names nothing; write "${{file:PATH}}"'
        if dollar or (word in _KINDS and of_path):
            return f'"{found[0]}" begins no reference; did you mean {right}?'
    if _UNCLOSED_NAME.search(text):
        return 'a reference "${NAME" has no closing brace; write "${NAME}"'
    return ""


def malformed_references(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The path of each text in a value that has a malformed reference, and what is wrong with it."""
    if isinstance(value, str):
        problem = malformed_reference(value)
        if problem:
            yield path, problem
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from malformed_references(item, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from malformed_references(item, (*path, index))


def without_secrets(params: Mapping[str, Any], schema: Mapping[str, Any], reference: Reference) -> dict[str, Any]:
    """Params with each secret that is written out replaced by its reference. `schema` is that of the params."""
    replaced: dict[str, Any] = _replace(dict(params), schema, schema.get("$defs", {}), "", reference)
    return replaced


def reference_prefix(entry: str, step: str) -> str:
    """What the names of a step's secrets in memory begin with; the path of the param follows."""
    return f"{entry}.{step}.".replace("}", "_")


def collect_into(secrets: dict[str, str], prefix: str) -> Reference:
    """A reference for secrets that are kept in memory: in `secrets`, by prefix and path."""

    def reference(path: str, secret: str) -> str:
        name = f"{prefix}{path}".replace("}", "_")
        secrets[name] = secret
        return f"${{secret:{name}}}"

    return reference


def keep_in(folder: Path) -> Reference:
    """A reference for secrets of one run: each is written to a new file in the folder."""

    def reference(path: str, secret: str) -> str:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = folder.absolute() / uuid.uuid4().hex
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as opened:
            opened.write(secret)
        return f"${{file:{file}}}"

    return reference


def used_secrets(params: Mapping[str, Any], secrets: Mapping[str, str]) -> dict[str, str]:
    """Those of the secrets in memory to which the params refer: a job gets no others."""
    names = [name for text in _texts(params) for name in re.findall(r"\$\{secret:([^}]+)\}", text)]
    return {name: secrets[name] for name in names if name in secrets}


def discard(params: Mapping[str, Any], folder: Path) -> None:
    """Delete the files that `keep_in` wrote for these params."""
    for text in _texts(params):
        for path in re.findall(r"\$\{file:([^}]+)\}", text):
            if Path(path).parent == folder.absolute():
                with contextlib.suppress(OSError):
                    Path(path).unlink()


def is_discarded(params: Mapping[str, Any], folder: Path) -> bool:
    """Whether these params refer to a file that `keep_in` wrote and that is deleted."""
    paths = [Path(path) for text in _texts(params) for path in re.findall(r"\$\{file:([^}]+)\}", text)]
    return any(path.parent == folder.absolute() and not path.exists() for path in paths)


def discard_old(folder: Path, age: timedelta) -> None:
    """Delete the files of runs that never started and are older than that."""
    with contextlib.suppress(OSError):
        for file in folder.iterdir():
            if file.stat().st_mtime < time.time() - age.total_seconds():
                file.unlink()


def _replace(value: Any, schema: Any, named: Mapping[str, Any], path: str, reference: Reference) -> Any:
    if not isinstance(schema, Mapping):
        return value
    if "$ref" in schema:
        return _replace(value, named.get(str(schema["$ref"]).rpartition("/")[2], {}), named, path, reference)
    if isinstance(value, str) and (schema.get("writeOnly") or schema.get("format") == "password"):
        return reference(path, value) if value and not _ONLY_REFERENCES.fullmatch(value) else value
    for several in ("anyOf", "oneOf", "allOf"):
        for option in schema.get(several, ()):
            value = _replace(value, option, named, path, reference)
    if isinstance(value, dict):
        properties, others = schema.get("properties", {}), schema.get("additionalProperties")
        return {
            key: _replace(item, properties.get(key, others), named, f"{path}.{key}".lstrip("."), reference)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        first = schema.get("prefixItems", ())
        return [
            _replace(item, first[n] if n < len(first) else schema.get("items"), named, f"{path}.{n}", reference)
            for n, item in enumerate(value)
        ]
    return value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
