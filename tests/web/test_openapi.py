"""The OpenAPI document: pinned by a snapshot, and complete."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from difflib import unified_diff
from pathlib import Path
from typing import Any

from maintd.web.app import openapi_schema

SNAPSHOT = Path(__file__).with_name("openapi.json")
UPDATE = "MAINTD_UPDATE_OPENAPI"


def test_the_openapi_document_is_the_one_that_was_agreed() -> None:
    current = json.dumps(openapi_schema(), indent=1, sort_keys=True) + "\n"
    if os.environ.get(UPDATE):
        SNAPSHOT.write_text(current, encoding="utf-8")
    agreed = SNAPSHOT.read_text(encoding="utf-8")

    changes = "".join(unified_diff(agreed.splitlines(True), current.splitlines(True), "agreed", "now", n=2))

    command = f"{UPDATE}=1 pytest tests/web/test_openapi.py"
    assert not changes, f"the API changed; if that is meant, and clients still work, run: {command}\n{changes[:8000]}"


def test_the_document_is_openapi_3_1_and_states_every_status_with_one_shape_of_errors() -> None:
    schema = openapi_schema()

    assert schema["openapi"].startswith("3.1.")
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            responses = operation["responses"]
            assert {"401", "403", "414", "429", "500", "503"} <= set(responses), (method, path)
            assert "default" not in responses
            assert ("413" in responses) == (method == "post"), (method, path)
            for status, response in responses.items():
                if status >= "400" and not (path in ("/healthz", "/readyz") and status == "503"):
                    body = response["content"]["application/json"]["schema"]
                    assert body == {"$ref": "#/components/schemas/ErrorResponse"}, (method, path, status)


def test_durations_have_one_format_in_all_of_the_api() -> None:
    def formats(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("format"), str):
                yield node["format"]
            for value in node.values():
                yield from formats(value)
        elif isinstance(node, list):
            for value in node:
                yield from formats(value)

    found = set(formats(openapi_schema()))

    assert "time-span" in found  # like `1h30m`
    assert "duration" not in found  # that of ISO 8601
