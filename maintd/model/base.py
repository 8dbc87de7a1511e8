"""The base class of all value types, and how their problems read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """Frozen. An unknown key is an error; NaN and infinity are strings in JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


def problem_text(problem: Mapping[str, Any]) -> str:
    """A problem that pydantic found, in the words of other messages. The value, which may be a secret, is not in it."""
    given = problem.get("input")
    if problem["type"] == "string_type" and isinstance(given, bool | int | float):
        shown = str(given).lower() if isinstance(given, bool) else "a number"
        return f"should be text, but is {shown}; write it in quotes"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return message.replace("Input should", "should").replace("Field required", "is required")
