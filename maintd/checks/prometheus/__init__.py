"""Prometheus: its health, and queries over a window for reports."""
