"""Containers of services replaced by ones from given images, or from those of a rollback manifest."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from maintd.checks.docker.images import find_image
from maintd.checks.hints import command
from maintd.checks.rollback import manifest
from maintd.checks.services import replace
from maintd.checks.services.containers import ServiceContainer, chosen
from maintd.checks.services.rollout import NotHealthyError, OwnPlace, Rollout, RolloutScope, begin_rollout, reference_of
from maintd.errors import TargetError
from maintd.job.context import Context

BEFORE = "services_recreated"
"""Name of the value for an undo: a list of the names of containers, with the name and the id of the image before.

Not by name: the text below a name like `api-token` would be masked.
"""

Wanted = dict[str, tuple[str, str]]
"""By container name, the name and the id of an image."""


class RecreateScope(RolloutScope):
    """Which containers are replaced by ones from which images."""

    images: dict[str, str] = {}
    """Images by service, by digest (`repository@sha256:…`), id or tag."""
    manifest: str | None = None
    """Folder target with rollback manifests: the images of the one that this run made, else of the newest."""
    force: bool = False
    """Replace also what has the image already."""
    back: bool = False
    """Swap back what was interrupted, and restore the images that this run has replaced. As an undo."""
    calendar: OwnPlace = OwnPlace()
    """Set by maintd: where its store is."""

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if self.images and self.manifest is not None:
            raise ValueError("name images or manifest, not both")
        return self


def replace_containers(ctx: Context, scope: RecreateScope) -> None:
    """End what was interrupted, find the images, then replace one container after the other."""
    with begin_rollout(ctx, scope, "recreated") as rollout:
        if not recover(scope, rollout):
            return
        rollout.read()
        name = rollout.engine.name
        wanted = images_before(ctx, scope, rollout) if scope.back else images_wanted(ctx, scope, rollout)
        services = sorted({item.service for item in rollout.containers if item.name in wanted})
        work = chosen(rollout.containers, rollout.target, services, ()) if services else []
        gone = sorted(wanted.keys() - {item.name for item in rollout.containers})
        hint = f"create them by compose: {', '.join(gone)}" if gone else ""
        ctx.check(f"{name}: containers that no longer exist", len(gone), at_most=0, hint=hint)
        wanted_work = [item for item in work if item.name in wanted]
        free = rollout.without_protected(wanted_work, scope.calendar.store, {*scope.services, *scope.images})
        recreate_all(ctx, scope, rollout, rollout.ordered(free), wanted)
        rollout.report_all()


def recover(scope: RecreateScope, rollout: Rollout) -> bool:
    """End the replacements that were interrupted; whether all are."""
    ended = True
    for found in rollout.interrupted():
        try:
            rollout.recover(found, back=scope.back)
        except NotHealthyError:
            ended = False
    return ended


def images_wanted(ctx: Context, scope: RecreateScope, rollout: Rollout) -> Wanted:
    """The images from the params or the manifest, all of which the engine has. Raises TargetError."""
    engine, found = rollout.engine, Wanted()
    if scope.manifest is not None:
        read = manifest.of_run(ctx, scope.manifest)
        ctx.passed("manifest", f"{read.path.name}: sha256 {read.sha256}", expected="as it was written")
        for record in read.manifest.images:
            wanted = not scope.services or record.service in scope.services
            if record.engine == engine.name and wanted and record.service not in scope.skip:
                names = (record.image, *record.digests, record.tag or record.image_id)
                found[record.container] = (reference_of(engine, record.image_id, names), record.image_id)
        hint = "run rollback_manifest with this Docker target first"
        ctx.require(f"{engine.name}: images in the manifest", len(found), at_least=1, hint=hint)
    elif scope.images:
        items = chosen(rollout.containers, rollout.target, sorted(scope.images), ())
        for item in items:
            image = find_image(engine, scope.images[item.service])
            found[item.name] = (scope.images[item.service], image.id if image is not None else "")
    else:
        hint = "name images by service, or the folder with rollback manifests in manifest"
        raise TargetError("no images are named", hint, cause="not_configured")
    missing = sorted(
        {name for name, image_id in found.values() if not image_id or find_image(engine, image_id) is None}
    )
    hint = f"pull it first: {command('docker', 'pull', missing[0])}" if missing else ""
    ctx.require(f"{engine.name}: images that are not here", ", ".join(missing) or "none", equals="none", hint=hint)
    return found


def images_before(ctx: Context, scope: RecreateScope, rollout: Rollout) -> Wanted:
    """The images that this run has replaced, as it handed them over before each change."""
    before: list[list[str]] = ctx.handed(BEFORE, [])
    found = {name: (reference_of(rollout.engine, image_id, (image,)), image_id) for name, image, image_id in before}
    ctx.passed(f"{rollout.engine.name}: containers that this run replaced", len(found), expected="restored")
    return found


def recreate_all(
    ctx: Context, scope: RecreateScope, rollout: Rollout, work: list[ServiceContainer], wanted: Wanted
) -> None:
    """Replace one after the other."""
    before: list[list[str]] = list(ctx.handed(BEFORE, []))

    def recreate(item: ServiceContainer) -> None:
        image, image_id = wanted[item.name]
        if item.state.image_id == image_id and not scope.force and item.state.state == "running":
            ctx.passed(f"{item.label}: image", f"{image} runs already", expected=image)
            return
        sharing = replace.sharing_namespace(item, rollout.containers)
        hint = f"recreate them together by compose: {', '.join(sharing)}"
        ctx.require(f"{item.label}: containers in its namespaces", len(sharing), at_most=0, hint=hint)
        hint = "create it without --rm, so that it can be swapped back"
        ctx.require(f"{item.label}: removed when it stops", item.removed_at_its_end, equals=False, hint=hint)
        if not scope.back:
            if item.name not in [name for name, *_ in before]:
                before.append([item.name, item.state.image, item.state.image_id])
            ctx.hand_over(BEFORE, before)
        rollout.recreate(item, image, image_id, scope.compose)

    rollout.one_by_one(work, recreate, "recreated")
