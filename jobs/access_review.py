"""Review who has access: logins of the month, accounts, keys, groups, sudo, roles of Postgres, Grafana and tokens.

Runbook: Monthly Maintenance, Security Review, 3 Access Review

Logins by user, source, key and method are those that security_log_review has kept, each once. A host is read below
the root of its target: passwd, group, shadow if it may be read, authorized_keys and sudoers with its includes. No
hash is kept. What could not be read is unknown. The result is a table that a person signs off at a gate, see
access_sign_off: what was to be revoked and still exists fails, what was not reviewed by the next month warns.
Read-only.
"""

from datetime import timedelta
from pathlib import Path
from typing import Any

from maintd.checks.access import grafana_accounts, host, postgres_roles, report, sign_off
from maintd.checks.access.kept_logins import read_kept
from maintd.checks.access.table import Access
from maintd.checks.host.mounted import mounted
from maintd.checks.probes import isolate_errors
from maintd.checks.requirements.jobs.security import access_review as requirements
from maintd.job import Context, Duration, JobParams, TargetError, job
from maintd.job.causes import Role
from maintd.reports.review_report import publish_review

_GRAFANA = timedelta(minutes=2)  # 500 service accounts take a few seconds


class Params(JobParams):
    hosts: tuple[str, ...] = ()
    """Names of host targets; all by default."""
    root: Path | None = None
    """Root of a host to read instead of those of the targets; also a folder with copies of its files."""
    logins_of: str | None = None
    """Host target whose logins security_log_review reviews; default: the only one, or `main`."""
    groups: tuple[str, ...] = host.GROUPS
    """Groups whose members are listed."""
    postgres: tuple[str, ...] = ()
    """Names of Postgres targets; all by default."""
    superusers: tuple[str, ...] = ("postgres",)
    """Roles of Postgres that may have powerful rights and log in."""
    grafana: str | None = None
    """HTTP target of Grafana, with a token of its own; without it, Grafana is not reviewed."""
    basic_auth: tuple[Path, ...] = ()
    """Files with lines `NAME:HASH`, as Traefik's usersFile and Apache's htpasswd."""
    period: Duration = timedelta(days=31)
    """Time whose logins are counted."""
    unused: Duration = timedelta(days=90)
    """An account or key that was not used for so long warns."""
    sign_off_within: Duration = timedelta(days=25)
    """Time for a decision; what was not decided afterwards warns."""


@job(
    timeout="15m",
    repeatable=True,
    history=400,
    requires=requirements,
    reads_findings=True,
    reads_tokens=True,
    reads_measures_of=("security_log_review", "access_sign_off"),
    admin_params=True,  # root and basic_auth name files to read
)
def run(ctx: Context, params: Params) -> None:
    """Each source by itself: one that cannot be read hides no other."""
    kept = read_kept(ctx, params.period)
    found: list[Access] = []
    hosts: dict[str, str] = {}  # what was not read of their groups and sudo rules
    roots = roots_of(ctx, params)
    targets: dict[str, Any] = dict(ctx.chosen("postgres", params.postgres))
    if not (roots or targets or params.grafana or params.basic_auth or kept.logins or ctx.tokens):
        hint = "mount the host's root, and set targets.host"
        raise TargetError("there is no host, Postgres, login or token to review", hint, cause="not_configured")
    with ctx.phase("review logins"), isolate_errors(ctx, "logins: kept by the daily reviews"):
        report.report_logins(ctx, kept, params.period)
    if not roots:
        hint = "mount the host's root, and set targets.host: {local: {root: /host, proc: /host/proc}}"
        cause = "not_configured: the host is not mounted into this container"
        ctx.unknown("host: accounts", cause, expected="readable", hint=hint, optional=True)
    for name, root in roots.items():
        with ctx.phase(f"read accounts of {name}"), isolate_errors(ctx, f"host {name}: accounts", role=Role.SOURCE):
            logins = kept if name == reviewed_host(ctx, params, roots) else None
            accesses, hosts[f"host {name}"] = host.report(ctx, name, root, logins, params.groups, params.unused)
            found += accesses
    for name, target in targets.items():
        with ctx.phase(f"read roles of {name}"), isolate_errors(ctx, f"postgres {name}: roles"):
            roles = postgres_roles.collect(target, name)
            found += postgres_roles.report(ctx, name, roles, params.superusers)
    if params.grafana is not None:
        with ctx.phase("read accounts of Grafana"), isolate_errors(ctx, f"grafana {params.grafana}: accounts"):
            patience = min(_GRAFANA, ctx.remaining / 2)  # the other sources and the table need the rest
            accounts = grafana_accounts.collect(ctx.target("http", params.grafana), patience)
            found += grafana_accounts.report(ctx, params.grafana, accounts, params.unused / timedelta(days=1))
    for path in params.basic_auth:
        with isolate_errors(ctx, f"basic auth {path}: readable"):
            found += report.report_basic_auth(ctx, path)
    with isolate_errors(ctx, "maintd: tokens"):
        found += report.report_tokens(ctx, params.unused)
    if not found and not kept.logins:
        raise TargetError("no source of accesses could be read", "see the checks of this run")
    with ctx.phase("compare with earlier reviews"):
        new = sign_off.report_earlier(ctx, found, hosts, params.sign_off_within)
        section = sign_off.show_table(ctx, found, new)
    sections = (report.logins_section(ctx, kept, params.period), section)
    publish_review(ctx, kind="access", title="Access review", sections=sections)


def roots_of(ctx: Context, params: Params) -> dict[str, Path]:
    """The roots to read."""
    if params.root is not None:
        return {"local": params.root}
    chosen: dict[str, Any] = dict(ctx.chosen("host", params.hosts))
    return {name: target.root for name, target in mounted(chosen).items()}


def reviewed_host(ctx: Context, params: Params, roots: dict[str, Path]) -> str:
    """The name of the host whose logins are kept."""
    if params.logins_of is not None:
        return params.logins_of
    return next(iter(roots)) if len(roots) == 1 else "main"
