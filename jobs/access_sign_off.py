"""Record what a person has decided at the gate about the table of access_review.

Runbook: Monthly Maintenance, Security Review, 3 Access Review

An `always` step after access_review and a gate. The note of the approval names the digest of the table that was
shown, so that a decision about another one is refused; `maintd approve RUN --decisions FILE` writes it. Rows without
a decision are reported as undecided. The decisions are kept as access-sign-off.csv and .json, and the next
access_review compares. Nothing is revoked by maintd.
"""

from maintd.checks.access.sign_off import record
from maintd.job import Context, JobParams, job


class Params(JobParams):
    gate: str = "gate"
    """Name of the gate's step."""


@job(timeout="5m", repeatable=True)
def run(ctx: Context, params: Params) -> None:
    """Check the decision and keep it."""
    with ctx.phase("record the decisions"):
        record(ctx, params.gate)
