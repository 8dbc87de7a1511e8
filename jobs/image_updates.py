"""Compare the images in use with their registries; report newer versions, and old, unsupported and vulnerable ones.

Runbook: Weekly Maintenance, System Cleanup, step 4 "Container Image Updates"

By default registries are only asked for digests: no tag changes, and no limit of pulls is touched. With `pull: true`,
newer images are pulled by digest, and the image in use gets a tag for a rollback; no container is recreated. Newer
versions, and whether the last run had found them, are looked for among a repository's tags with `through: registry`,
as the engine cannot list them.
Vulnerabilities, and which of them are new since the last run, are read from trivy's reports, or found by trivy, when
one of them is configured.
"""

from datetime import date, timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field

from maintd.checks.docker.end_of_life import SupportCheck
from maintd.checks.docker.image_updates import ImageUpdater, PullLimits
from maintd.checks.docker.images import ImageInUse, find_image, images_in_use, report_age
from maintd.checks.docker.vulnerabilities import VulnerabilityCheck, report_without_scanner
from maintd.checks.probes import isolate_errors, isolate_unforeseen
from maintd.checks.requirements.jobs.cleanup import image_updates as requirements
from maintd.clients.docker import Docker, connect
from maintd.clients.registry import (
    Credentials,
    EngineRegistryClient,
    HttpRegistryClient,
    RegistryClient,
    parse_or_none,
)
from maintd.job import Context, Duration, JobParams, job


class Params(JobParams):
    targets: tuple[str, ...] = ()
    """Names of Docker targets; all by default."""
    skip: tuple[str, ...] = ()
    """Services to exclude."""
    through: Literal["engine", "registry"] = "engine"
    """Ask registries through the Docker engine, or directly."""
    credentials: dict[str, Credentials] = {}
    """Logins by registry, such as `ghcr.io` or `docker.io`."""
    insecure: frozenset[str] = frozenset()
    """Registries that may be asked directly without TLS; those on this machine always may."""
    registry_timeout: Duration = timedelta(seconds=30)
    """Timeout of one answer of a registry."""
    max_age: Duration = timedelta(days=90)
    """Warn about images built longer ago."""
    end_of_life_within: Duration = timedelta(days=90)
    """Warn about software whose support ends within this time; after its end it fails."""
    end_of_life: dict[str, dict[str, date]] = {}
    """Dates by product and release that override the built-in table: `postgresql: {"19": 2031-11-13}`."""
    end_of_life_max_age: Duration = timedelta(days=365)
    """Warn when the built-in table is older; then, what it has without a date is unknown."""
    trivy_reports: Path | None = None
    """Folder with trivy's JSON reports."""
    trivy: str | None = None
    """The trivy program, to scan images without a report."""
    trivy_timeout: Duration = timedelta(minutes=10)
    """Timeout of one scan."""
    trivy_max_age: Duration = timedelta(days=3)
    """Ignore older reports, and an older database of trivy."""
    accepted: dict[str, date] = {}
    """Vulnerabilities accepted until a day: `CVE-2026-1234: 2026-12-31`."""
    pull: bool = False
    """Pull newer images."""
    pull_timeout: Duration = timedelta(minutes=5)
    """How long a pull may be silent."""
    pull_limit: Duration = timedelta(minutes=30)
    """How long one pull may take."""
    max_pulls: int = Field(default=10, ge=1)
    """Images pulled in one run at most."""


@job(timeout="1h", mutates=True, repeatable=True, locks={"docker": "shared"}, needs=("docker",), requires=requirements)
def run(ctx: Context, params: Params) -> None:
    """Check each engine in turn; an engine that fails does not stop the others."""
    ctx.limit("pull", params.max_pulls)
    support = SupportCheck(ctx, params.end_of_life, params.end_of_life_within, params.end_of_life_max_age)
    for name in params.targets or tuple(ctx.targets.docker) or ("main",):
        with isolate_errors(ctx, f"{name}: images compared"):
            target = ctx.target("docker", name)
            patience = max(target.timeout, params.registry_timeout)  # the engine asks the registry
            with connect(target, name=name) as engine, engine.api.each_within(patience):
                check_engine(ctx, params, engine, target.project, target.url, support)
    support.report_age()
    if params.trivy is None and params.trivy_reports is None:
        report_without_scanner(ctx)


def check_engine(
    ctx: Context, params: Params, engine: Docker, project: str | None, url: str, support: SupportCheck
) -> None:
    """Check all images that the project's containers use."""
    with ctx.phase(f"{engine.name}: list the containers"):
        in_use = [used for used in images_in_use(engine.containers(project)) if used.service not in params.skip]
        ctx.check(
            f"{engine.name}: images in use", len(in_use), at_least=1, hint="start the project, or correct its name"
        )
    registry: RegistryClient = (
        EngineRegistryClient(engine, params.credentials)
        if params.through == "engine"
        else HttpRegistryClient(params.credentials, params.insecure, timeout=params.registry_timeout)
    )
    updates = ImageUpdater(
        ctx,
        engine,
        registry,
        pulls=PullLimits(params.pull_timeout, params.pull_limit, params.max_pulls) if params.pull else None,
        credentials=params.credentials,
    )
    vulnerabilities = VulnerabilityCheck(
        ctx,
        reports=params.trivy_reports,
        program=params.trivy,
        docker_url=url,
        timeout=params.trivy_timeout,
        max_age=params.trivy_max_age,
        accepted=params.accepted,
    )
    for used in ctx.track(in_use, unit="image"):
        with ctx.phase(f"check {used.service}, {used.name}"), isolate_unforeseen(ctx, f"{used.service}: image"):
            check_image(ctx, params, engine, used, support, updates, vulnerabilities)


def check_image(
    ctx: Context,
    params: Params,
    engine: Docker,
    used: ImageInUse,
    support: SupportCheck,
    updates: ImageUpdater,
    vulnerabilities: VulnerabilityCheck,
) -> None:
    """Report age, support, updates and vulnerabilities of one image."""
    image = find_image(engine, used.image_id)
    if image is None:
        hint = "it was removed by force while in use: recreate the container"
        ctx.unknown(f"{used.service}: image", f"{used.name} no longer exists", hint=hint)
        return
    report_age(ctx, used, image, params.max_age)
    reference = parse_or_none(used.name)
    if reference is None:
        ctx.unknown(f"{used.service}: current", f"{used.name} is an id, not a name", hint="name its image")
    else:
        support.report(used.service, reference, image)
        updates.report(used, reference, image)
    vulnerabilities.report(used, image)
