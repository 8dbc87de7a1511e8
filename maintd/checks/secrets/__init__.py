"""Secrets in files: what is wrong with them, and their rotation."""
