"""Images of containers: their digests, age, software, pull and tag."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from docker.errors import NotFound

from maintd.clients.docker import Container, Docker, translated
from maintd.clients.registry import Reference, RemoteImage
from maintd.errors import TargetError
from maintd.job.context import Context

_FIRST_IMAGES = datetime(2013, 3, 1, tzinfo=UTC)  # a reproducible build has the year 1970 or 1980
_VERSION_VARIABLES = ("NODE_VERSION", "PG_VERSION", "REDIS_VERSION", "NGINX_VERSION", "PYTHON_VERSION")


@dataclass(frozen=True)
class Image:
    """An image of the engine; only the version variables of its environment are read.

    `digests`: by repository, the digests under which it was pulled or pushed.
    """

    id: str
    tags: tuple[str, ...]
    digests: Mapping[str, frozenset[str]]
    created_at: datetime | None  # None: not known
    environment: Mapping[str, str]
    labels: Mapping[str, str]

    def digests_in(self, reference: Reference) -> frozenset[str]:
        """Its digests in the reference's repository; none when it was built locally."""
        return self.digests.get(reference.familiar, frozenset())


@dataclass(frozen=True)
class ImageInUse:
    """An image that a container of a service uses; `name` is the one in the container's configuration."""

    service: str
    name: str
    image_id: str


def images_in_use(containers: Iterable[Container]) -> list[ImageInUse]:
    """The images of containers, each once per service."""
    return sorted(
        {ImageInUse(item.service, item.image, item.image_id) for item in containers},
        key=lambda item: (item.service, item.name, item.image_id),
    )


def find_image(engine: Docker, name: str) -> Image | None:
    """An image by id or name; None when the engine does not have it. Raises TargetError."""
    with translated(engine.name):
        try:
            raw = engine.api.inspect_image(name)  # type: ignore[no-untyped-call]
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


def pull(engine: Docker, reference: Reference, remote: RemoteImage, login: dict[str, str] | None) -> Image:
    """Pull exactly this digest; no tag changes. Raises TargetError.

    The engine answers 200 and reports a failure in the stream that follows.
    """
    name = f"{reference.familiar}@{remote.digest}"
    with translated(engine.name):
        answer = engine.api.pull(reference.familiar, tag=remote.digest, stream=True, decode=True, auth_config=login)
        for line in answer:
            if "error" in line:
                raise TargetError(f"{engine.name}: pull of {name}: {line['error']}", "check the free space")
    found = find_image(engine, name)
    if found is None:
        raise TargetError(f"{engine.name}: {name} does not exist after its pull", cause="partial")
    return found


def tag(engine: Docker, image: Image, repository: str, name: str) -> None:
    """Add a tag to an image, so that a cleanup does not remove it. Raises TargetError."""
    with translated(engine.name):
        if not engine.api.tag(image.id, repository, name):
            raise TargetError(f"{engine.name}: {repository}:{name} was not tagged")


def report_age(ctx: Context, used: ImageInUse, image: Image, max_age: timedelta) -> None:
    """Report how long ago an image was built."""
    if image.created_at is None:
        ctx.log(f"{used.service}: {used.name} has no build date")
        return
    age = ctx.now() - image.created_at
    hint = "rebuild it, or use a newer one"
    ctx.check(f"{used.service}: age of the image", age, warn_above=max_age, hint=hint)
    ctx.measure("image_age_days", age / timedelta(days=1), "day", service=used.service)
