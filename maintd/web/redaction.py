"""Settings with their secrets masked, for display."""

from __future__ import annotations

from typing import Any

from maintd.operations import OperatorService
from maintd.redaction import mask_values


def redacted_settings(service: OperatorService) -> dict[str, Any]:
    """The effective settings by name, with the targets. Secrets inside URLs and connection strings are masked too."""
    settings = service.settings.model_dump(mode="json")
    settings["store_url"] = service.store.url_masked
    settings["targets"] = service.targets().model_dump(mode="json")
    redacted = mask_values(settings)
    assert isinstance(redacted, dict)
    return redacted
