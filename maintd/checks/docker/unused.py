"""What a Docker engine keeps that nobody uses any more, and the plan of what may go. Pure; volumes are never in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Generic, TypeVar

from maintd.clients.docker import PROJECT, SERVICE

T = TypeVar("T")


@dataclass(frozen=True)
class StoredImage:
    """An image that is here. `tagged_at`: when it was last given a name on this engine; its creation may be years
    before it was pulled. `digests` are like `repository@sha256:…`."""

    id: str
    tags: tuple[str, ...]
    digests: tuple[str, ...]
    labels: Mapping[str, str]
    size_bytes: int
    created_at: datetime | None
    tagged_at: datetime | None

    @property
    def label(self) -> str:
        """What a person calls it."""
        return self.tags[0] if self.tags else f"{(self.repositories or ('untagged',))[0]}@{self.id[7:19]}"

    @property
    def repositories(self) -> tuple[str, ...]:
        """By its tags, and by the digests under which it came."""
        names = [tag.rpartition(":")[0] for tag in self.tags] + [digest.partition("@")[0] for digest in self.digests]
        return tuple(dict.fromkeys(name for name in names if name and name != "<none>"))


@dataclass(frozen=True)
class KeptContainer:
    """A container, running or not, as far as it matters to whether it or its image may go."""

    id: str
    name: str
    image: str
    image_id: str
    state: str
    finished_at: datetime | None
    restart_policy: str
    labels: Mapping[str, str]
    one_off: bool


@dataclass(frozen=True)
class Rules:
    """What is kept. `keep` are patterns of `repository:tag`."""

    generations: int
    image_age: timedelta
    container_age: timedelta
    keep: tuple[str, ...]
    keep_label: str


@dataclass(frozen=True)
class Decision(Generic[T]):
    """Why something stays; empty when it may go."""

    subject: T
    kept: str

    @property
    def goes(self) -> bool:
        """Whether it may be removed."""
        return not self.kept


def judge_images(
    images: Sequence[StoredImage],
    containers: Iterable[KeptContainer],
    parents: frozenset[str],
    rules: Rules,
    now: datetime,
    unused_since: Mapping[str, datetime] | None = None,
) -> list[Decision[StoredImage]]:
    """Which images may go, those that are longest here first. parents: ids on which other images are built.

    unused_since: id → since when earlier looks have found it unused, for those of which the engine does not say since
    when they are here: it notes a time only where a name is given, not where an image is pulled.
    """
    ranks = _generations(images)
    uses = References(containers)
    decisions = []
    for image in images:
        kept = uses.of(image) or _named(image, rules)
        if not kept and image.id in parents:
            kept = "another image is built on it"
        here_since = image.tagged_at or (unused_since or {}).get(image.id)
        if not kept and here_since is None:
            kept = "it is not known since when it is here"
        if not kept and here_since is not None and now - here_since < rules.image_age:
            kept = "not here for long"
        if not kept and ranks[image.id] < rules.generations:
            kept = f"among the {rules.generations} newest of its repository"
        decisions.append(Decision(image, kept))
    return sorted(decisions, key=lambda one: (_since(one.subject), one.subject.id))


class References:
    """By which containers an image is used, stopped ones too.

    By its id, which is the manifest's digest in a containerd store; by a digest under which it was pulled; and by its
    name, since that is what the next start of the container will take.
    """

    def __init__(self, containers: Iterable[KeptContainer]) -> None:
        self._by: dict[str, KeptContainer] = {}
        for container in containers:
            for name in (container.image_id, container.image, container.image.partition("@")[2]):
                if name:
                    self._by.setdefault(name, container)
                    if ":" not in name.rpartition("/")[2]:
                        self._by.setdefault(f"{name}:latest", container)

    def of(self, image: StoredImage) -> str:
        """In words; empty when there is none."""
        names = (image.id, *image.tags, *image.digests, *(digest.partition("@")[2] for digest in image.digests))
        user = next((self._by[name] for name in names if name in self._by), None)
        return f"used by the {user.state} container {user.name}" if user else ""


def _named(image: StoredImage, rules: Rules) -> str:
    if rules.keep_label in image.labels:
        return f"it has the label {rules.keep_label}"
    for pattern in rules.keep:
        if any(fnmatchcase(tag, pattern) for tag in image.tags):
            return f'it is tagged "{pattern}"'
    return ""


def _generations(images: Sequence[StoredImage]) -> dict[str, int]:
    """How many newer images there are of the same repository or compose service; of several, the least.

    An image without any name, such as the build before last, counts with those of its service, or else with all others
    that have none.
    """
    series: dict[tuple[str, ...], list[StoredImage]] = {}
    for image in images:
        service = (image.labels.get(PROJECT, ""), image.labels.get(SERVICE, ""))
        keys: list[tuple[str, ...]] = [(name,) for name in image.repositories]
        for key in (keys + [service] * any(service)) or [()]:
            series.setdefault(key, []).append(image)
    ranks: dict[str, int] = {}
    for members in series.values():
        members.sort(key=lambda image: (_since(image), image.id), reverse=True)
        for rank, image in enumerate(members):
            ranks[image.id] = min(rank, ranks.get(image.id, rank))
    return ranks


def _since(image: StoredImage) -> float:
    at = image.tagged_at or image.created_at
    return at.timestamp() if at else 0.0


def judge_containers(containers: Iterable[KeptContainer], rules: Rules, now: datetime) -> list[Decision[KeptContainer]]:
    """Which stopped containers may go, those that ended first at first."""
    decisions = [Decision(one, _stays(one, rules, now)) for one in containers]
    return sorted(decisions, key=lambda one: (str(one.subject.finished_at), one.subject.name))


def _stays(container: KeptContainer, rules: Rules, now: datetime) -> str:
    if container.state != "exited":
        return container.state
    if rules.keep_label in container.labels:
        return f"it has the label {rules.keep_label}"
    if PROJECT in container.labels and not container.one_off:
        return f"it belongs to the project {container.labels[PROJECT]}"
    if container.restart_policy not in ("", "no", "on-failure"):
        return f"it is to be started again ({container.restart_policy})"
    if container.finished_at is None:
        return "it is not known when it ended"
    return "not ended for long" if now - container.finished_at < rules.container_age else ""
