"""The log of the daemon: structlog on standard error, as text on a terminal, otherwise as one JSON object per line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO, cast

import structlog

from maintd.config.settings import Settings
from maintd.model.target import secrets_of
from maintd.redaction import forms_of, mask_text, replace_secrets


class LogRedactor:
    """A structlog processor that redacts known secrets, and those in URLs and connection strings."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._always = frozenset(secrets)
        self._forms = forms_of(self._always)

    def hide(self, secrets: Iterable[str]) -> None:
        """From now on also redact these: those of the active calendar."""
        self._forms = forms_of({*self._always, *secrets})

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        for key, value in event.items():
            if key != "exc_info":
                event[key] = self._redacted(value)
        return event

    def _redacted(self, value: Any) -> Any:
        if isinstance(value, str):
            return mask_text(replace_secrets(value, self._forms))
        if isinstance(value, dict):
            return {key: self._redacted(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._redacted(item) for item in value]
        if isinstance(value, BaseException | Path):
            return self._redacted(str(value))
        return value


def configure(settings: Settings) -> LogRedactor:
    """Configure logging for this process. Warnings of libraries are logged in the same format."""
    text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    redactor = LogRedactor(secrets_of(settings))
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if text else "iso", utc=not text),
        structlog.processors.format_exc_info,
        redactor,
    ]
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=24)
        if text
        else structlog.processors.JSONRenderer(default=str)
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _LossyStream(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(_LossyStream(sys.stderr))
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared))
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)
    return redactor


class _LossyStream:
    """A stream that loses what cannot be written: a full disk under the log must not end a run or the daemon."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write the text, if that is possible."""
        with suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        """Flush the stream, if that is possible."""
        with suppress(OSError, ValueError):
            self._stream.flush()
