"""Compare the effective configuration of a stack with the one that a person approved, and find what cannot work in it.

Runbook: Quarterly Maintenance, Infrastructure Review, 3 Configuration Review

Reads compose files without expanding `${…}` and the containers of their project, Postgres, Redis, Prometheus,
Alertmanager, Grafana, Traefik, and files. Of each, a flat list of paths with values is compared with an approved one in
the folder target `config_baselines`. Nothing becomes approved but by `config_accept` (docs/config-review.md). A secret
is kept only as a keyed digest, or whether it is set; a URL only with scheme and host. Alert rules whose metrics never
existed are named. Nothing of the stack is changed; what was seen is written into that folder.
"""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from secrets import token_bytes
from typing import Any

from maintd.checks.config_review import alertmanager, compose, containers, evaluate, postgres, prometheus, redis, web
from maintd.checks.config_review.alertmanager import SILENT
from maintd.checks.config_review.baselines import Baselines, as_json
from maintd.checks.config_review.prometheus import PLACEHOLDERS
from maintd.checks.config_review.snapshot import Collector
from maintd.checks.probes import Probe, collect_all, isolate_errors
from maintd.checks.requirements.jobs.configuration import config_review as requirements
from maintd.job import Context, Duration, JobParams, MaintdError, TargetError, job
from maintd.reports.review_report import publish_review


class Params(JobParams):
    baselines: str = "config_baselines"
    """Folder target where approved configurations are kept."""
    postgres: tuple[str, ...] | None = None
    """Names of Postgres targets; all by default, none: `[]`."""
    redis: tuple[str, ...] | None = None
    """Names of Redis targets; all by default, none: `[]`."""
    prometheus: tuple[str, ...] | None = None
    """Names of Prometheus targets; all by default, none: `[]`."""
    alertmanager: tuple[str, ...] | None = None
    """Names of Alertmanager targets; all by default, none: `[]`."""
    docker: tuple[str, ...] | None = None
    """Names of Docker targets; all by default, none: `[]`."""
    compose: dict[str, tuple[Path, ...]] = {}
    """By Docker target, the compose files of its project, in the order in which compose merges them."""
    grafana: str | None = None
    """HTTP target of Grafana, with the token of a service account in its headers."""
    traefik: str | None = None
    """HTTP target of Traefik's API."""
    files: tuple[Path, ...] = ()
    """Further files of YAML, JSON or TOML, such as Traefik's dynamic configuration."""
    redis_files: dict[str, Path] = {}
    """By Redis target, its redis.conf, to find settings that a restart would change."""
    redis_policies: tuple[str, ...] = ()
    """Eviction policies that are allowed; all by default."""
    silent_receivers: tuple[str, ...] = SILENT
    """Receivers of Alertmanager that send nowhere on purpose."""
    placeholders: str = PLACEHOLDERS
    """Regular expression of addresses in runbook_url that lead nowhere."""
    ignore: tuple[str, ...] = ()
    """Patterns of what is not compared: `docker main/*/image id`."""
    patience: Duration = timedelta(minutes=2)
    """How long each subject may take."""


@job(timeout="10m", repeatable=True, requires=requirements, reads_findings=True, admin_params=True)  # they name files
def run(ctx: Context, params: Params) -> None:
    """Read everything at once, then compare it with what is approved."""
    baselines, unusable = None, ""
    key = token_bytes(32)
    if params.baselines in ctx.targets.folders:
        unusable = "the key of the digests cannot be read or made"  # a digest of another key is of no use
        with isolate_errors(ctx, "baselines: can be written", expected="a folder that maintd may write"):
            folder = Baselines(ctx.target("folders", params.baselines).path)
            key = folder.key()
            baselines = folder
    found: list[evaluate.Reviewed] = []
    content: dict[str, Mapping[str, Any]] = {}
    with ctx.phase("read the configuration"):
        results = list(collect_all(list(probes(ctx, params, key))))
    if not results:
        hint = "set targets in the calendar, or the params compose and files"
        raise TargetError("there is nothing to review", hint, cause="not_configured")
    with ctx.phase("compare with what is approved"):
        for probe, facts in results:
            with isolate_errors(ctx, f"{probe.subject}: can be read"):
                if isinstance(facts, MaintdError):
                    raise facts
                seen = facts
                if probe.kind == "compose":
                    seen, content[probe.name] = facts
                elif probe.kind == "docker":
                    seen = facts.seen
                    if probe.name in content:
                        one_shot = ctx.target("docker", probe.name).one_shot
                        ctx.report(compose.compare(content[probe.name], facts.containers, one_shot), probe.subject)
                found.append(evaluate.report(ctx, seen, baselines, unusable))
    ctx.save("config.json", as_json(evaluate.evidence(found)), "application/json")
    for item in found:
        if item.approved is not None:
            ctx.measure("config_drift", item.drift.count, subject=item.seen.snapshot.subject)
    publish_review(
        ctx,
        kind="config-review",
        title="Configuration review",
        sections=[evaluate.section(found, f"read at {ctx.now():%Y-%m-%d %H:%M} UTC")],
        method=("A value of a secret is never kept; a keyed digest in its place shows that it changed.",),
    )


def probes(ctx: Context, params: Params, key: bytes) -> Iterator[Probe]:
    """What to read. Compose files come before the containers, which are compared with them."""

    def collector(subject: str) -> Collector:
        return Collector(subject, key, lambda path: any(fnmatchcase(f"{subject}/{path}", it) for it in params.ignore))

    def probe(kind: str, name: str, read: Any, *arguments: Any) -> Probe:
        return Probe(kind, name, partial(read, *arguments), params.patience)

    def chosen(kind: str, names: tuple[str, ...] | None) -> dict[str, Any]:
        return {} if names == () else dict(ctx.chosen(kind, names or ()))

    for name, paths in params.compose.items():
        ctx.target("docker", name)
        yield probe("compose", name, compose.read, paths, collector(f"compose {name}"))
    for name, target in chosen("docker", params.docker).items():
        yield probe("docker", name, containers.read, target, collector(f"docker {name}"))
    for name, target in chosen("postgres", params.postgres).items():
        yield probe("postgres", name, postgres.read, target, collector(f"postgres {name}"))
    for name, target in chosen("redis", params.redis).items():
        file = params.redis_files.get(name)
        yield probe("redis", name, redis.read, target, collector(f"redis {name}"), file, params.redis_policies)
    for name, target in chosen("prometheus", params.prometheus).items():
        yield probe("prometheus", name, prometheus.read, target, collector(f"prometheus {name}"), params.placeholders)
    for name, target in chosen("alertmanager", params.alertmanager).items():
        arguments = target, collector(f"alertmanager {name}"), params.silent_receivers
        yield probe("alertmanager", name, alertmanager.read, *arguments)
    for kind, given, read in (
        ("grafana", params.grafana, web.read_grafana),
        ("traefik", params.traefik, web.read_traefik),
    ):
        if given is not None:
            yield probe(kind, given, read, ctx.target("http", given), collector(f"{kind} {given}"))
    for path in params.files:
        yield probe("file", str(path), web.read_file, path, collector(f"file {path}"))
