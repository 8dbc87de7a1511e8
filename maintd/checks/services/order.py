"""The order in which services are restarted: what others depend on first, and what writes to volumes last."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from maintd.errors import JobError


def in_order(
    depends_on: Mapping[str, Collection[str]], stateful: Collection[str], first: Sequence[str] = ()
) -> list[str]:
    """The services, each after those that it depends on, and the stateful ones after all others.

    `first`: services in an order of the operator's, before all others, whatever they depend on. Dependencies on what is
    not among the services do not count. Raises JobError for services that depend on each other.
    """
    chosen = [name for name in dict.fromkeys(first) if name in depends_on]
    left = [name for name in sorted(depends_on) if name not in chosen]
    for group in ([name for name in left if name not in stateful], [name for name in left if name in stateful]):
        chosen += _sorted({name: {other for other in depends_on[name] if other in group} for name in group})
    return chosen


def _sorted(depends_on: Mapping[str, Collection[str]]) -> list[str]:
    """Topologically, by name where the dependencies leave it open."""
    left = {name: set(others) - {name} for name, others in depends_on.items()}
    found: list[str] = []
    while left:
        ready = sorted(name for name, others in left.items() if not others)
        if not ready:
            names = ", ".join(sorted(left))
            raise JobError(f"services depend on each other: {names}", "write their order in the param order")
        found.append(ready[0])
        del left[ready[0]]
        for others in left.values():
            others.discard(ready[0])
    return found
