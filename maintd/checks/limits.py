"""Limits that jobs take as params: the base class of those of each subject, and the time between two samples."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from maintd.units import Duration


class Limits(BaseModel):
    """Frozen; a key that is not a field is an error. The docstring of a field is its description."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True)


def _within_bounds(value: timedelta) -> timedelta:
    if not timedelta(milliseconds=100) <= value <= timedelta(minutes=5):
        raise ValueError("must be between 100ms and 5m")
    return value


SampleInterval = Annotated[Duration, AfterValidator(_within_bounds)]
"""The time between two samples of counters: 100ms to 5m."""
