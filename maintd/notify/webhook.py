"""The signed webhook: a POST of JSON whose receiver can verify who sent it, and recognize what it got before.

The headers are those of Standard Webhooks (https://www.standardwebhooks.com, specification 1.0.0), so that its
libraries verify them:

    webhook-id          the id of the message; the same when it is sent again. Also as Idempotency-Key
    webhook-timestamp   seconds since 1970; a receiver refuses one that is more than five minutes old
    webhook-signature   "v1," and the base64 of HMAC-SHA256 over "ID.TIMESTAMP.BODY" with the secret

A secret that begins with `whsec_` is base64 after that, as the specification has it; any other is used as it is.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

TOLERANCE_SECONDS = 300
"""How old or how far in the future a message may be; the specification's value."""


def signed_headers(key: str, timestamp: int, body: bytes, secret: str) -> dict[str, str]:
    """The headers of a message."""
    return {
        "Content-Type": "application/json",
        "Idempotency-Key": key,
        "webhook-id": key,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{signature(key, timestamp, body, secret)}",
    }


def signature(key: str, timestamp: int, body: bytes, secret: str) -> str:
    """Base64 of HMAC-SHA256 over id, timestamp and body. Raises ValueError for a `whsec_` secret that is no base64."""
    content = f"{key}.{timestamp}.".encode() + body
    return base64.b64encode(hmac.new(_key(secret), content, hashlib.sha256).digest()).decode()


def verify(headers: dict[str, str], body: bytes, secret: str, now: float) -> bool:
    """Whether a message was signed with this secret, and not long ago; `now` is in seconds since 1970."""
    given = {name.lower(): value for name, value in headers.items()}
    timestamp = given.get("webhook-timestamp", "")
    if not timestamp.isdecimal() or abs(now - int(timestamp)) > TOLERANCE_SECONDS:
        return False
    expected = f"v1,{signature(given.get('webhook-id', ''), int(timestamp), body, secret)}"
    return any(hmac.compare_digest(expected, one) for one in given.get("webhook-signature", "").split(" "))


def _key(secret: str) -> bytes:
    if not secret.startswith("whsec_"):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error as error:
        raise ValueError("the secret begins with whsec_, but is not base64 after that") from error
