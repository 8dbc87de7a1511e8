"""Base class of the limits of each subject, which jobs take as params."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Limits(BaseModel):
    """Frozen; a key that is not a field is an error. The docstring of a field is its description."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True)
