"""Compare the images that containers run with what their registries have now, and say which are old or unsupported.

Runbook: Weekly Maintenance, System Cleanup, step 4 "Container Image Updates"

The registry is only asked, so that no tag moves by itself and no limit of pulls is touched. With `pull: true` what is
newer is fetched by its digest, beside the image in use, which gets a name to go back to; nothing is started anew.
Vulnerabilities are read from trivy's reports, or by trivy itself, where one of both is configured.
"""

from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field

from maintd.checks.docker import end_of_life as eol
from maintd.checks.docker import images
from maintd.checks.docker.images import Image, Used
from maintd.clients import trivy
from maintd.clients.docker import Docker, connect
from maintd.clients.registry import (
    Asking,
    Credentials,
    RateLimitedError,
    Reference,
    Registry,
    Remote,
    ThroughEngine,
    auth,
    floating,
    parse,
)
from maintd.job import CheckStatus, Context, Duration, JobParams, TargetError, format_duration, job

ROLLBACK = "maintd/rollback"
SEVERITIES = ("CRITICAL", "HIGH", "MEDIUM", "LOW")


class Params(JobParams):
    targets: tuple[str, ...] = ()
    """Names of Docker targets; all by default."""
    skip: tuple[str, ...] = ()
    """Services to leave out."""
    through: Literal["engine", "registry"] = "engine"
    """Who asks the registries: the engine, or this job itself."""
    credentials: dict[str, Credentials] = {}
    """Logins by registry, such as `ghcr.io` or `docker.io`."""
    insecure: frozenset[str] = frozenset()
    """Registries without TLS that this job may ask itself; those on this machine are always."""
    registry_timeout: Duration = timedelta(seconds=30)
    """How long one answer of a registry may take."""
    max_age: Duration = timedelta(days=90)
    """An image that was built longer ago warns."""
    end_of_life_within: Duration = timedelta(days=90)
    """Software whose support ends so soon warns; after its end it fails."""
    end_of_life: dict[str, dict[str, date]] = {}
    """Dates by product and release, where the built-in table is wrong or too old: `nodejs: {"26": 2029-04-30}`."""
    trivy_reports: Path | None = None
    """A folder of trivy's JSON reports."""
    trivy: str | None = None
    """The trivy program, to have each image looked at that has no report."""
    trivy_timeout: Duration = timedelta(minutes=10)
    """How long trivy may take for one image."""
    trivy_max_age: Duration = timedelta(days=3)
    """A report, or trivy's database, that is older says nothing."""
    accepted: dict[str, date] = {}
    """Vulnerabilities that are accepted until a day: `CVE-2026-1234: 2026-12-31`."""
    pull: bool = False
    """Whether to fetch what is newer."""
    pull_timeout: Duration = timedelta(minutes=5)
    """How long a pull may be silent."""
    max_pulls: int = Field(default=10, ge=1)
    """The most images fetched in one run."""


@job(timeout="1h", mutates=True, repeatable=True, locks={"docker": "shared"}, needs=("docker",))
def run(ctx: Context, params: Params) -> None:
    """Each engine in turn; one that cannot be reached does not hold up the others."""
    ctx.limit("pull", params.max_pulls)
    for name in params.targets or tuple(ctx.targets.docker) or ("main",):
        target = ctx.target("docker", name)
        try:
            with connect(target, name=name, timeout=max(target.timeout, params.registry_timeout)) as engine:
                look_after(ctx, params, engine, target.project, target.url)
        except TargetError as error:
            ctx.report_error(f"{name}: images compared", error)


def look_after(ctx: Context, params: Params, engine: Docker, project: str | None, url: str) -> None:
    """All images of the project's containers, each registry asked once for each name."""
    with ctx.phase(f"{engine.name}: list the containers"):
        found = [one for one in images.used(engine.containers(project)) if one.service not in params.skip]
        hint = "start the project, or correct the target's project"
        ctx.check(f"{engine.name}: images in use", len(found), at_least=1, hint=hint)
    asking: Asking = (
        ThroughEngine(engine, params.credentials)
        if params.through == "engine"
        else Registry(params.credentials, params.insecure, timeout=params.registry_timeout)
    )
    updates = Updates(ctx, params, engine, asking)
    scans = Vulnerabilities(ctx, params, url)
    for one in ctx.track(found, unit="image"):
        with ctx.phase(f"look at {one.service}, {one.name}"):
            image = images.find(engine, one.image_id)
            if image is None:
                hint = "it was removed by force while in use: recreate the container"
                ctx.unknown(f"{one.service}: image", f"{one.name} is not here any more", hint=hint)
                continue
            try:
                reference: Reference | None = parse(one.name)
            except ValueError:
                reference = None  # the container was made from an image's id
            age(ctx, params, one, image)
            if reference is None:
                ctx.unknown(f"{one.service}: current", f"{one.name} is an id, not a name", hint="name its image")
            else:
                software = eol.software(reference.repository, reference.tag, image.environment, image.labels)
                if software is None:
                    ctx.log(f"{one.service}: nothing is known of the support of {reference.repository}")
                else:
                    today, within = ctx.now().date(), params.end_of_life_within
                    eol.judge(ctx, one.service, software, params.end_of_life, today, within)
                updates.look(one, reference, image)
            scans.look(one, image)


def age(ctx: Context, params: Params, one: Used, image: Image) -> None:
    """How long ago it was built."""
    old = images.age(image, ctx.now())
    if old is None:
        ctx.log(f"{one.service}: {one.name} does not say when it was built")
        return
    ctx.check(
        f"{one.service}: age of the image", old, warn_above=params.max_age, hint="rebuild it, or take a newer one"
    )
    ctx.measure("image_age_days", old / timedelta(days=1), "day", service=one.service)


class Updates:
    """Compares images with their registries, and pulls what is newer when that is asked for."""

    def __init__(self, ctx: Context, params: Params, engine: Docker, asking: Asking) -> None:
        self._ctx, self._params, self._engine, self._asking = ctx, params, engine, asking
        self._answers: dict[str, Remote | TargetError] = {}
        self._limited: dict[str, TargetError] = {}  # registries that want to be left alone for now
        self._pulled: dict[str, Image] = {}

    def look(self, one: Used, reference: Reference, image: Image) -> None:
        """One image of one service."""
        ctx, current = self._ctx, f"{one.service}: current"
        here = image.digests_in(reference)
        if reference.digest:
            here |= {reference.digest}
        if not here:
            if reference.explicit:
                hint = "was it built here under that name, or loaded from a file? push it, or pull it"
                ctx.unknown(current, f"it did not come from {reference.registry}", hint=hint)
            else:
                ctx.log(f"{one.service}: {one.name} was made here: there is nothing to compare it with")
                self._deployed(one, reference, image)
            return
        if not reference.tag:
            ctx.log(f"{one.service}: {one.name} is pinned to its digest, with no tag to compare it with")
            return
        if not reference.digest:
            why = floating(reference.tag)
            hint = "a pull may bring a new major version: name at least the minor one, or a digest"
            ctx.check(
                f"{one.service}: tag",
                why or "names a version",
                equals="names a version",
                severity=CheckStatus.WARN,
                hint=hint,
            )
        try:
            remote = self._remote(reference)
            behind = remote.digest not in here and not (
                remote.is_index and any(self._asking.holds(reference, remote, digest) for digest in here)
            )
        except TargetError as error:
            self._note(reference, error)
            hint = error.hint or "look at it later"
            ctx.unknown(current, f"{error.cause}: {error.message}", expected="the registry's answer", hint=hint)
            self._deployed(one, reference, image)
            return
        ctx.measure("image_behind", int(behind), "", service=one.service)
        seen = f"behind: the registry has {_short(remote.digest)}" if behind else "current"
        hint = f"has {', '.join(sorted(map(_short, here)))}: read its changes, then pull and recreate in a window"
        ctx.check(current, seen, equals="current", severity=CheckStatus.WARN, hint=hint)
        newer = images.find(self._engine, f"{reference.familiar}@{remote.digest}") if behind else None
        if behind and newer is None and self._params.pull:
            newer = self._pull(one, reference, image, remote)
        self._deployed(one, reference, image, newer)

    def _remote(self, reference: Reference) -> Remote:
        if reference.registry in self._limited:
            raise self._limited[reference.registry]
        name = f"{reference.familiar}:{reference.tag}"
        if name not in self._answers:
            try:
                self._answers[name] = self._asking.remote(reference)
            except TargetError as error:
                self._answers[name] = error
        answer = self._answers[name]
        if isinstance(answer, TargetError):
            raise answer
        return answer

    def _note(self, reference: Reference, error: TargetError) -> None:
        if isinstance(error, RateLimitedError):
            self._limited.setdefault(reference.registry, error)

    def _deployed(self, one: Used, reference: Reference, image: Image, newer: Image | None = None) -> None:
        """Whether what is here under the tag, or was pulled, is what runs."""
        tagged = images.find(self._engine, f"{reference.familiar}:{reference.tag}") if reference.tag else None
        other = newer or (tagged if tagged is not None and not reference.digest else None)
        if other is None:
            return
        seen = "running" if other.id == image.id else f"not running: {_short(other.id)} is here"
        hint = f"runs {_short(image.id)}: recreate {one.service} in a window; until then a restart may change it"
        self._ctx.check(
            f"{one.service}: newest image here", seen, equals="running", severity=CheckStatus.WARN, hint=hint
        )

    def _pull(self, one: Used, reference: Reference, image: Image, remote: Remote) -> Image | None:
        ctx, name = self._ctx, f"{reference.familiar}@{remote.digest}"
        if name in self._pulled:
            return self._pulled[name]
        if len(self._pulled) >= self._params.max_pulls:
            ctx.check(
                f"{one.service}: pulled",
                "left for the next run",
                equals="pulled",
                severity=CheckStatus.WARN,
                hint="raise max_pulls",
            )
            return None
        rollback = f"{one.service}-{ctx.now():%Y%m%dT%H%M%SZ}"
        check = f"{one.service}: pulled"
        try:
            if not ctx.may("pull", name, service=one.service, tag=reference.tag, before=image.id):
                return None
            if ctx.may("tag", f"{ROLLBACK}:{rollback}", image=image.id):
                images.tag(self._engine, image, ROLLBACK, rollback)
            login = auth(self._params.credentials, reference)
            target = ctx.target("docker", self._engine.name)
            with connect(target, name=self._engine.name, timeout=self._params.pull_timeout) as patient:
                pulled = images.pull(patient, reference, remote, login)
        except TargetError as error:
            ctx.report_error(check, error, expected=_short(remote.digest))
            return None
        self._pulled[name] = pulled
        ctx.check(check, remote.digest in pulled.digests_in(reference), equals=True, hint="it is here, not started")
        return pulled


class Vulnerabilities:
    """What trivy says of images, where it is configured."""

    def __init__(self, ctx: Context, params: Params, docker_url: str) -> None:
        self._ctx, self._params, self._docker_url = ctx, params, docker_url
        self._reports: list[trivy.Scan] = []
        self._unusable = ""  # why trivy itself cannot be used
        if params.trivy_reports is not None:
            self._reports, errors = trivy.reports(params.trivy_reports)
            for error in errors:
                ctx.unknown("trivy report", f"{error.cause}: {error.message}", hint=error.hint or "")
        if params.trivy is not None:
            try:
                old = ctx.now() - trivy.database_made_at(params.trivy, timedelta(seconds=30))
                if old > params.trivy_max_age:
                    self._unusable = f"its database is {format_duration(timedelta(days=old.days))} old"
            except TargetError as error:
                self._unusable = f"{error.cause}: {error.message}"

    def look(self, one: Used, image: Image) -> None:
        """One image of one service; nothing is said of it where trivy is not configured."""
        ctx, params, name = self._ctx, self._params, f"{one.service}: vulnerabilities with a fix"
        if params.trivy is None and params.trivy_reports is None:
            return
        found = trivy.report_of(self._reports, one.name, image.id)
        try:
            if found is None and params.trivy is not None and not self._unusable:
                found = trivy.scan(params.trivy, image.id, self._docker_url, ctx.work_dir, params.trivy_timeout)
        except TargetError as error:
            ctx.unknown(name, f"{error.cause}: {error.message}", hint=error.hint or "")
            return
        if found is None:
            why = self._unusable or f"there is no report of {one.name} in {params.trivy_reports}"
            ctx.unknown(name, why, hint="update trivy's database, or write a report of this image")
            return
        if ctx.now() - found.made_at > params.trivy_max_age:
            ctx.unknown(name, f"the report is of {found.made_at:%F}", hint="write a new one")
            return
        self._judge(one, found.unaccepted(params.accepted, ctx.now().date()))

    def _judge(self, one: Used, found: Mapping[str, str]) -> None:
        by_severity = {
            severity: [name for name, its in sorted(found.items()) if its == severity] for severity in SEVERITIES
        }
        for severity, names in by_severity.items():
            self._ctx.measure("image_vulnerabilities", len(names), "", service=one.service, severity=severity)
        for severity, status in (("CRITICAL", CheckStatus.FAIL), ("HIGH", CheckStatus.WARN)):
            names = by_severity[severity]
            hint = f"{', '.join(names[:5])}: take a newer image, or accept them until a day" if names else ""
            self._ctx.check(
                f"{one.service}: {severity.lower()} vulnerabilities with a fix",
                len(names),
                at_most=0,
                severity=status,
                hint=hint,
            )


def _short(digest: str) -> str:
    return digest.rpartition(":")[2][:12]
