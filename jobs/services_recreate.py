"""Replace the containers of services by ones from given images, one at a time, and swap back what is not healthy.

Runbook: Planned Maintenance Window, Maintenance Steps; Emergency Rollback

Images are named in the params, or are those of a rollback manifest; they must be on the engine. A new container gets
the configuration, networks, mounts, volumes and labels of the old one. The old one is stopped, renamed and kept until
the new one is healthy, then removed; else the new one is removed, and the old one runs again. What a run that was
killed has left is found by these names: the next run finishes it if the new container is healthy, or swaps back, and
reports it. With `back` it swaps back in any case, and restores the images that this run has replaced: as an undo.
The order, the drain, the health gate and what is never stopped are those of `services_restart`.
"""

from typing import Any, Self

from pydantic import model_validator

from maintd.checks.docker.images import find_image
from maintd.checks.hints import command
from maintd.checks.requirements.of_jobs import services_recreate as requirements
from maintd.checks.rollback import manifest
from maintd.checks.rollback.manifest import HANDED as MANIFEST
from maintd.checks.services import replace
from maintd.checks.services.containers import ServiceContainer, chosen
from maintd.checks.services.rollout import NotHealthyError, OwnPlace, Rollout, RolloutScope, begin_rollout, reference_of
from maintd.job import Context, JobParams, TargetError, job

BEFORE = "services_recreated"
"""Name of the value for an undo: a list of the names of containers, with the name and the id of the image before.

Not by name: the text below a name like `api-token` would be masked.
"""

Wanted = dict[str, tuple[str, str]]
"""By container name, the name and the id of an image."""


class Params(RolloutScope, JobParams):
    """Those of a replacement."""

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


@job(
    timeout="1h",
    mutates=True,
    locks={"docker": "exclusive", "stack": "exclusive"},
    needs=("docker",),
    requires=requirements,
    reads_calendar=True,
    admin_params=True,  # they name a program to run, and which image a service runs
)
def run(ctx: Context, params: Params) -> None:
    """End what was interrupted, find the images, then replace one container after the other."""
    with begin_rollout(ctx, params, "recreated") as rollout:
        if not recover(params, rollout):
            return
        rollout.read()
        name = rollout.engine.name
        wanted = images_before(ctx, params, rollout) if params.back else images_wanted(ctx, params, rollout)
        services = sorted({item.service for item in rollout.containers if item.name in wanted})
        work = chosen(rollout.containers, rollout.target, services, ()) if services else []
        gone = sorted(wanted.keys() - {item.name for item in rollout.containers})
        hint = f"create them by compose: {', '.join(gone)}" if gone else ""
        ctx.check(f"{name}: containers that no longer exist", len(gone), at_most=0, hint=hint)
        wanted_work = [item for item in work if item.name in wanted]
        free = rollout.without_protected(wanted_work, params.calendar.store, {*params.services, *params.images})
        recreate_all(ctx, params, rollout, rollout.ordered(free), wanted)
        rollout.report_all()


def recover(params: Params, rollout: Rollout) -> bool:
    """End the replacements that were interrupted; whether all are."""
    ended = True
    for found in rollout.interrupted():
        try:
            rollout.recover(found, back=params.back)
        except NotHealthyError:
            ended = False
    return ended


def images_wanted(ctx: Context, params: Params, rollout: Rollout) -> Wanted:
    """The images from the params or the manifest, all of which the engine has. Raises TargetError."""
    engine, found = rollout.engine, Wanted()
    if params.manifest is not None:
        read = read_manifest(ctx, params.manifest)
        ctx.passed("manifest", f"{read.path.name}: sha256 {read.sha256}", expected="as it was written")
        for record in read.manifest.images:
            wanted = not params.services or record.service in params.services
            if record.engine == engine.name and wanted and record.service not in params.skip:
                names = (record.image, *record.digests, record.tag or record.image_id)
                found[record.container] = (reference_of(engine, record.image_id, names), record.image_id)
        hint = "run rollback_manifest with this Docker target first"
        ctx.require(f"{engine.name}: images in the manifest", len(found), at_least=1, hint=hint)
    elif params.images:
        items = chosen(rollout.containers, rollout.target, sorted(params.images), ())
        for item in items:
            image = find_image(engine, params.images[item.service])
            found[item.name] = (params.images[item.service], image.id if image is not None else "")
    else:
        hint = "name images by service, or the folder with rollback manifests in manifest"
        raise TargetError("no images are named", hint, cause="not_configured")
    missing = sorted(
        {name for name, image_id in found.values() if not image_id or find_image(engine, image_id) is None}
    )
    hint = f"pull it first: {command('docker', 'pull', missing[0])}" if missing else ""
    ctx.require(f"{engine.name}: images that are not here", ", ".join(missing) or "none", equals="none", hint=hint)
    return found


def read_manifest(ctx: Context, folder: str) -> manifest.FoundManifest:
    """The manifest that this run made, else the newest. Raises TargetError."""
    path = ctx.target("folders", folder).path
    own: dict[str, Any] | None = ctx.handed(MANIFEST)
    if own is not None and own.get("folder") == folder:
        return manifest.read(path / str(own["name"]), str(own["sha256"]))
    return manifest.newest(path)


def images_before(ctx: Context, params: Params, rollout: Rollout) -> Wanted:
    """The images that this run has replaced, as it handed them over before each change."""
    before: list[list[str]] = ctx.handed(BEFORE, [])
    found = {name: (reference_of(rollout.engine, image_id, (image,)), image_id) for name, image, image_id in before}
    ctx.passed(f"{rollout.engine.name}: containers that this run replaced", len(found), expected="restored")
    return found


def recreate_all(ctx: Context, params: Params, rollout: Rollout, work: list[ServiceContainer], wanted: Wanted) -> None:
    """Replace one after the other."""
    before: list[list[str]] = list(ctx.handed(BEFORE, []))

    def recreate(item: ServiceContainer) -> None:
        image, image_id = wanted[item.name]
        if item.state.image_id == image_id and not params.force and item.state.state == "running":
            ctx.passed(f"{item.label}: image", f"{image} runs already", expected=image)
            return
        sharing = replace.sharing_namespace(item, rollout.containers)
        hint = f"recreate them together by compose: {', '.join(sharing)}"
        ctx.require(f"{item.label}: containers in its namespaces", len(sharing), at_most=0, hint=hint)
        hint = "create it without --rm, so that it can be swapped back"
        ctx.require(f"{item.label}: removed when it stops", item.removed_at_its_end, equals=False, hint=hint)
        if not params.back:
            if item.name not in [name for name, *_ in before]:
                before.append([item.name, item.state.image, item.state.image_id])
            ctx.hand_over(BEFORE, before)
        rollout.recreate(item, image, image_id, params.compose)

    rollout.one_by_one(work, recreate, "recreated")
