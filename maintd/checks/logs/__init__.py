"""Logs as evidence: who tried to log in, and which requests were denied. Whatever is in them comes from strangers."""
