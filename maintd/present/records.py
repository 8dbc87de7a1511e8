"""The result of a verification of the chain of records."""

from __future__ import annotations

from maintd.model.records import VerifiedPart
from maintd.present.text import printable, utc_second
from maintd.units import plural


def verification_text(found: VerifiedPart, *, heads: int = 0) -> str:
    """What was verified and what does not fit; `heads` is the number of heads that were kept elsewhere."""
    lines = [f"{plural(found.records, 'record')} verified"]
    if found.pruned:
        lines.append(f"{plural(found.pruned, 'record')} whose runs were pruned: only their digests remain")
    if found.artifacts_pruned:
        lines.append(f"{plural(found.artifacts_pruned, 'record')} whose lists of artifacts were pruned")
    if found.problem is not None:
        about = "" if found.problem.run_id is None else f"; see: maintd show {found.problem.run_id}"
        lines.append(printable(f"does not fit: {found.problem.text}{about}"))
        return "\n".join(lines) + "\n"
    if found.before:
        lines.append(f"{plural(found.before, 'run')} ended before the chain began and have no record")
    if found.to_follow:
        lines.append(f"{plural(found.to_follow, 'run')} that just ended: the record follows with the review")
    if found.head is None:
        lines.append("the chain has no record yet")
    else:
        lines.append(f"head: record {found.head.record}, {utc_second(found.head.at)}, {found.head.head}")
    if heads:
        lines.append(f"{plural(heads, 'head')} that were kept fit" if heads > 1 else "the head that was kept fits")
    else:
        lines.append("no head from elsewhere was given: a chain that was written again as a whole is not found")
    return "\n".join(lines) + "\n"
