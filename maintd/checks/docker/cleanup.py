"""Unused images and stopped containers of a Docker engine: what may be removed, and its removal by id.

Each is read once more just before its removal. Nothing is forced: what is in use by then answers 409 and stays.
Volumes are never removed, not even the anonymous volumes of a removed container.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any, Generic, TypeVar

from docker.errors import APIError, NotFound

from maintd.checks.docker.image_updates import ROLLBACK
from maintd.clients.docker import ONE_OFF, PROJECT, SERVICE, Docker, parse_instant, translated
from maintd.clients.docker_usage import disk_usage
from maintd.errors import TargetError
from maintd.job.causes import Role
from maintd.job.context import Context
from maintd.redaction import mask_text

T = TypeVar("T")
_SLOW = timedelta(minutes=2)  # for the answer to a removal, which deletes files first


class InUseError(TargetError):
    """It has changed or is in use since it was planned, so it was not removed."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "the next run checks it again", cause="conflict")


@dataclass(frozen=True)
class StoredImage:
    """An image of the engine.

    `tagged_at`: when it was last tagged on this engine; `created_at` may be years before its pull. `digests` have the
    form `repository@sha256:…`.
    """

    id: str
    tags: tuple[str, ...]
    digests: tuple[str, ...]
    labels: Mapping[str, str]
    size_bytes: int
    created_at: datetime | None
    tagged_at: datetime | None

    @property
    def label(self) -> str:
        """Its name in checks and logs."""
        return self.tags[0] if self.tags else f"{(self.repositories or ('untagged',))[0]}@{self.id[7:19]}"

    @property
    def repositories(self) -> tuple[str, ...]:
        """The repositories of its tags and digests."""
        names = [tag.rpartition(":")[0] for tag in self.tags] + [digest.partition("@")[0] for digest in self.digests]
        return tuple(dict.fromkeys(name for name in names if name and name != "<none>"))


@dataclass(frozen=True)
class StoredContainer:
    """The fields of a container, running or not, that decide whether it or its image may be removed."""

    id: str
    name: str
    image: str
    image_id: str
    state: str
    finished_at: datetime | None
    restart_policy: str
    labels: Mapping[str, str]
    one_off: bool
    networks: frozenset[str] = frozenset()  # names, and ids where the engine knows them


@dataclass(frozen=True)
class Retention:
    """What to keep. `keep`: patterns of `repository:tag`, besides the tags for a rollback, which are always kept."""

    generations: int
    image_age: timedelta
    container_age: timedelta
    keep: tuple[str, ...]
    keep_label: str


@dataclass(frozen=True)
class Decision(Generic[T]):
    """Why something is kept; `kept` is empty when it may be removed."""

    subject: T
    kept: str

    @property
    def removable(self) -> bool:
        """Whether it may be removed."""
        return not self.kept


@dataclass(frozen=True)
class Volume:
    """A volume that no container uses."""

    name: str
    size_bytes: int  # −1: not measured
    created_at: datetime | None


@dataclass(frozen=True)
class DiskUse:
    """Disk usage of the engine. Layers that images share are counted once."""

    layers_bytes: int
    unused_bytes: int  # of images without a container, without their shared layers
    build_cache_bytes: int
    unused_volumes: tuple[Volume, ...]
    volumes_not_counted: tuple[str, ...] = ()  # the engine does not report how many containers use them


def disk_use(engine: Docker) -> DiskUse:
    """Disk usage; slow and heavy work for a large engine. Raises TargetError."""
    usage = disk_usage(engine)
    volumes = [
        Volume(volume.name, volume.usage.size, parse_instant(volume.created))
        for volume in usage.volumes
        if volume.usage.users == 0
    ]
    return DiskUse(
        usage.layers,
        sum(image.own_bytes for image in usage.images if not image.containers),
        sum(record.size for record in usage.build_cache if not record.shared),
        tuple(sorted(volumes, key=lambda volume: -volume.size_bytes)),
        tuple(volume.name for volume in usage.volumes if volume.usage.users < 0),
    )


def stored_images(engine: Docker) -> tuple[list[StoredImage], frozenset[str]]:
    """All images but intermediate ones, and the ids of the parents of others. Raises TargetError."""
    with translated(engine.name):
        all_images = engine.api.images(all=True)
        parents = frozenset(str(item["ParentId"]) for item in all_images if item.get("ParentId"))
        found = [_image(engine, item["Id"]) for item in engine.api.images()]
    return [image for image in found if image is not None], parents


def _image(engine: Docker, name: str) -> StoredImage | None:
    try:
        raw = engine.api.inspect_image(name)  # type: ignore[no-untyped-call]
    except NotFound:
        return None
    config = raw.get("Config") or {}
    return StoredImage(
        raw["Id"],
        tuple(tag for tag in raw.get("RepoTags") or () if "<none>" not in tag),
        tuple(raw.get("RepoDigests") or ()),
        config.get("Labels") or {},
        int(raw.get("Size") or 0),
        parse_instant(raw.get("Created")),
        parse_instant((raw.get("Metadata") or {}).get("LastTagTime")),
    )


def stored_containers(engine: Docker) -> list[StoredContainer]:
    """All containers of the engine, of every project, also stopped ones. Raises TargetError."""
    found = []
    with translated(engine.name):
        for item in engine.api.containers(all=True):
            with suppress(NotFound):
                found.append(_container(engine.api.inspect_container(item["Id"])))
    return found


def _container(raw: Mapping[str, Any]) -> StoredContainer:
    labels = raw["Config"].get("Labels") or {}
    host = raw.get("HostConfig") or {}
    policy = (host.get("RestartPolicy") or {}).get("Name", "")
    attached = (raw.get("NetworkSettings") or {}).get("Networks") or {}
    ids = [str((item or {}).get("NetworkID") or "") for item in attached.values()]
    return StoredContainer(
        raw["Id"],
        str(raw["Name"]).removeprefix("/"),
        str(raw["Config"]["Image"]),
        str(raw["Image"]),
        str(raw["State"]["Status"]),
        parse_instant(raw["State"].get("FinishedAt")),
        policy,
        labels,
        labels.get(ONE_OFF) == "True",
        frozenset(name for name in (*attached, *ids, str(host.get("NetworkMode") or "")) if name),
    )


def decide_images(
    images: Sequence[StoredImage],
    containers: Iterable[StoredContainer],
    parents: frozenset[str],
    retention: Retention,
    now: datetime,
    unused_since: Mapping[str, datetime] | None = None,
) -> list[Decision[StoredImage]]:
    """Which images may be removed, oldest first. `parents`: ids of the parents of other images.

    `unused_since`: by id, since when earlier runs found the image unused; for images without `tagged_at`, which the
    engine sets when an image is tagged, but not when it is pulled.
    """
    newer = _newer_images(images)
    references = ImageUsers(containers)
    decisions = []
    for image in images:
        keep_reason = references.of(image) or _protection(image, retention)
        if not keep_reason and image.id in parents:
            keep_reason = "it is the parent of another image"
        present_since = image.tagged_at or (unused_since or {}).get(image.id)
        if not keep_reason and present_since is None:
            keep_reason = "it is not known since when it is unused"
        if not keep_reason and present_since is not None and now - present_since < retention.image_age:
            keep_reason = "too new"
        if not keep_reason and newer[image.id] < retention.generations:
            keep_reason = f"among the {retention.generations} newest of its repository"
        decisions.append(Decision(image, keep_reason))
    return sorted(decisions, key=lambda decision: (_age_key(decision.subject), decision.subject.id))


class ImageUsers:
    """Finds the container, running or stopped, that uses an image.

    Containers refer to an image by its id (in a containerd store the digest of its manifest), by a digest under which
    it was pulled, or by name, which the next start of the container resolves again.
    """

    def __init__(self, containers: Iterable[StoredContainer]) -> None:
        self._by: dict[str, StoredContainer] = {}
        for container in containers:
            for name in (container.image_id, container.image, container.image.partition("@")[2]):
                if name:
                    self._by.setdefault(name, container)
                    if ":" not in name.rpartition("/")[2]:
                        self._by.setdefault(f"{name}:latest", container)

    def of(self, image: StoredImage) -> str:
        """Text for a decision; empty when no container uses the image."""
        names = (image.id, *image.tags, *image.digests, *(digest.partition("@")[2] for digest in image.digests))
        user = next((self._by[name] for name in names if name in self._by), None)
        return f"used by the {user.state} container {user.name}" if user else ""


def _protection(image: StoredImage, retention: Retention) -> str:
    if retention.keep_label in image.labels:
        return f"it has the label {retention.keep_label}"
    for pattern in (f"{ROLLBACK}:*", *retention.keep):
        if any(fnmatchcase(tag, pattern) for tag in image.tags):
            return f'it is tagged "{pattern}"'
    return ""


def _newer_images(images: Sequence[StoredImage]) -> dict[str, int]:
    """By id, how many newer images the same repository or compose service has; with several of them, the minimum.

    An image without any name, such as the build before last, counts with its service, or else with all others that
    have no name.
    """
    groups: dict[tuple[str, ...], list[StoredImage]] = {}
    for image in images:
        service = (image.labels.get(PROJECT, ""), image.labels.get(SERVICE, ""))
        keys: list[tuple[str, ...]] = [(name,) for name in image.repositories]
        for key in (keys + [service] * any(service)) or [()]:
            groups.setdefault(key, []).append(image)
    ranks: dict[str, int] = {}
    for members in groups.values():
        members.sort(key=lambda image: (_age_key(image), image.id), reverse=True)
        for rank, image in enumerate(members):
            ranks[image.id] = min(rank, ranks.get(image.id, rank))
    return ranks


def _age_key(image: StoredImage) -> float:
    at = image.tagged_at or image.created_at
    return at.timestamp() if at else 0.0


def decide_containers(
    containers: Iterable[StoredContainer], retention: Retention, now: datetime
) -> list[Decision[StoredContainer]]:
    """Which stopped containers may be removed, those that ended first at first."""
    decisions = [Decision(container, _kept(container, retention, now)) for container in containers]
    return sorted(decisions, key=lambda decision: (str(decision.subject.finished_at), decision.subject.name))


def _kept(container: StoredContainer, retention: Retention, now: datetime) -> str:
    if container.state != "exited":
        return container.state
    if retention.keep_label in container.labels:
        return f"it has the label {retention.keep_label}"
    if PROJECT in container.labels and not container.one_off:
        return f"it belongs to the project {container.labels[PROJECT]}"
    if container.restart_policy not in ("", "no", "on-failure"):
        return f"its restart policy is {container.restart_policy}"
    if container.finished_at is None:
        return "it is not known when it ended"
    return "ended too recently" if now - container.finished_at < retention.container_age else ""


def report_container_removed(ctx: Context, engine: Docker, log_lines: int, container: StoredContainer) -> bool:
    """Save the container's last log lines, then remove it. False in a dry run. Raises InUseError, and TargetError."""
    target = f"{engine.name}: {container.name} ({container.id[:12]})"
    if not ctx.dry_run:
        lines = last_lines(engine, container, log_lines)
        ctx.save(f"log-{engine.name}-{container.name}-{container.id[:12]}.txt", lines)
    with ctx.change("remove container", target, image=container.image, ended=str(container.finished_at)) as allowed:
        if allowed:
            remove_container(engine, container)
    return bool(allowed)


def report_image_removed(ctx: Context, engine: Docker, image: StoredImage) -> bool:
    """Remove the image with all its tags. False in a dry run. Raises InUseError, and TargetError."""
    target = f"{engine.name}: {image.label} ({image.id})"
    digests = ", ".join(image.digests)
    tags = ", ".join(image.tags)
    with ctx.change("remove image", target, bytes=image.size_bytes, tags=tags, digests=digests) as allowed:
        if allowed:
            remove_image(engine, image)
    return bool(allowed)


def remove_image(engine: Docker, planned: StoredImage) -> None:
    """Remove an image with all its tags. Raises InUseError when it has changed since it was planned, and TargetError.

    1. Read it again: it has the same tags, and no container uses it. 2. Remove all tags but the last, each only if it
    still refers to this image. 3. Remove the image by its id, and with it the last tag. 4. When the engine refuses
    that, restore the tags.
    """
    now = _read_image(engine, planned.id)
    if set(now.tags) != set(planned.tags):
        raise InUseError(f"its tags have changed to {', '.join(now.tags) or 'none'}")
    if use := ImageUsers(stored_containers(engine)).of(now):
        raise InUseError(use)
    removed: list[str] = []
    try:
        for tag in planned.tags[1:]:
            if _read_image(engine, tag).id != planned.id:
                raise InUseError(f"{tag} now refers to another image")
            _remove(engine, tag)
            removed.append(tag)
        _remove(engine, planned.id)
    except TargetError:
        for tag in removed:
            repository, _, name = tag.rpartition(":")
            with suppress(TargetError), translated(engine.name):
                engine.api.tag(planned.id, repository, name)
        raise
    with translated(engine.name):
        still = _image(engine, planned.id)
    if still is not None:
        raise TargetError(f"{engine.name}: {planned.label} was removed, and is still there")


def _read_image(engine: Docker, name: str) -> StoredImage:
    with translated(engine.name):
        found = _image(engine, name)
    if found is None:
        raise InUseError(f"{name} no longer exists")
    return found


def _remove(engine: Docker, name: str) -> None:
    with _conflicts(), translated(engine.name), engine.api.each_within(_SLOW):
        # noprune: else the engine also removes untagged parents, whatever label they have.
        engine.api.remove_image(name, force=False, noprune=True)


def last_lines(engine: Docker, container: StoredContainer, count: int) -> bytes:
    """The last lines of a container's log, with their times and passwords masked. Raises TargetError."""
    with translated(engine.name):
        found = engine.api.logs(container.id, stdout=True, stderr=True, timestamps=True, tail=count)
    if not isinstance(found, bytes):
        raise TargetError(f"{engine.name}: the log of {container.name} has an unexpected format", cause="malformed")
    return mask_text(found.decode(errors="replace")).encode()


def remove_container(engine: Docker, planned: StoredContainer) -> None:
    """Remove a stopped container but not its volumes. Raises InUseError when it was started since, and TargetError."""
    api = engine.api
    with _conflicts(), translated(engine.name):
        now = _container(api.inspect_container(planned.id))
        if (now.state, now.finished_at) != (planned.state, planned.finished_at):
            raise InUseError(f"it was started again, and is {now.state}")
        with api.each_within(_SLOW):
            api.remove_container(planned.id, v=False, link=False, force=False)
    with translated(engine.name), suppress(NotFound):
        api.inspect_container(planned.id)
        raise TargetError(f"{engine.name}: {planned.name} was removed, and is still there")


@contextmanager
def _conflicts() -> Iterator[None]:
    """Turn the engine's 404 and 409 into InUseError: another client has removed or started it."""
    try:
        yield
    except TargetError as error:
        origin = error.__cause__
        if isinstance(origin, APIError) and origin.response is not None and origin.response.status_code in (404, 409):
            raise InUseError(str(origin.explanation or "in use")) from error
        raise


def prune_build_cache(engine: Docker, unused_for: timedelta, keep_bytes: int) -> int:
    """Remove build cache not used for this long; return the bytes freed. Raises TargetError."""
    filters = {"until": f"{int(unused_for.total_seconds())}s"}
    with translated(engine.name), engine.api.each_within(_SLOW):
        answer = engine.api.prune_builds(filters=filters, keep_storage=keep_bytes)
        freed = answer.get("SpaceReclaimed") if isinstance(answer, Mapping) else None
    if type(freed) is not int or freed < 0:
        raise TargetError(f"{engine.name}: the engine does not report what it freed", cause="unfamiliar")
    return freed


def report_disk_use(ctx: Context, engine: Docker, max_unused: int, max_volumes: int, volume_age: timedelta) -> None:
    """Report the disk used by images without a container, and by volumes without one that are older than this."""
    name = engine.name
    try:
        use = disk_use(engine)
    except TargetError as error:
        ctx.report_error(f"{name}: disk use", error)
        return
    ctx.measure("docker_images_bytes", use.layers_bytes, "B", engine=name)
    ctx.measure("docker_reclaimable_bytes", use.unused_bytes, "B", engine=name, type="images")
    ctx.measure("docker_build_cache_bytes", use.build_cache_bytes, "B", engine=name)
    ctx.measure("docker_dangling_volumes", len(use.unused_volumes), "volume", engine=name)
    limit = max(max_unused, int(0.3 * use.layers_bytes))
    hint = "the plan names the images that are kept, with the reason"
    ctx.check(f"{name}: images without a container", use.unused_bytes, warn_above=limit, unit="B", hint=hint)
    since = ctx.now() - volume_age
    old = [volume for volume in use.unused_volumes if volume.created_at is None or volume.created_at <= since]
    for volume in old[:50]:
        ctx.log(f"{name}: no container uses volume {volume.name}, {volume.size_bytes} bytes, of {volume.created_at}")
    hint = (
        f"never removed here: inspect {', '.join(volume.name for volume in old[:3])}, then: docker volume rm"
        if old
        else ""
    )
    size = sum(max(0, volume.size_bytes) for volume in old)
    unmeasured = [*use.volumes_not_counted, *(volume.name for volume in old if volume.size_bytes < 0)]
    if unmeasured and size <= max_volumes:
        named = ", ".join(unmeasured[:3])
        ctx.unknown(
            f"{name}: volumes without a container",
            f"not measured: {len(unmeasured)}, such as {named}",
            hint="docker system df --verbose",
        )
        return
    ctx.check(f"{name}: volumes without a container", size, warn_above=max_volumes, unit="B", hint=hint)


def record_unused(
    ctx: Context, name: str, images: Iterable[StoredImage], references: ImageUsers
) -> dict[str, datetime]:
    """By id of a pulled image, since when all runs up to now found it unused; keeps a measure for the next run."""
    since: dict[str, datetime] = {}
    for image in images:
        if image.tagged_at is not None:
            continue
        unused = not references.of(image)
        short = image.id.rpartition(":")[2][:24]
        for point in reversed(ctx.series("docker_image_unused", engine=name, image=short) if unused else ()):
            if not point.value:
                break
            since[image.id] = point.at
        ctx.measure("docker_image_unused", int(unused), "", engine=name, image=short)
    return since


def plan_text(
    containers: Iterable[Decision[StoredContainer]], images: Iterable[Decision[StoredImage]], networks: Iterable[Any]
) -> str:
    """The plan as JSON: all objects, and why each is kept; with the digests to pull an image again."""
    plan: dict[str, list[dict[str, Any]]] = {
        "containers": [
            {
                "id": decision.subject.id,
                "name": decision.subject.name,
                "image": decision.subject.image,
                "state": decision.subject.state,
                "ended": str(decision.subject.finished_at),
                "kept": decision.kept or None,
            }
            for decision in containers
        ],
        "images": [
            {
                "id": decision.subject.id,
                "tags": decision.subject.tags,
                "digests": decision.subject.digests,
                "bytes": decision.subject.size_bytes,
                "tagged": str(decision.subject.tagged_at),
                "kept": decision.kept or None,
            }
            for decision in images
        ],
        "networks": [
            {
                "id": decision.subject.id,
                "name": decision.subject.name,
                "created": str(decision.subject.created_at),
                "kept": decision.kept or None,
            }
            for decision in networks
        ],
    }
    return json.dumps(plan, indent=1)


def report_build_cache_pruned(ctx: Context, engine: Docker, unused_for: timedelta, kept_bytes: int) -> None:
    """Remove old build cache, and report it; it is neither evidence nor needed for a rollback."""
    try:
        with ctx.change("prune build cache", engine.name, kept=kept_bytes) as allowed:
            if not allowed:
                return
            freed = prune_build_cache(engine, unused_for, kept_bytes)
            allowed.observed(freed=freed)
    except TargetError as error:
        ctx.report_error(f"{engine.name}: build cache dropped", error, role=Role.WORK)
        return
    ctx.measure("docker_build_cache_freed_bytes", freed, "B", engine=engine.name)
