"""Remove unused images, stopped containers and, if asked for, unused networks, by id from a plan that is saved.

Runbook: Weekly Maintenance, System Cleanup, step 1 "Log Rotation and Cleanup"

`docker system prune` would also remove stopped containers with the evidence in their logs, and the previous build. This
job keeps an image while any container uses it, also a stopped one, while it is one of the newest `generations` of its
repository, and when a tag or label protects it. A stopped container is removed after its last log lines are saved.
Each is checked again just before its removal. Networks that no container uses are reported, and removed only where
`networks` is set. Volumes are never removed.
"""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import TypeVar

from pydantic import Field

from maintd.checks.docker import cleanup, networks
from maintd.checks.docker.cleanup import Decision, ImageUsers, InUseError, Retention
from maintd.checks.probes import as_target_error, isolate_errors
from maintd.checks.requirements.jobs.cleanup import docker_cleanup as requirements
from maintd.clients import docker
from maintd.clients.docker import Docker
from maintd.job import CheckStatus, Context, Duration, JobParams, Role, Size, TargetError, job

T = TypeVar("T")
FEW = 5  # to remove are no reason to stop: a share of a small number means nothing


class Params(JobParams):
    targets: tuple[str, ...] = ()
    """Names of Docker targets; all by default."""
    generations: int = Field(default=3, ge=1)
    """Images to keep of each repository, the newest by the time of their tag on this engine."""
    image_age: Duration = timedelta(days=14)
    """Keep images tagged on this engine more recently than this."""
    container_age: Duration = timedelta(days=7)
    """Keep containers that ended more recently than this."""
    keep: tuple[str, ...] = ("maintd/rollback:*", "*:rollback*", "*:previous*")
    """Patterns of `repository:tag` to keep."""
    keep_label: str = "maintd.keep"
    """Keep images and containers with this label."""
    log_lines: int = Field(default=500, ge=1, le=10_000)
    """Log lines of a container to save before it is removed."""
    networks: Duration | None = None
    """Remove networks that all runs found unused for this long; null: only report them."""
    build_cache: Duration | None = timedelta(days=14)
    """Remove build cache that was not used for this long; null: never."""
    build_cache_kept: Size = 2 * 2**30
    """Build cache to keep in any case."""
    max_images: int = Field(default=50, ge=1)
    """Remove no image at all if more than this would be removed."""
    max_containers: int = Field(default=50, ge=1)
    """Remove no container at all if more than this would be removed."""
    max_networks: int = Field(default=10, ge=1)
    """Remove no network at all if more than this would be removed."""
    max_share: float = Field(default=0.3, gt=0, le=1)
    """Remove at most this share of all of a kind, the oldest first, but always one; none if more than it and five."""
    unused_from: Size = 10 * 2**30
    """Warn when images without a container take more than this and more than 30 % of all."""
    max_dangling: Size = 10 * 2**30
    """Warn when volumes without a container take more than this."""
    volume_age: Duration = timedelta(days=30)
    """Ignore volumes newer than this."""


@job(
    timeout="1h",
    mutates=True,
    repeatable=True,
    locks={"docker": "exclusive"},
    needs=("docker",),
    history_of="job",
    requires=requirements,
)
def run(ctx: Context, params: Params) -> None:
    """Clean each engine in turn; an engine that fails does not stop the others."""
    names = params.targets or tuple(ctx.targets.docker)
    ctx.limit("remove container", params.max_containers * len(names))
    ctx.limit("remove image", params.max_images * len(names))
    ctx.limit("remove network", params.max_networks * len(names))
    for name in names:
        with (
            isolate_errors(ctx, f"{name}: cleaned", role=Role.WORK),
            docker.connect(ctx.target("docker", name), name=name) as engine,
        ):
            clean(ctx, params, engine)


def clean(ctx: Context, params: Params, engine: Docker) -> None:
    """List, plan, save the plan, remove."""
    name = engine.name
    retention = Retention(params.generations, params.image_age, params.container_age, params.keep, params.keep_label)
    with ctx.phase(f"{name}: list images and containers"):
        containers = cleanup.stored_containers(engine)
        images, parents = cleanup.stored_images(engine)
        cleanup.report_disk_use(ctx, engine, params.unused_from, params.max_dangling, params.volume_age)
    old = cleanup.decide_containers(containers, retention, ctx.now())
    unused_since = cleanup.record_unused(ctx, name, images, ImageUsers(containers))
    unused = cleanup.decide_images(images, containers, parents, retention, ctx.now(), unused_since)
    left_over = networks.plan(ctx, engine, containers, params.networks, params.keep_label)
    ctx.save(f"plan-{name}.json", cleanup.plan_text(old, unused, left_over), "application/json")
    remove_old = partial(cleanup.report_container_removed, ctx, engine, params.log_lines)
    remove(ctx, params, name, "container", old, params.max_containers, remove_old)
    remove(ctx, params, name, "image", unused, params.max_images, partial(cleanup.report_image_removed, ctx, engine))
    if params.networks is not None:
        remove_one = partial(networks.remove_network, ctx, engine)
        remove(ctx, params, name, "network", left_over, params.max_networks, remove_one)
    if params.build_cache is not None:
        with ctx.phase(f"{name}: remove build cache"):
            cleanup.report_build_cache_pruned(ctx, engine, params.build_cache, params.build_cache_kept)


def remove(
    ctx: Context,
    params: Params,
    name: str,
    kind: str,
    decisions: list[Decision[T]],
    limit: int,
    remove_one: Callable[[T], bool],
) -> None:
    """Remove what the plan lists, at most the share of all and the oldest first, unless it is too much at once."""
    planned = [decision.subject for decision in decisions if decision.removable]
    share = max(1, int(params.max_share * len(decisions) + 1e-9))
    allowed = min(limit, max(FEW, share))
    hint = f"read the plan; if it is right, trigger this job once with a higher max_share or max_{kind}s"
    check = ctx.check(f"{name}: {kind}s to remove", len(planned), at_most=allowed, hint=hint)
    ctx.measure(f"docker_{kind}s", len(decisions), kind, engine=name)
    if check.status is not CheckStatus.OK or not planned:
        return
    if len(planned) > share:
        ctx.log(f"{name}: {len(planned) - share} {kind}s stay for the next run, because of max_share")
        planned = planned[:share]
    failed, kept, removed = list[str](), list[str](), 0
    with ctx.phase(f"{name}: remove {len(planned)} {kind}s"):
        for subject in ctx.track(planned, unit=kind):
            label = f"{getattr(subject, 'label', '') or getattr(subject, 'name', '')}"
            try:
                with as_target_error(f"{name}: {kind} {label}"):
                    removed += remove_one(subject)
            except InUseError as error:
                ctx.log(f"{name}: {kind} {label} kept: {error.message}")
                kept.append(f"{label}: {error.message}")
            except TargetError as error:
                failed.append(f"{label}: {error.message}")
    ctx.measure(f"docker_{kind}s_removed", removed, kind, engine=name)
    ctx.check(f"{name}: {kind}s that could not be removed", len(failed), at_most=0, hint="; ".join(failed[:3]))
    ctx.check(f"{name}: {kind}s kept, in use since the plan", len(kept), warn_above=0, hint="; ".join(kept[:3]))
