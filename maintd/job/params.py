"""Base class of a job's parameters."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class JobParams(BaseModel):
    """Base of a job's `Params`. A parameter that is not a field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
