"""Logs: login attempts, denied requests, and rotation. Log lines are untrusted input."""
