"""What people ask of maintd: how things stand, and what they may set in motion. Used by page, API, metrics and CLI."""

from __future__ import annotations

from maintd.operations.commands import TriggerRequest, cancel, pause, trigger, unpause
from maintd.operations.due import MAX_DAYS, due
from maintd.operations.lookup import find, find_job, find_run, known_names
from maintd.operations.service import Health, OperatorService, ReloadResult, open_service
from maintd.operations.status import entry_status, status

__all__ = [
    "MAX_DAYS",
    "Health",
    "OperatorService",
    "ReloadResult",
    "TriggerRequest",
    "cancel",
    "due",
    "entry_status",
    "find",
    "find_job",
    "find_run",
    "known_names",
    "open_service",
    "pause",
    "status",
    "trigger",
    "unpause",
]
