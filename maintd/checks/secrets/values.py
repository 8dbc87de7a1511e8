"""Values of secrets: new ones, their strength, and a fingerprint that shows nothing of them."""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
import string
from urllib.parse import quote

_POOLS = (string.ascii_lowercase, string.ascii_uppercase, string.digits, string.punctuation + " ")
_COOKIE = string.ascii_letters + string.digits + "-_"
_COMMON = (
    "password",
    "changeme",
    "change-me",
    "change_me",
    "secret",
    "admin",
    "qwerty",
    "123456",
    "example",
    "placeholder",
)
"""Words of defaults and examples, of which nothing that was made at random has one with so little beside it."""


def make(form: str) -> str:
    """A new value. `token`: 32 random bytes as base64url, without characters that a URL, a shell or YAML would change.

    `cookie`: exactly 32 ASCII characters. One of them is a dot, since oauth2-proxy takes what can be read as base64 for
    it, and would have 24 bytes then. Source: encryption.SecretBytes of oauth2-proxy 7.
    """
    if form == "token":
        return secrets.token_urlsafe(32)
    return "".join(secrets.choice(_COOKIE) for _ in range(31)) + "."


def entropy_bits(value: str) -> float:
    """At most how many bits a guesser has to search, by its length, kinds of characters, and how many differ."""
    pool = sum(len(kind) for kind in _POOLS if set(kind) & set(value))
    if any(ord(character) > 126 for character in value):
        pool += 100
    distinct = len(set(value))
    length = len(value) if distinct * 2 >= min(len(value), 32) else distinct
    return length * math.log2(pool) if pool else 0.0


def is_default(value: str) -> bool:
    """Whether it looks like a default or an example: one of their words, with at most eight characters beside it."""
    lowered = value.strip().lower()
    return any(word in lowered and len(lowered) <= len(word) + 8 for word in _COMMON)


def fingerprint(key: bytes, value: bytes) -> str:
    """What evidence has in place of a value: the beginning of a hash that cannot be computed without the key."""
    return hmac.new(key, value, hashlib.sha256).hexdigest()[:12]


def filled(template: str, user: str, value: str) -> str:
    """A template with user and value; both are percent-encoded in a URL."""
    if "://" in template:
        user, value = quote(user, safe=""), quote(value, safe="")
    return template.replace("{user}", user).replace("{secret}", value)
