"""The images behind containers, as the engine keeps them: what they hold, under which digests they came, how old."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from docker.errors import NotFound

from maintd.clients.docker import Container, Docker, translated
from maintd.clients.registry import Reference, Remote
from maintd.errors import TargetError

_FIRST_IMAGES = datetime(2013, 3, 1, tzinfo=UTC)  # a reproducible build has the year 1970 or 1980 in place of a date
_VERSION_VARIABLES = ("NODE_VERSION", "PG_VERSION", "REDIS_VERSION", "NGINX_VERSION", "PYTHON_VERSION")


@dataclass(frozen=True)
class Image:
    """An image that is here. Of its environment only the versions are kept. `digests`: repository → digests under
    which it was pulled, or pushed."""

    id: str
    tags: tuple[str, ...]
    digests: Mapping[str, frozenset[str]]
    created_at: datetime | None  # None: it does not say
    environment: Mapping[str, str]
    labels: Mapping[str, str]

    def digests_in(self, reference: Reference) -> frozenset[str]:
        """Under which it came from the reference's repository; none when it was made here."""
        return self.digests.get(reference.familiar, frozenset())


@dataclass(frozen=True)
class Used:
    """One image of one service, as a container uses it."""

    service: str
    name: str
    image_id: str


def used(containers: Iterable[Container]) -> list[Used]:
    """Each image once per service."""
    return sorted(
        {Used(one.service, one.image, one.image_id) for one in containers},
        key=lambda one: (one.service, one.name, one.image_id),
    )


def find(engine: Docker, name: str) -> Image | None:
    """An image by id or name; None when it is not here. Raises TargetError."""
    with translated(engine.name):
        try:
            raw = engine.client.api.inspect_image(name)  # type: ignore[no-untyped-call]
        except NotFound:
            return None
        config = raw.get("Config") or {}
        pairs = (line.partition("=") for line in config.get("Env") or ())
        digests: dict[str, frozenset[str]] = {}
        for pulled in raw.get("RepoDigests") or ():
            repository, _, digest = pulled.partition("@")
            digests[repository] = digests.get(repository, frozenset()) | {digest}
        return Image(
            raw["Id"],
            tuple(raw.get("RepoTags") or ()),
            digests,
            _created(raw.get("Created")),
            {key: value for key, _, value in pairs if key in _VERSION_VARIABLES},
            config.get("Labels") or {},
        )


def _created(text: str | None) -> datetime | None:
    try:
        at = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return at if at is not None and at.tzinfo is not None and at >= _FIRST_IMAGES else None


def pull(engine: Docker, reference: Reference, remote: Remote, login: dict[str, str] | None) -> Image:
    """Fetch exactly this digest; no tag is moved by it. Raises TargetError.

    The engine answers 200 and tells a failure in the stream that follows.
    """
    name = f"{reference.familiar}@{remote.digest}"
    with translated(engine.name):
        answer = engine.client.api.pull(
            reference.familiar, tag=remote.digest, stream=True, decode=True, auth_config=login
        )
        for line in answer:
            if "error" in line:
                raise TargetError(f"{engine.name}: pull of {name}: {line['error']}", "is there room for it?")
    found = find(engine, name)
    if found is None:
        raise TargetError(f"{engine.name}: {name} is not here after it was pulled", cause="partial")
    return found


def tag(engine: Docker, image: Image, repository: str, name: str) -> None:
    """Give an image a further name, so that it is not cleaned away. Raises TargetError."""
    with translated(engine.name):
        if not engine.client.api.tag(image.id, repository, name):
            raise TargetError(f"{engine.name}: {repository}:{name} was not tagged")


def age(image: Image, now: datetime) -> timedelta | None:
    """Since it was built; None when it does not say."""
    return None if image.created_at is None else now - image.created_at
