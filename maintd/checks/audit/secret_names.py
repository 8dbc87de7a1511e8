"""Which variables hold a secret, by their name and without keeping their value."""

from __future__ import annotations

import re

_SECRET = re.compile(
    r"(?:^|_)(?:PASS|PASSWD|PASSWORD|PASSPHRASE|SECRET|SECRETS|TOKEN|APIKEY|API_KEY|ACCESS_KEY|PRIVATE_KEY|CREDENTIALS|"
    r"ENCRYPTION_KEY|SIGNING_KEY|WEBHOOK_URL|REQUIREPASS|PGPASSWORD)(?:_|$)|PASSWORD$|SECRET$|TOKEN$",
    re.IGNORECASE,
)
_OTHERS = re.compile(
    r"_(?:FILE|PATH|DIR|NAME|TTL|EXPIRY|EXPIRES|LENGTH|POLICY|TIMEOUT|URI|ENABLED|ALGORITHM)$", re.IGNORECASE
)
_IN_URL = re.compile(r"^[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s@${]+@", re.IGNORECASE)
_PATH = re.compile(r"^/(?:run|var|etc|secrets)/\S*$")


def holds_secret(name: str, value: str) -> bool:
    """Whether a variable holds a secret itself: its name is that of one, or its value is a URL with a password.

    A variable that names a file (`NAME_FILE`, or a path as its value), and an empty one, does not.
    """
    text = value.strip().strip("'\"")
    if not text or _PATH.match(text):
        return False
    if _IN_URL.match(text):
        return True
    return bool(_SECRET.search(name)) and not _OTHERS.search(name)
