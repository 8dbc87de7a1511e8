"""Listening sockets of a host beyond loopback, against the list of those that are allowed."""

from __future__ import annotations

from collections.abc import Sequence

from maintd.checks.audit.rule import Blind, Outcome, Rule, Violation
from maintd.checks.host.listening import Allowed
from maintd.clients.sockets import Listening
from maintd.errors import TargetError
from maintd.model.evidence import CheckStatus

SOCKETS = Rule(
    "sockets-allowed",
    CheckStatus.FAIL,
    "listening sockets that are not allowed",
    "the param listening",
    "in the list",
    "find its process: ss -ltnup; stop it, bind it to 127.0.0.1, or add it to the param listening",
)
RULES = (SOCKETS,)


def outcomes(
    place: str, sockets: Sequence[Listening] | TargetError, allowed: Sequence[Allowed] | None
) -> list[Outcome]:
    """What was seen. Without a list, nothing is evaluated."""
    if allowed is None:
        return [Outcome(SOCKETS, place, 0, not_applicable="no list is given in listening")]
    if isinstance(sockets, TargetError):
        return [
            Outcome(
                SOCKETS, place, 0, blind=(Blind("sockets", f"{sockets.cause}: {sockets.message}", sockets.hint or ""),)
            )
        ]
    reachable = [socket for socket in sockets if not socket.address.is_loopback]
    others = [socket for socket in reachable if not any(item.covers(socket) for item in allowed)]
    return [Outcome(SOCKETS, place, len(reachable), tuple(Violation(str(one), "listening") for one in others))]
