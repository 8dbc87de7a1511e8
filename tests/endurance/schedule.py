"""The accelerated calendars: many entries that are due every few seconds, with all policies, drawn from the seed."""

from __future__ import annotations

import random
from typing import Any

import yaml

FIXED = "fixed"
MOVING = "moving"
MANY = 50
HOLDING = 2
"""Number of entries that hold one lock for longer than a lease; only in large calendars, since every run waits for
them."""

_JOBS: list[dict[str, Any]] = [
    {"steady": {"work": "30ms"}},
    {"steady": {"work": "150ms"}},
    {"steady": {"work": "1s"}},
    {"mutating": {"work": "500ms"}},
    {"failing": {"how": "check"}},
    {"failing": {"how": "raise"}},
    {"hanging": {}},
    {"hanging": {"ignore_term": True}},
    {"forking": {}},
    {"flooding": {}},
    {"crashing": {"how": "exit"}},
    {"crashing": {"how": "segfault"}},
    {"crashing": {"how": "kill"}},
]
# Weights of the jobs: most are quick, so that the daemons keep up.
_WEIGHTS = [12, 8, 3, 8, 3, 2, 1, 1, 2, 1, 1, 1, 1]


def calendar(seed: int, entries: int, *, variant: int = 0, seconds: tuple[int, int] = (2, 12)) -> str:
    """Return a calendar as YAML. Entries fixed-N are equal in every variant; the schedules of moving-N differ."""
    draw = random.Random(seed)
    found: dict[str, Any] = {}
    for number in range(entries):
        moving = number % 10 == 9
        every = draw.randint(*seconds)
        step = draw.choices(_JOBS, _WEIGHTS)[0]
        entry: dict[str, Any] = {
            "every": f"{every + (variant % 3 if moving else 0)}s",
            "timeout": "15s",
            "catch_up": draw.choice(["latest", "all", "none"]),
            "catch_up_window": draw.choice(["20s", "5m"]),
            "overlap": draw.choice(["skip", "skip", "queue"]) if every > 5 else "skip",
            "retries": draw.choice([0, 0, 1]),
            "retry_backoff": "500ms",
            "steps": [step] if draw.random() < 0.8 else [step, {"steady": {"work": "20ms"}}],
        }
        if draw.random() < 0.2:
            entry["jitter"] = "2s"
        if draw.random() < 0.1:
            entry["misfire"] = "30s"
        found[f"{MOVING if moving else FIXED}-{number:02}"] = entry
    for number in range(HOLDING if entries >= MANY else 0):
        step = {"holding": {"work": "9s"}}
        found[f"holding-{number}"] = {"every": f"{11 + 2 * number}s", "timeout": "40s", "steps": [step]}
    return yaml.safe_dump({"timezone": "UTC", "defaults": {"lock_wait": "10s"}, "entries": found}, sort_keys=False)


def periods(*texts: str) -> dict[str, set[int]]:
    """Entry → its intervals in seconds, in any of these calendars."""
    found: dict[str, set[int]] = {}
    for text in texts:
        for name, entry in yaml.safe_load(text)["entries"].items():
            found.setdefault(name, set()).add(int(entry["every"].removesuffix("s")))
    return found
