"""Accept a configuration that `config_review` has seen as the approved baseline of its subject.

Runbook: Quarterly Maintenance, Infrastructure Review, 3 Configuration Review

What is accepted is named by its digest, so that it is exactly what a person has read. A gate of the run must have been
approved by a person; or, by `maintd run --here`, the person is named on this machine. Earlier baselines stay.
"""

import re
from pathlib import Path

from pydantic import field_validator

from maintd.checks.config_review.baselines import Acceptance, Baselines, Record
from maintd.checks.config_review.evaluate import accept_command
from maintd.checks.config_review.snapshot import difference
from maintd.checks.probes import isolate_errors
from maintd.checks.requirements.jobs.configuration import config_accept as requirements
from maintd.job import Context, JobParams, Role, job

_BY = re.compile(r"approved by (.+?)(?:,|: |;|$)")


class Params(JobParams):
    digests: str = ""
    """What to accept, by the digests that `config_review` reports, separated by commas."""
    why: str = ""
    """Why it is right as it is."""
    baselines: str = "config_baselines"
    """Folder target where approved configurations are kept."""
    approved_at: str = "gate"
    """Name of the gate whose approval by a person counts."""
    by: str = ""
    """With `maintd run --here` only: the name of the person who accepts it."""

    @field_validator("digests")
    @classmethod
    def _has_form(cls, value: str) -> str:
        if not re.fullmatch(r"[0-9a-f, ]*", value):
            raise ValueError("digests are hexadecimal, separated by commas")
        return value

    @property
    def wanted(self) -> list[str]:
        """The digests."""
        return list(dict.fromkeys(part for part in re.split(r"[, ]+", self.digests) if part))


@job(timeout="5m", mutates=True, needs=("folders",), requires=requirements)
def run(ctx: Context, params: Params) -> None:
    """Find everything that is to be accepted first, then write it."""
    hint = f"{accept_command('DIGEST')}; DIGEST is in the hint of config_review"
    ctx.require("digests are given", len(params.wanted), at_least=1, hint=hint)
    ctx.require("a reason is given", "yes" if params.why.strip() else "no", equals="yes", hint=hint)
    by, how = approval(ctx, params)
    baselines = Baselines(ctx.target("folders", params.baselines).path)
    with ctx.phase("find what was seen"):
        records = [baselines.observed(digest) for digest in params.wanted]
    for record in records:
        with isolate_errors(ctx, f"{record.subject}: accepted", expected="accepted", role=Role.WORK):
            accept(ctx, baselines, record, Acceptance(by=by, why=params.why, how=how, at=ctx.now(), run=ctx.run_id))


def approval(ctx: Context, params: Params) -> tuple[str, str]:
    """Who accepts it, and how that is known. Raises CheckFailedError."""
    check, expected = "accepted by a person", f"gate {params.approved_at} approved, or by=NAME with maintd run --here"
    how = ctx.approvals.get(params.approved_at, "")
    if how:
        found = _BY.search(how)
        ctx.passed(check, f"gate {params.approved_at}: {how}", expected=expected)
        return found[1] if found else how, how
    if ctx.in_foreground and params.by.strip():
        ctx.passed(check, f"{params.by} at a terminal", expected=expected)
        return params.by.strip(), "maintd run --here"
    if ctx.dry_run:
        ctx.log("not asked in a dry run: the approval of a person")
        return "dry run", "dry run"
    ctx.require(check, "no", equals="yes", hint="maintd trigger config-accept; or with --here: -p by=NAME")
    raise AssertionError("unreachable")


def accept(ctx: Context, baselines: Baselines, record: Record, acceptance: Acceptance) -> None:
    """Write one baseline, and read it back."""
    before = baselines.approved(record.subject)
    drift = difference(before.values if before is not None else {}, record.values)
    for line in drift.lines() if before is not None else ():
        ctx.log(f"{record.subject}: {line}")
    with ctx.change(
        "accept",
        record.subject,
        digest=record.digest,
        by=acceptance.by,
        why=acceptance.why,
        paths=len(record.values),
        before=before.digest[:12] if before is not None else "none",
    ) as allowed:
        if allowed:
            path: Path = baselines.accept(record, acceptance)
            allowed.observed(file=path.name)
    if not ctx.dry_run:
        now = baselines.approved(record.subject)
        is_there = now is not None and now.digest == record.digest
        ctx.check(f"{record.subject}: accepted", "yes" if is_there else "no", equals="yes")
