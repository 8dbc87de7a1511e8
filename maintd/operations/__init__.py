"""What an operator can see and do: status, diagnosis, due times, commands. Shared by CLI, API, page and metrics."""

from __future__ import annotations

from maintd.operations.commands import TriggerRequest, cancel, pause, reload, trigger, unpause
from maintd.operations.due import MAX_DAYS, due
from maintd.operations.lookup import find_entry, find_job, find_run, known_names
from maintd.operations.service import Health, OperatorService, ReloadResult, open_service
from maintd.operations.status import entry_status, status, status_for

__all__ = [
    "MAX_DAYS",
    "Health",
    "OperatorService",
    "ReloadResult",
    "TriggerRequest",
    "cancel",
    "due",
    "entry_status",
    "find_entry",
    "find_job",
    "find_run",
    "known_names",
    "open_service",
    "pause",
    "reload",
    "status",
    "status_for",
    "trigger",
    "unpause",
]
