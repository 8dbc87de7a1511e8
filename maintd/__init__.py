"""maintd: runs the maintenance runbook, proves that it did, and keeps the history."""

__version__ = "0.1.0"
