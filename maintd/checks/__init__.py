"""Checks by subject: facts collected by clients, evaluated against limits and reported by jobs."""
