"""Restore of backups into scratch servers, and the proof of what was restored."""
