"""The fingerprint by which the store detects that an entry was edited."""

from __future__ import annotations

import hashlib
import json

from maintd.model.entry import Entry


def fingerprint_of(entry: Entry) -> str:
    """sha256 over rule, policy and steps, in hex; title, name and line do not count.

    Values that are the default are left out, so that a new key in a later version does not change the fingerprint.
    """
    content = entry.model_dump(
        mode="json",
        include={"rule", "policy", "steps"},
        exclude={"steps": {"__all__": {"overlaid"}}},  # a moved line of the overlay is no edit of the entry
        exclude_defaults=True,
    )
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
