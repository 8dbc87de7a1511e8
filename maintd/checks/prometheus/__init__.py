"""Prometheus: its own health, and what its series say over a window."""
