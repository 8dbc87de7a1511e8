"""Remove images and stopped containers that nobody uses, each by its id from a plan that is kept with the run.

Runbook: Weekly Maintenance, System Cleanup, step 1 "Log Rotation and Cleanup"

`docker system prune` takes stopped containers with the evidence in their logs, and the previous build with them. Here
an image stays while any container uses it, a stopped one too, or one of the newest `generations` of its repository
needs it for going back, or a tag or label says so. A container that has ended goes after its last lines were saved.
Each is looked at once more just before; what came into use meanwhile stays. Volumes and networks are never touched.
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, TypeVar

from pydantic import Field

from maintd.checks.docker import cleanup as removing
from maintd.checks.docker.cleanup import InUseError
from maintd.checks.docker.unused import (
    Decision,
    KeptContainer,
    References,
    Rules,
    StoredImage,
    judge_containers,
    judge_images,
)
from maintd.clients import docker
from maintd.clients.docker import Docker
from maintd.job import CheckStatus, Context, Duration, JobParams, Size, TargetError, job

T = TypeVar("T")
FEW = 5  # as many may always go: a share of a small number says nothing
SLOW = timedelta(minutes=2)  # the engine adds up sizes for its disk use


class Params(JobParams):
    targets: tuple[str, ...] = ()
    """Names of Docker targets; all by default."""
    generations: int = Field(default=3, ge=1)
    """How many images of each repository are kept, the newest by when they were tagged here."""
    image_age: Duration = timedelta(days=14)
    """An image that was tagged here less long ago is kept."""
    container_age: Duration = timedelta(days=7)
    """A container that ended less long ago is kept."""
    keep: tuple[str, ...] = ("maintd/rollback:*", "*:rollback*", "*:previous*")
    """Patterns of `repository:tag` that are kept."""
    keep_label: str = "maintd.keep"
    """Images and containers with this label are kept."""
    log_lines: int = Field(default=500, ge=1, le=10_000)
    """How many lines of a container are saved before it is removed."""
    build_cache: Duration | None = timedelta(days=14)
    """What builds have cached is dropped when it was not used for so long; null: never."""
    build_cache_kept: Size = 2 * 2**30
    """How much of it is kept all the same."""
    max_images: int = Field(default=50, ge=1)
    """When more images than this are to be removed, none is."""
    max_containers: int = Field(default=50, ge=1)
    """When more containers than this are to be removed, none is."""
    max_share: float = Field(default=0.3, gt=0, le=1)
    """When more than this share of all images or containers is to be removed, and more than five, none is."""
    unused_from: Size = 10 * 2**30
    """Images without a container warn from this size on, when that is also more than 30 % of all."""
    max_dangling: Size = 10 * 2**30
    """Volumes without a container warn when they take more than this together."""
    volume_age: Duration = timedelta(days=30)
    """Those younger than this are not counted."""


@job(timeout="1h", mutates=True, repeatable=True, locks={"docker": "exclusive"}, needs=("docker",), history_of="job")
def run(ctx: Context, params: Params) -> None:
    """Each engine in turn; one that cannot be reached does not hold up the others."""
    names = params.targets or tuple(ctx.targets.docker)
    ctx.limit("remove container", params.max_containers * len(names))
    ctx.limit("remove image", params.max_images * len(names))
    for name in names:
        target = ctx.target("docker", name)
        try:
            with docker.connect(target, name=name, timeout=SLOW) as engine:
                clean(ctx, params, engine)
        except TargetError as error:
            ctx.report_error(f"{name}: cleaned", error)


def clean(ctx: Context, params: Params, engine: Docker) -> None:
    """Look, plan, save the plan, remove."""
    name = engine.name
    rules = Rules(params.generations, params.image_age, params.container_age, params.keep, params.keep_label)
    with ctx.phase(f"{name}: see what it keeps"):
        containers = removing.kept_containers(engine)
        images, parents = removing.stored_images(engine)
        disk(ctx, params, engine)
    old = judge_containers(containers, rules, ctx.now())
    unused_since = idle(ctx, name, images, References(containers))
    unused = judge_images(images, containers, parents, rules, ctx.now(), unused_since)
    ctx.save(f"plan-{name}.json", plan_text(old, unused), "application/json")
    remove(
        ctx, params, name, "container", old, params.max_containers, lambda one: drop_container(ctx, params, engine, one)
    )
    remove(ctx, params, name, "image", unused, params.max_images, lambda one: drop_image(ctx, engine, one))
    if params.build_cache is not None:
        with ctx.phase(f"{name}: drop what builds have cached"):
            cache(ctx, params, engine, params.build_cache)


def idle(ctx: Context, name: str, images: list[StoredImage], uses: References) -> Mapping[str, datetime]:
    """Since when the runs so far, without a break, have found pulled images unused; kept as a measure for the next."""
    since: dict[str, datetime] = {}
    for image in images:
        if image.tagged_at is not None:
            continue
        unused = not uses.of(image)
        short = image.id.rpartition(":")[2][:24]
        for point in reversed(ctx.series("docker_image_unused", engine=name, image=short) if unused else ()):
            if not point.value:
                break
            since[image.id] = point.at
        ctx.measure("docker_image_unused", int(unused), "", engine=name, image=short)
    return since


def remove(
    ctx: Context,
    params: Params,
    name: str,
    kind: str,
    decisions: list[Decision[T]],
    most: int,
    drop: Callable[[T], bool],
) -> None:
    """Remove what may go, unless that is too much at once."""
    going = [one.subject for one in decisions if one.goes]
    allowed = min(most, max(FEW, int(params.max_share * len(decisions))))
    hint = f"look at the plan; if it is right, trigger it once with a higher max_share or max_{kind}s"
    check = ctx.check(f"{name}: {kind}s to remove", len(going), at_most=allowed, hint=hint)
    ctx.measure(f"docker_{kind}s", len(decisions), kind, engine=name)
    if check.status is not CheckStatus.OK or not going:
        return
    failed, removed = [], 0
    with ctx.phase(f"{name}: remove {len(going)} {kind}s"):
        for subject in ctx.track(going, unit=kind):
            label = f"{getattr(subject, 'label', '') or getattr(subject, 'name', '')}"
            try:
                removed += drop(subject)
            except InUseError as error:
                ctx.log(f"{name}: {kind} {label} stays: {error.message}")
            except TargetError as error:
                failed.append(f"{label}: {error.message}")
    ctx.measure(f"docker_{kind}s_removed", removed, kind, engine=name)
    ctx.check(f"{name}: {kind}s that could not be removed", len(failed), at_most=0, hint="; ".join(failed[:3]))


def drop_container(ctx: Context, params: Params, engine: Docker, container: KeptContainer) -> bool:
    """Save what it wrote last, then remove it."""
    target = f"{engine.name}: {container.name} ({container.id[:12]})"
    if not ctx.dry_run:
        lines = removing.last_lines(engine, container, params.log_lines)
        ctx.save(f"log-{engine.name}-{container.name}-{container.id[:12]}.txt", lines)
    if not ctx.may("remove container", target, image=container.image, ended=str(container.finished_at)):
        return False
    removing.remove_container(engine, container)
    return True


def drop_image(ctx: Context, engine: Docker, image: StoredImage) -> bool:
    """Remove it with all its tags."""
    target = f"{engine.name}: {image.label} ({image.id})"
    digests = ", ".join(image.digests)
    if not ctx.may("remove image", target, bytes=image.size_bytes, tags=", ".join(image.tags), digests=digests):
        return False
    removing.remove_image(engine, image)
    return True


def disk(ctx: Context, params: Params, engine: Docker) -> None:
    """What it all takes; judged, and kept as measures."""
    name = engine.name
    try:
        found = removing.disk_use(engine)
    except TargetError as error:
        ctx.report_error(f"{name}: disk use", error)
        return
    ctx.measure("docker_images_bytes", found.layers_bytes, "B", engine=name)
    ctx.measure("docker_reclaimable_bytes", found.unused_bytes, "B", engine=name, type="images")
    ctx.measure("docker_build_cache_bytes", found.build_cache_bytes, "B", engine=name)
    ctx.measure("docker_dangling_volumes", len(found.dangling), "volume", engine=name)
    limit = max(params.unused_from, int(0.3 * found.layers_bytes))
    hint = "what of it may not go is in the plan with the reason"
    ctx.check(f"{name}: images without a container", found.unused_bytes, warn_above=limit, unit="B", hint=hint)
    since = ctx.now() - params.volume_age
    old = [one for one in found.dangling if one.created_at is None or one.created_at <= since]
    for volume in old[:50]:
        ctx.log(f"{name}: no container uses volume {volume.name}, {volume.size_bytes} bytes, since {volume.created_at}")
    hint = (
        f"never removed here; look into {', '.join(one.name for one in old[:3])}, then: docker volume rm" if old else ""
    )
    size = sum(one.size_bytes for one in old)
    ctx.check(f"{name}: volumes without a container", size, warn_above=params.max_dangling, unit="B", hint=hint)


def cache(ctx: Context, params: Params, engine: Docker, unused_for: timedelta) -> None:
    """Builds can make it again: it is no evidence, and nothing goes back to it."""
    if not ctx.may("prune build cache", engine.name, kept=params.build_cache_kept):
        return
    try:
        freed = removing.prune_build_cache(engine, unused_for, params.build_cache_kept)
    except TargetError as error:
        ctx.report_error(f"{engine.name}: build cache dropped", error)
        return
    ctx.measure("docker_build_cache_freed_bytes", freed, "B", engine=engine.name)


def plan_text(containers: list[Decision[KeptContainer]], images: list[Decision[StoredImage]]) -> str:
    """Everything that was looked at, and why it stays; with the digests by which a pulled image can be had again."""
    plan: dict[str, list[dict[str, Any]]] = {
        "containers": [
            {
                "id": one.subject.id,
                "name": one.subject.name,
                "image": one.subject.image,
                "state": one.subject.state,
                "ended": str(one.subject.finished_at),
                "kept": one.kept or None,
            }
            for one in containers
        ],
        "images": [
            {
                "id": one.subject.id,
                "tags": one.subject.tags,
                "digests": one.subject.digests,
                "bytes": one.subject.size_bytes,
                "tagged": str(one.subject.tagged_at),
                "kept": one.kept or None,
            }
            for one in images
        ],
    }
    return json.dumps(plan, indent=1)
