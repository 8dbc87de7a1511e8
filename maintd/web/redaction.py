"""Settings as they may be shown: no secret, wherever it was written."""

from __future__ import annotations

import re
from typing import Any

from maintd.operations import OperatorService

HIDDEN = "***"

_IN_URL = re.compile(r"(?<=://)([^/@\s:]*):[^@/\s]*@")
_IN_WORDS = re.compile(r"(?i)\b(password|passwd|pwd|sslpassword|token|secret|key)=('(?:[^'\\]|\\.)*'|[^\s&]+)")


def shown_settings(service: OperatorService) -> dict[str, Any]:
    """Settings by name, with the targets in force. Passwords are hidden also within URLs and connection strings."""
    settings = service.settings.model_dump(mode="json")
    settings["store_url"] = service.store.url_masked
    settings["targets"] = service.targets().model_dump(mode="json")
    shown = _masked(settings)
    assert isinstance(shown, dict)
    return shown


def mask_text(text: str) -> str:
    """`postgres://op:geheim@db/x` → `postgres://op:***@db/x`; `password=geheim` → `password=***`."""
    return _IN_WORDS.sub(rf"\1={HIDDEN}", _IN_URL.sub(rf"\1:{HIDDEN}@", text))


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return HIDDEN if value and set(value) == {"*"} else mask_text(value)
    if isinstance(value, dict):
        return {key: _masked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_masked(item) for item in value]
    return value
