"""The base class of the params of a job."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class JobParams(BaseModel):
    """Base class of `Params` in a job module. A param that is not a field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)
