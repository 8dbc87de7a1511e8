"""Tags that keep the images of a manifest: `maintd/rollback:SERVICE-TIME`. docker_cleanup keeps each of them.

A tag is removed when newer ones of the same service are enough, no manifest names it and no container has the image.
The image goes with its last tag.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from docker.errors import APIError

from maintd.checks.docker.image_updates import ROLLBACK
from maintd.clients.docker import Docker, translated
from maintd.errors import TargetError

_TAG = re.compile(re.escape(ROLLBACK) + r":(?P<service>[A-Za-z0-9_.-]+)-(?P<at>\d{8}T\d{6}Z)")


@dataclass(frozen=True)
class RollbackTag:
    """A tag for a rollback, and the image that has it."""

    name: str
    service: str
    at: str
    image_id: str


def tag_name(label: str, at: str) -> str:
    """The tag of the image of a service, with the characters that a tag may have."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "-", label)[:100].lstrip(".-") or "image"
    return f"{plain}-{at}"


def rollback_tags(engine: Docker) -> list[RollbackTag]:
    """All tags for a rollback, also those of image_updates, newest first. Raises TargetError."""
    with translated(engine.name):
        found = [
            RollbackTag(str(name), match["service"], match["at"], str(item["Id"]))
            for item in engine.api.images()
            for name in item.get("RepoTags") or ()
            if (match := _TAG.fullmatch(name))
        ]
    return sorted(found, key=lambda tag: (tag.at, tag.name), reverse=True)


def superfluous(tags: Iterable[RollbackTag], keep: int, named: Collection[str]) -> list[RollbackTag]:
    """The tags beyond the newest `keep` of each service, but those that a manifest names."""
    counts: dict[str, int] = {}
    found = []
    for tag in tags:
        counts[tag.service] = counts.get(tag.service, 0) + 1
        if counts[tag.service] > keep and tag.name not in named:
            found.append(tag)
    return found


def add_tag(engine: Docker, image_id: str, name: str) -> None:
    """Tag an image as `maintd/rollback:NAME`, and see that the tag refers to it. Raises TargetError."""
    with translated(engine.name):
        if not engine.api.tag(image_id, ROLLBACK, name):
            raise TargetError(f"{engine.name}: {ROLLBACK}:{name} was not tagged")
        found = engine.api.inspect_image(f"{ROLLBACK}:{name}")  # type: ignore[no-untyped-call]
        if found["Id"] != image_id:
            raise TargetError(f"{engine.name}: {ROLLBACK}:{name} refers to another image", cause="conflict")


def remove_tag(engine: Docker, tag: RollbackTag) -> None:
    """Remove a tag if it still refers to the same image. Raises TargetError, with cause `conflict` for one in use."""
    with translated(engine.name):
        if engine.api.inspect_image(tag.name)["Id"] != tag.image_id:  # type: ignore[no-untyped-call]
            raise TargetError(f"{engine.name}: {tag.name} now refers to another image", cause="conflict")
        try:
            engine.api.remove_image(tag.name, force=False, noprune=True)
        except APIError as error:
            if error.response is not None and error.response.status_code == 409:
                text = f"{engine.name}: {tag.name}: {error.explanation or 'in use'}"
                raise TargetError(
                    text, "remove the container that uses it, or keep more tags", cause="conflict"
                ) from error
            raise
