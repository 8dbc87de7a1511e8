"""Audit containers, databases, files and the host against rules with a source, and write SARIF.

Runbook: Monthly Maintenance, Security Review, 1 Security Audit

Each rule has an id and a source, most are of the CIS benchmarks; docs/security-audit.md has all. Nothing is changed:
each finding has the change that a person would make. The runbook's script changes the firewall and sshd with `--fix`,
which can lock out its administrator, and reads a field of CPU limits that compose does not set. Values of secrets
appear nowhere: of an environment, a file or a commit only the name and the place are kept.
"""

from collections.abc import Iterator
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import field_validator

from maintd.checks.audit import (
    compose_files,
    containers,
    daemon,
    file_modes,
    inspected,
    postgres,
    redis,
    sockets,
    sshd,
    tracked_secrets,
)
from maintd.checks.audit.catalog import BY_KIND, RULES
from maintd.checks.audit.containers import Site
from maintd.checks.audit.evaluate import evaluate, report
from maintd.checks.audit.publish import publish
from maintd.checks.audit.rule import Outcome
from maintd.checks.audit.waivers import Ledger, Waiver
from maintd.checks.host import listening
from maintd.checks.host.listening import Allowed
from maintd.checks.host.mounted import mounted
from maintd.checks.probes import Probe, collect_all, isolate_errors
from maintd.checks.requirements.jobs.security import security_audit as requirements
from maintd.clients import docker
from maintd.job import Context, JobParams, MaintdError, TargetError, job

FILES = timedelta(minutes=3)
"""Time for the files of one place."""
GIT = timedelta(minutes=1)
"""Time for one command of git."""


class Params(JobParams):
    published_ports: tuple[int, ...] = (80, 443)
    """Ports that may be published on all addresses of the host, and below 1024."""
    socket_proxies: tuple[str, ...] = ()
    """Services that are a proxy before the Docker engine, and so have its socket."""
    compose: tuple[Path, ...] = ()
    """Compose files; by default none is examined."""
    folders: tuple[Path, ...] = ()
    """Folders of programs: what others may write in them, and .env files; by default none is examined."""
    repositories: tuple[Path, ...] = ()
    """Git repositories, by the folder with .git: secrets in the files of HEAD. Needs git where maintd runs."""
    superusers: tuple[str, ...] = ("postgres",)
    """Roles of Postgres that are meant to be superusers."""
    hosts: tuple[str, ...] | None = None
    """Names of host targets whose sshd and sockets are audited; by default all, in a container only mounted ones."""
    listening: tuple[str, ...] | None = None
    """Allowed sockets beyond loopback, as in host_review; by default they are not evaluated."""
    engine_host: str | None = "local"
    """The host target with the engine's daemon.json; null: it is not mounted."""
    end_of_life: dict[str, dict[str, date]] = {}
    """Last days of support by release, for what the table lacks: `{docker-engine: {"29": 2027-01-31}}`."""
    waivers: tuple[Waiver, ...] = ()
    """Findings that a person accepts until a day: `{rule, subject, why, by, until}`."""

    @field_validator("listening")
    @classmethod
    def _are_sockets(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for text in value or ():
            Allowed.parse(text)
        return value

    @field_validator("waivers")
    @classmethod
    def _name_rules(cls, value: tuple[Waiver, ...]) -> tuple[Waiver, ...]:
        for waiver in value:
            if waiver.rule not in RULES:
                raise ValueError(f"no rule {waiver.rule!r}; docs/security-audit.md has all ids")
        return value


@job(
    timeout="15m",
    repeatable=True,
    history=2000,  # findings of the last audit, of which each is a point
    history_of="job",
    reads_findings=True,
    requires=requirements,
    admin_params=True,  # they name files to read
)
def run(ctx: Context, params: Params) -> None:
    """Read everything at once, then evaluate and report it."""
    with ctx.phase("read what is audited"):
        results = list(collect_all(list(probes(ctx, params))))
    outcomes: list[Outcome] = []
    unseen: list[str] = []
    for probe, facts in results:
        rules = [rule.id for rule in BY_KIND[probe.kind]]
        if not isinstance(facts, MaintdError):
            with ctx.phase(f"evaluate {probe.subject}"), isolate_errors(ctx, f"{probe.subject}: evaluated"):
                outcomes += evaluated(ctx, params, probe, facts)
                continue
        else:
            ctx.report_error(f"{probe.subject}: examined", facts)
        unseen += rules
    if not results:
        hint = "configure targets.docker, targets.postgres or targets.redis, or give the param compose"
        raise TargetError("there is nothing to audit", hint, cause="not_configured")
    ledger = Ledger(params.waivers, ctx.now().date())
    with ctx.phase("report"):
        result = evaluate(ctx, outcomes, ledger, len(unseen))
        report(ctx, result)
        blind = {outcome.rule.id for outcome in outcomes if outcome.blind}
        ctx.report(ledger.criteria(blind | set(unseen)))
        publish(ctx, result, ledger)


def probes(ctx: Context, params: Params) -> Iterator[Probe]:
    """What to read, each with its own time."""
    targets = ctx.targets
    mounted = hosts(ctx, params)
    root = mounted[params.engine_host].root if params.engine_host in mounted else None
    for name, engine in targets.docker.items():
        yield Probe("docker", name, partial(of_engine, engine, name, root), engine.timeout * 6)
    for name, server in targets.postgres.items():
        yield Probe("postgres", name, partial(postgres.collect, server, name, "security_audit"), server.timeout * 6)
    for name, cache in targets.redis.items():
        yield Probe("redis", name, partial(redis.collect, cache, name), cache.timeout * 6)
    for name, secrets in targets.secrets.items():
        yield Probe("secrets", name, partial(file_modes.list_secrets, secrets), FILES)
    for name, host in mounted.items():
        yield Probe("sshd", name, partial(sshd.read, host.root), FILES)
        if params.listening is not None:
            yield Probe("sockets", name, partial(listening.collect, host), FILES)
    for kind, paths, read in (
        ("compose", params.compose, compose_files.read),
        ("files", params.folders, file_modes.list_tree),
        ("repository", params.repositories, partial(tracked_secrets.collect, timeout=GIT)),
    ):
        for path in paths:
            yield Probe(kind, str(path), partial(read, path), FILES)


def hosts(ctx: Context, params: Params) -> dict[str, Any]:
    """The hosts to audit: in a container not its own file system, unless it is asked for."""
    names = ctx.targets.host if params.hosts is None else params.hosts
    found: dict[str, Any] = {name: ctx.target("host", name) for name in names}
    return mounted(found) if params.hosts is None else found


def of_engine(target: Any, name: str, root: Path | None) -> tuple[Any, ...]:
    """The engine and its containers. Raises TargetError."""
    with docker.connect(target, name=name) as engine:
        return (daemon.collect(engine, root), *inspected.collect(engine, target.project))


def evaluated(ctx: Context, params: Params, probe: Probe, facts: Any) -> list[Outcome]:
    """What was seen of each rule in one place."""
    ports = frozenset(params.published_ports)
    match probe.kind:
        case "docker":
            engine, found, blind = facts
            site = Site(ports, frozenset(params.socket_proxies), daemon.profiles(engine))
            return [
                *daemon.outcomes(probe.subject, engine, ctx.now().date(), params.end_of_life),
                *containers.outcomes(probe.subject, found, blind, site),
            ]
        case "postgres":
            return postgres.outcomes(probe.subject, facts, params.superusers)
        case "redis":
            return redis.outcomes(probe.subject, facts)
        case "secrets":
            return file_modes.secret_outcomes(probe.subject, facts)
        case "files":
            return file_modes.tree_outcomes(probe.subject, facts)
        case "repository":
            return tracked_secrets.outcomes(probe.subject, facts)
        case "sshd":
            return sshd.outcomes(probe.subject, facts)
        case "sockets":
            allowed = [Allowed.parse(text) for text in params.listening or ()]
            return sockets.outcomes(probe.subject, facts, allowed)
        case _:
            return compose_files.outcomes(Path(probe.name), facts, ports)
