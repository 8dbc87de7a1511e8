"""Images of containers: their digests, age, software, pull and tag."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from docker.errors import APIError, NotFound

from maintd.clients.docker import Container, Docker, translated
from maintd.clients.registry import Reference, RemoteImage
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.units import format_size, seconds_text

_FIRST_IMAGES = datetime(2013, 3, 1, tzinfo=UTC)  # a reproducible build has the year 1970 or 1980
_VERSION_VARIABLES = ("NODE_VERSION", "PG_VERSION", "REDIS_VERSION", "NGINX_VERSION", "PYTHON_VERSION")

_LOG_INTERVAL = 10.0  # seconds
_PULL_ERRORS = (
    ("denied", "set the registry's login in credentials", ("denied", "unauthorized", "authentication required")),
    ("failed", "free space on the engine's disk", ("no space left",)),
    ("not_found", "check whether the registry still has it", ("not found", "manifest unknown", "does not exist")),
    ("timed_out", "check the registry and the network", ("timeout", "timed out", "deadline exceeded")),
)
"""Cause, hint and words of the engine's message; the first that fits."""


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


class PullProgress:
    """The progress of a pull, and every ten seconds a line of it in the log."""

    def __init__(self, ctx: Context, name: str) -> None:
        self._ctx, self._name = ctx, name
        self._layers: dict[str, tuple[int, int]] = {}  # bytes done and in total, by layer
        self._logged_at: float | None = None

    def receive(self, line: Mapping[str, Any]) -> None:
        """Take one line of the engine's stream."""
        detail = line.get("progressDetail")
        current, total = (detail.get("current"), detail.get("total")) if isinstance(detail, Mapping) else (None, None)
        if type(current) is int and type(total) is int and 0 <= current <= total:
            self._layers[str(line.get("id"))] = (current, total)
        done, of = (sum(values) for values in zip(*self._layers.values(), strict=True)) if self._layers else (0, 0)
        self._ctx.progress(done, of or None, "B")
        now = time.monotonic()
        if self._logged_at is None or now - self._logged_at >= _LOG_INTERVAL:
            self._logged_at = now
            size = f", {format_size(done)} of {format_size(of)}" if of else ""
            self._ctx.log(f"pull of {self._name}: {str(line.get('status', 'begun'))[:200]}{size}")


def pull(
    engine: Docker,
    reference: Reference,
    remote: RemoteImage,
    login: dict[str, str] | None,
    limit: timedelta,
    receive: Callable[[Mapping[str, Any]], None],
) -> Image:
    """Pull exactly this digest within the limit; no tag changes. `receive` gets each line of its progress.

    The engine answers 200 and reports a failure in the stream that follows. When the connection is closed at the limit,
    the engine stops the pull. Raises TargetError.
    """
    name = f"{reference.familiar}@{remote.digest}"
    started = time.monotonic()
    with translated(engine.name):
        try:
            with engine.api.stream_within(limit):
                answer = engine.api.pull(
                    reference.familiar, tag=remote.digest, stream=True, decode=True, auth_config=login
                )
                for line in answer:
                    if "error" in line:
                        raise _pull_error(engine, name, str(line["error"]))
                    receive(line)
        except APIError as error:
            raise _pull_error(engine, name, str(error.explanation or error)) from error
        except TargetError as error:
            if error.cause != "timed_out" or error.message.startswith(engine.name):  # the latter are the engine's words
                raise
            took = seconds_text(time.monotonic() - started)
            text = f"{engine.name}: pull of {name}: stopped after {took}: it is too slow, or hangs"
            raise TargetError(
                text, "check the registry and the network, or raise pull_limit", cause="timed_out"
            ) from error
    found = find_image(engine, name)
    if found is None:
        raise TargetError(f"{engine.name}: {name} does not exist after its pull", cause="partial")
    return found


def _pull_error(engine: Docker, name: str, text: str) -> TargetError:
    """The engine has no codes for what the registry answered, only its words."""
    text = " ".join(text.split())[:300]
    words = text.lower()
    for cause, hint, signs in _PULL_ERRORS:
        if any(sign in words for sign in signs):
            return TargetError(f"{engine.name}: pull of {name}: {text}", hint, cause=cause)
    return TargetError(f"{engine.name}: pull of {name}: {text}", "see the engine's log")


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
