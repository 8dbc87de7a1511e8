"""What the job `doctor` is given: the steps and channels of the active calendar, and where the store is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from maintd.calendar import Calendar
from maintd.config.settings import Settings
from maintd.model.job import BrokenJob, JobDescription
from maintd.model.notice import NotifyConfig
from maintd.store.database import parse_url

_POSTGRES_PORT = 5432

ESCAPED = "$\\u007b"
"""Replaces `${` in texts that are resolved later; JSON reads it as `${`."""


def calendar_for_jobs(
    calendar: Calendar, jobs: Mapping[str, JobDescription | BrokenJob], settings: Settings
) -> dict[str, Any]:
    """The steps of all enabled entries with their params as JSON, and the place of the store without credentials.

    In the params a reference `${NAME}` is escaped, so that it is resolved for its own step only.
    """
    steps = [
        {
            "entry": entry.name,
            "step": step.name,
            "job": step.job,
            "path": os.fspath(jobs[step.job].path),
            "params": json.dumps(step.params, default=str).replace("${", ESCAPED),
            "required": step.required,
            "gated": any(other.gate is not None for other in entry.steps),
        }
        for entry in calendar.entries
        if entry.enabled
        for step in entry.steps
        if step.job in jobs
    ]
    return {"steps": steps, "store": _store_place(settings), "channels": _channels(calendar.notify)}


def _channels(config: NotifyConfig) -> list[dict[str, Any]]:
    """Channels and monitors, with references that are resolved where they are examined."""
    found = []
    for channel in config.destinations.values():
        address = channel.url or channel.webhook or channel.ping
        if address is not None:
            secret = "" if channel.secret is None else channel.secret.get_secret_value()
            texts = {"address": address.get_secret_value(), "secret": secret}
            escaped = {name: text.replace("${", ESCAPED) for name, text in texts.items()}
            found.append({"name": channel.name, "apprise": channel.url is not None, **escaped})
    return found


def _store_place(settings: Settings) -> dict[str, Any]:
    url = parse_url(settings.store)
    if url.get_backend_name() == "sqlite":
        return {"file": os.path.abspath(url.database or "")}  # noqa: PTH100 - not resolved: the file may not exist
    return {"host": url.host or str(url.query.get("host", "")), "port": url.port or _POSTGRES_PORT}
