"""The requirements of the jobs that remove what is old: logs, images, volumes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from maintd.checks.requirements import docker, local
from maintd.checks.requirements.requirement import Requirement, Unconfigured, answers
from maintd.model.target import Targets


def docker_cleanup(targets: Targets, params: Any) -> Iterator[Requirement]:
    """The engine lets every request of the cleanup through."""
    for name in params.targets or targets.docker:
        exercise = docker.allows(*docker.LISTS, *docker.IMAGES, *docker.NETWORKS)
        yield Requirement("docker", name, "list containers, images and networks", exercise)
        removes = [*docker.REMOVES_CONTAINERS, *docker.REMOVES_IMAGES]
        removes += docker.REMOVES_NETWORKS if params.networks is not None else ()
        yield Requirement("docker", name, "remove what is unused", docker.allows(*removes))
        if params.build_cache is not None:
            exercise = docker.allows(*docker.PRUNES_BUILD_CACHE)
            yield Requirement("docker", name, "prune the build cache", exercise)


def image_updates(targets: Targets, params: Any) -> Iterator[Requirement]:
    """Images can be listed; the scanner and its reports are there."""
    for name in params.targets or targets.docker:
        yield Requirement("docker", name, "list containers and images", docker.allows(*docker.LISTS, *docker.IMAGES))
    if params.trivy is not None:
        yield local.program(params.trivy, "scan images")
    if params.trivy_reports is not None:
        yield local.readable_folder(params.trivy_reports, "read trivy's reports")


def log_cleanup(targets: Targets, params: Any) -> Iterator[Requirement | Unconfigured]:
    """Files in the folders may be deleted; Loki answers."""
    if params.loki is not None:
        yield Requirement("http", params.loki, "answers", answers)
    if params.root is not None:
        yield Requirement("folder", str(params.root), "delete old logs", local.writes)
        return
    if "folders" not in params.model_fields_set and "logs" not in targets.folders:
        yield Unconfigured("folders logs", "set targets.folders.logs in the calendar, or the param root")
        return
    for name in params.folders:
        yield Requirement("folders", name, "delete old logs", local.writes)
