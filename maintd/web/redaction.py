"""Settings with their secrets masked, for display."""

from __future__ import annotations

import re
from typing import Any

from maintd.operations import OperatorService

MASK = "***"

_URL_PASSWORD = re.compile(r"(?<=://)([^/@\s:]*):[^@/\s]*@")
_NAMED_SECRET = re.compile(r"(?i)\b(password|passwd|pwd|sslpassword|token|secret|key)=('(?:[^'\\]|\\.)*'|[^\s&]+)")


def redacted_settings(service: OperatorService) -> dict[str, Any]:
    """The effective settings by name, with the targets. Passwords inside URLs and connection strings are masked too."""
    settings = service.settings.model_dump(mode="json")
    settings["store_url"] = service.store.url_masked
    settings["targets"] = service.targets().model_dump(mode="json")
    redacted = _redact(settings)
    assert isinstance(redacted, dict)
    return redacted


def redact_text(text: str) -> str:
    """`postgres://op:hunter2@db/x` → `postgres://op:***@db/x`; `password=hunter2` → `password=***`."""
    return _NAMED_SECRET.sub(rf"\1={MASK}", _URL_PASSWORD.sub(rf"\1:{MASK}@", text))


def _redact(value: Any) -> Any:
    if isinstance(value, str):
        return MASK if value and set(value) == {"*"} else redact_text(value)
    if isinstance(value, dict):
        return {key: _redact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_redact(item) for item in value]
    return value
