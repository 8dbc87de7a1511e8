"""Load the settings for a command; report the origin of each value, errors, and unknown names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from dotenv import dotenv_values
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_settings import EnvSettingsSource
from pydantic_settings.exceptions import SettingsError as SourceError

from maintd.config.file import ConfigFile, read_config
from maintd.config.settings import PREFIX, BelowError, FileEnvSource, Settings, default_state_dir
from maintd.config.trust import require_trusted
from maintd.errors import SettingsError, nearest
from maintd.model.base import problem_text
from maintd.model.target import Targets
from maintd.redaction import MASK, is_secret_name, mask_text
from maintd.units import format_duration, is_size, written_size

DEFAULT = "default"
DOTENV = ".env"

OWN = frozenset({f"{PREFIX}OWNER", *(f"{PREFIX}{name}" for name in ("URL", "TOKEN", "TOKEN_FILE", "CA_FILE"))})
"""Environment variables that are no settings: what maintd sets for its own child processes, and which daemon a command
connects to."""


class DisplayedSetting(NamedTuple):
    """A setting as it is displayed: secrets are masked."""

    name: str
    value: str
    origin: str


def load_settings(flags: Mapping[str, Any] | None = None) -> Settings:
    """Load the settings. `flags` are the fields that are options on the command line.

    Raises SettingsError with one line per error, each with the source of the value.
    """
    flags = dict(flags or {})
    dotenv = dotenv_path(flags)
    if dotenv is not None:
        require_trusted(dotenv)
    try:
        settings = Settings(_env_file=dotenv, **flags)
    except ValidationError as error:
        origins = _Origins(flags)
        raise SettingsError("\n".join(_problem(item, origins) for item in error.errors())) from None
    except SourceError as error:
        raise SettingsError(_unreadable(error, dotenv), "write JSON there, or one variable per field") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{dotenv}: byte {error.start} is not UTF-8", "save the file as UTF-8") from error
    except OSError as error:
        raise SettingsError(f"{error.filename or dotenv}: cannot be read: {error.strerror}") from error
    return settings


def shown(settings: Settings, flags: Mapping[str, Any] | None = None) -> Iterator[DisplayedSetting]:
    """Every setting with its value and origin, in the order of definition."""
    origins = _Origins(dict(flags or {}))
    for name, value in _leaves(settings, ""):
        yield DisplayedSetting(name, value, origins.of(name))


def warnings(flags: Mapping[str, Any] | None = None) -> list[str]:
    """A line for each variable that begins with MAINTD_ and is not a setting."""
    dotenv = dotenv_path(flags or {})
    found = [(name, "the environment") for name in sorted(os.environ)]
    found += [(name, str(dotenv)) for name in _values_of(dotenv)]
    known = set(_known_names())
    lines = []
    for name, where in found:
        upper = name.upper()
        if not upper.startswith(PREFIX) or upper in OWN or _is_known(upper, known):
            continue
        near = nearest(upper, known)
        lines.append(
            f'{where}: unknown setting "{name}"' + (f'; did you mean "{near}"?' if near else "; it is ignored")
        )
    return lines


class _Origins:
    """The source of each value. Computed only to display settings and errors."""

    def __init__(self, flags: Mapping[str, Any]) -> None:
        self._found: dict[str, str] = {}
        self._config: ConfigFile | None = None
        for name in flags:
            self._found[name] = f"--{name.replace('_', '-')}"
        environ = {name.upper(): name for name in os.environ}
        self._add(EnvSettingsSource(Settings)(), lambda path: _variable(path, environ))
        self._add(FileEnvSource(Settings)(), lambda path: f"{_variable(path, {})}_FILE")
        file = dotenv_path(flags)
        dotenv = _values_of(file)
        upper = {name.upper(): name for name in dotenv}
        for name in upper:
            field = name.removeprefix(PREFIX).lower().replace("__", ".")
            if name.startswith(PREFIX):
                self._found.setdefault(field, f"{file}: {name}")
        path = flags.get("config") or os.environ.get(f"{PREFIX}CONFIG") or dotenv.get(f"{PREFIX}CONFIG")
        if path:
            self._config = read_config(Path(path))
            lines = self._config
            self._add(lines.values, lines.place)

    def _add(self, values: Mapping[str, Any], name: Any) -> None:
        for path in _paths(values):
            self._found.setdefault(path, name(path))

    def of(self, path: str) -> str:
        """The source of the value at a dotted path, or of its nearest parent."""
        while path not in self._found and "." in path:
            path = path.rpartition(".")[0]
        return self._found.get(path, DEFAULT)


def _variable(path: str, environ: Mapping[str, str]) -> str:
    """The variable of a value: its own, or that of a parent field."""
    own = name = PREFIX + path.upper().replace(".", "__")
    while name not in environ and "__" in name:
        name = name.rpartition("__")[0]
    return environ.get(name, own)


def _paths(values: Mapping[str, Any], before: str = "") -> Iterator[str]:
    for key, value in values.items():
        path = f"{before}{key}"
        if isinstance(value, Mapping) and value:
            yield from _paths(value, f"{path}.")
        else:
            yield path


def dotenv_path(flags: Mapping[str, Any]) -> Path | None:
    """The file `.env` beside the settings file, else in the state directory; None when there is none.

    The working directory does not count: it may belong to another user, and settings name code to run.
    """
    config = flags.get("config") or os.environ.get(f"{PREFIX}CONFIG")
    state = flags.get("state_dir") or os.environ.get(f"{PREFIX}STATE_DIR") or default_state_dir()
    folders = [Path(config).parent] if config else []
    return next((path for folder in (*folders, Path(state)) if (path := folder / DOTENV).is_file()), None)


def _values_of(dotenv: Path | None) -> dict[str, str | None]:
    return {} if dotenv is None else dotenv_values(dotenv)


def _problem(error: Any, origins: _Origins) -> str:
    inner = error.get("ctx", {}).get("error")
    below = inner.path if isinstance(inner, BelowError) else ()
    path = ".".join(str(part) for part in (*error["loc"], *below))
    message = problem_text(error)
    if error["type"] == "extra_forbidden":
        near = nearest(str(error["loc"][-1]), _siblings(error["loc"]))
        return f'{origins.of(path)}: unknown setting "{path}"' + (f'; did you mean "{near}"?' if near else "")
    value = error.get("input")
    secret = any(is_secret_name(str(part)) for part in error["loc"]) or error["loc"][0] == "store_url"
    plain = isinstance(value, str | int | float) and not secret
    given = f' "{mask_text(str(value))}"' if plain and str(value) not in message else ""
    return f"{origins.of(path)}: {path}{given}: {message}"


def _siblings(location: tuple[Any, ...]) -> list[str]:
    model: Any = Settings
    for part in location[:-1]:
        field = model.model_fields.get(part) if isinstance(model, type) and issubclass(model, BaseModel) else None
        if field is None:
            return []
        model = field.annotation
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []


def _unreadable(error: SourceError, dotenv: Path | None) -> str:
    found = re.search(r'field "(\w+)" from source "(\w+)"', str(error))
    if found is None:
        return str(error)
    where = str(dotenv) if found[2].startswith("DotEnv") else "the environment"
    return f"{where}: {PREFIX}{found[1].upper()}: not JSON"


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            here, item = f"{path}.{name}" if path else name, _effective(value, name)
            if isinstance(item, int) and is_size(type(value).model_fields[name].metadata):
                yield here, written_size(item)
            else:
                yield from _leaves(item, here)
    elif isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}")
    elif not isinstance(value, dict):
        yield path, _text(value)


def _effective(model: BaseModel, name: str) -> Any:
    """The value; for some settings the default that depends on other settings."""
    if isinstance(model, Settings) and name == "store_url":
        return model.store
    if isinstance(model, Settings) and name == "socket":
        return model.socket_path
    return getattr(model, name)


def _text(value: Any) -> str:
    if value is None or value in ((), [], ""):
        return ""
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, timedelta):
        return format_duration(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ", ".join(_text(item) for item in value)
    return mask_text(str(value))


def _known_names() -> Iterator[str]:
    for name, field in Settings.model_fields.items():
        own = PREFIX + name.upper()
        yield own
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from (f"{own}__{part.upper()}" for part in field.annotation.model_fields)


def _is_known(name: str, known: set[str]) -> bool:
    targets = f"{PREFIX}TARGETS__"
    if name.startswith(targets):
        return name.removeprefix(targets).partition("__")[0].lower() in Targets.model_fields
    return name in known or name.removesuffix("_FILE") in known
