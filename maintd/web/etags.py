"""ETags: a client that polls sends back the tag of what it has, and gets 304 without a body while nothing changed.

A tag is weak: responses with the same tag have the same meaning, though a time of the observation in them may differ.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from pydantic import BaseModel
from starlette.types import Message, Scope, Send

NO_TIME = datetime.fromtimestamp(0, UTC)
"""In place of a time of observation, in the model of which a tag is made."""


def etag_of(content: bytes) -> str:
    """The tag of a response with this content."""
    return f'W/"{hashlib.sha256(content).hexdigest()[:32]}"'


def model_etag(model: BaseModel) -> dict[str, str]:
    """The header with the tag of a response that differs from this model only in times of observation."""
    return {"ETag": etag_of(model.model_dump_json().encode())}


def with_etag(scope: Scope, send: Send) -> Send:
    """A `send` that adds a tag to a GET's JSON, unless it has one, and answers 304 when the client has that one.

    Streamed responses are passed on as they are.
    """
    held: Message | None = None

    async def send_tagged(message: Message) -> None:
        nonlocal held
        if message["type"] == "http.response.start" and _taggable(message):
            held = message  # until it is known whether the body comes at once
            return
        if held is not None:
            start, held = held, None
            if not message.get("more_body"):
                headers = dict(start["headers"])
                tag = headers.get(b"etag") or etag_of(message.get("body", b"")).encode()
                if _has(scope, tag):
                    await send({"type": "http.response.start", "status": 304, "headers": [(b"etag", tag)]})
                    await send({"type": "http.response.body", "body": b""})
                    return
                headers[b"etag"] = tag
                start["headers"] = list(headers.items())
            await send(start)
        await send(message)

    return send_tagged if scope["method"] == "GET" else send


def _taggable(start: Message) -> bool:
    return start["status"] == 200 and dict(start["headers"]).get(b"content-type") == b"application/json"


def _has(scope: Scope, tag: bytes) -> bool:
    """Whether the client has a response with this tag. Source: RFC 9110, section 13.1.2."""
    values = [value for key, value in scope["headers"] if key == b"if-none-match"]
    tags = {part.strip().removeprefix(b"W/") for value in values for part in value.split(b",")}
    return b"*" in tags or tag.removeprefix(b"W/") in tags
