"""The channels of a calendar for people: their schemes, and whether their URLs can be parsed. Never their secrets."""

from __future__ import annotations

import logging
import os
import re
import warnings
from typing import Any

from pydantic import SecretStr

from maintd.errors import JobError
from maintd.job.references import resolve_references
from maintd.model.base import Model
from maintd.model.notice import Channel, NotifyConfig, secrets_of_channel
from maintd.redaction import forms_of, mask_text, replace_secrets

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_LONGEST = 200


class ListedChannel(Model):
    """A channel without its URL. `kind` is `apprise`, `webhook` or `ping`."""

    name: str
    kind: str
    scheme: str  # empty: the URL is a reference that has no value here
    problem: str = ""  # why its URL cannot be parsed
    unresolved: str = ""  # which reference has no value here; then the URL was not parsed


def listed_channels(config: NotifyConfig) -> list[ListedChannel]:
    """The channels and monitors of a calendar. Imports apprise if one of them is a URL of apprise."""
    return [_listed(channel) for channel in config.destinations.values()]


def _listed(channel: Channel) -> ListedChannel:
    kind, given = next(
        (kind, value)
        for kind, value in (("apprise", channel.url), ("webhook", channel.webhook), ("ping", channel.ping))
        if value is not None
    )
    found = ListedChannel(name=channel.name, kind=kind, scheme=_scheme_of(given))
    try:
        resolved: SecretStr = resolve_references(given, os.environ)
    except JobError as error:
        return found.model_copy(update={"unresolved": error.message})
    found = found.model_copy(update={"scheme": _scheme_of(resolved)})
    if kind != "apprise":
        return found
    problem = _problem_of_apprise(resolved.get_secret_value())
    secrets = secrets_of_channel(channel) | secrets_of_channel(channel.model_copy(update={"url": resolved}))
    text = " ".join(mask_text(replace_secrets(problem, forms_of(secrets))).split())
    return found.model_copy(update={"problem": text[:_LONGEST]})


def _scheme_of(url: SecretStr) -> str:
    found = _SCHEME.match(url.get_secret_value())
    return found[1].lower() if found else ""


class _Warnings(logging.Handler):
    """Keeps why apprise cannot parse a URL; it returns only that it cannot."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _problem_of_apprise(url: str) -> str:
    """Why apprise cannot parse a URL; empty if it can."""
    logger, found = logging.getLogger("apprise"), _Warnings()
    logger.addHandler(found)
    logger.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # apprise imports what Python has deprecated
            import apprise

            asset = apprise.AppriseAsset(secure_logging=True)
            service: Any = apprise.Apprise.instantiate(url, asset=asset, suppress_exceptions=False)
    except TypeError as error:
        return f"apprise cannot parse the URL: {error}"
    finally:
        logger.removeHandler(found)
    return "" if service is not None else f"apprise cannot parse the URL: {'; '.join(found.lines) or 'it is unknown'}"
