"""An engine with the images of a compose project, and a project on it. A module with others defines its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing

import pytest
from support.compose_project import Project, make_images
from support.servers.docker import DockerEngine, docker_engine


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    with docker_engine() as started, closing(started.client()) as client:
        make_images(started, client)
        yield started


@pytest.fixture
def project(engine: DockerEngine) -> Iterator[Project]:
    with closing(engine.client()) as client:
        made = Project(engine, client, f"p{uuid.uuid4().hex[:8]}", "none")
        yield made
        made.remove()
