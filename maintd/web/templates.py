"""Rendering of the HTML templates, with the text formats of `maintd.present` as filters."""

from __future__ import annotations

import hashlib
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import maintd
from maintd.present import ago, from_now, headline, progress_text, start_text, utc_minute
from maintd.present.lists import budget_text
from maintd.present.runs import causes_first
from maintd.present.text import SYMBOLS, utc_second
from maintd.units import duration_text, format_size, plural, utc_text, value_text

if TYPE_CHECKING:
    from jinja2 import Environment

FOLDER = Path(__file__).parent / "templates"
STATIC = Path(__file__).parent / "static"

TONES = {"GOOD": "good", "WARN": "warn", "BAD": "bad", "LIVE": "live", "DIM": "dim"}
"""CSS classes by the name of a tone."""


def render(name: str, **values: Any) -> str:
    """Render a template as HTML. All values are escaped; an undefined name raises."""
    return _environment().get_template(name).render(**values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # an unread page must not cost memory

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(
        ago=ago,
        from_now=from_now,
        headline=headline,
        start=start_text,
        duration=duration_text,
        size=format_size,
        observed=value_text,
        budget=budget_text,
        utc=utc_text,
        minute=utc_minute,
        second=utc_second,
        progress=progress_text,
        plural=plural,
        words=lambda text: str(text).replace("_", " "),
        symbol=lambda word: SYMBOLS.get(str(word), ("·", None))[0],
        tone=_tone,
        causes_first=causes_first,
        clock=_clock,
    )
    environment.globals.update(version=maintd.__version__, static=static_url)
    return environment


@cache
def static_url(name: str) -> str:
    """The URL of a static file. It changes with the content, so that browsers may cache the file."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:10]
    return f"/static/{name}?{digest}"


def _tone(word: str) -> str:
    """The CSS class of a state."""
    found = SYMBOLS.get(str(word))
    return TONES.get(found[1].name, "dim") if found else "dim"


def _clock(at: datetime) -> str:
    """`04:00:07.123`, for lines of a log."""
    return f"{at:%H:%M:%S}.{at.microsecond // 1000:03d}"
