"""Alerts: which fire, whether they are delivered and acknowledged, and what silences hide."""
