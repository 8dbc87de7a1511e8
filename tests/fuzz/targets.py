"""The fuzz targets by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fuzz.log_readers import logs
from fuzz.properties import Opened, calendars, reports, rules, settings_files, values
from fuzz.readers import answers, archives, folders
from fuzz.served import bodies, leftovers, spools

CORPUS = Path(__file__).parent / "corpus"

TARGETS: dict[str, Opened] = {
    "calendar": calendars,
    "settings": settings_files,
    "rule": rules,
    "value": values,
    "pipe": reports,
    "api": bodies,
    "state": leftovers,
    "spool": spools,
    "archive": archives,
    "folder": folders,
    "answer": answers,
    "log": logs,
}


def kept(target: str) -> Iterator[Path]:
    """Return the files of a target's corpus, sorted."""
    return iter(sorted((CORPUS / target).iterdir()))
