"""Containers of a real engine against their compose file and the approved baseline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.compose_project import COMMAND, GOOD, NEWER, Project
from support.job_runs import JobResult, run_job

from maintd.model.evidence import CheckStatus

OK, WARN, FAIL, UNKNOWN = CheckStatus.OK, CheckStatus.WARN, CheckStatus.FAIL, CheckStatus.UNKNOWN
CANARY = "cAnaRy-4711-sEcret"
HASH = {"com.docker.compose.config-hash": "a" * 64}


class Stack:
    """A project with its compose file."""

    def __init__(self, project: Project, folder: Path) -> None:
        self.project = project
        self.folder = folder
        self.file = folder / "docker-compose.yml"
        (folder / "baselines").mkdir()
        self.targets: dict[str, Any] = {
            **project.targets(),
            "folders": {"config_baselines": {"path": str(folder / "baselines")}},
        }

    def write(self, **services: Any) -> None:
        self.file.write_text(yaml.safe_dump({"services": services}))

    def review(self, **params: Any) -> JobResult:
        result = run_job("config_review", {"compose": {"main": [str(self.file)]}, **params}, self.targets)
        assert result.error is None, result.text()
        return result

    def evidence(self, result: JobResult) -> dict[str, dict[str, Any]]:
        found = next(item for item in result.artifacts if item.name == "config.json")
        return {item["subject"]: item for item in json.loads(Path(found.path).read_text())}

    def accept(self, result: JobResult) -> None:
        digests = ",".join(item["digest"] for item in self.evidence(result).values())
        params = {"digests": digests, "why": "it is right as it is"}
        done = run_job("config_accept", params, self.targets, approvals={"gate": "approved by ada"})
        assert done.outcome == "succeeded", done.text()

    def everything_written(self, *results: JobResult) -> str:
        texts = [repr(result.items) + "\n".join(result.logs) for result in results]
        files = [Path(item.path) for result in results for item in result.artifacts]
        files += [path for path in (self.folder / "baselines").rglob("*") if path.is_file()]
        return "\n".join([*texts, *(path.read_bytes().decode(errors="replace") for path in files)])


@pytest.fixture
def stack(project: Project, tmp_path: Path) -> Stack:
    return Stack(project, tmp_path)


SERVICE = {
    "image": GOOD,
    "command": COMMAND,
    "network_mode": "none",
    "mem_limit": "32m",
    "environment": {"ADMIN_TOKEN": "${ADMIN_TOKEN}", "LITERAL": CANARY},
    "labels": [f"hook=https://hooks.test/{CANARY}"],
}


def start(stack: Stack, **options: Any) -> None:
    given = {"mem_limit": "32m", "memswap_limit": "64m", "environment": {"ADMIN_TOKEN": CANARY, "LITERAL": CANARY}}
    stack.project.start("app", labels={**HASH, "hook": f"https://hooks.test/{CANARY}"}, **{**given, **options})


def test_a_stack_as_in_its_file_and_as_approved_passes_and_no_secret_of_it_is_kept(stack: Stack) -> None:
    stack.write(app=SERVICE)
    start(stack)
    first = stack.review()
    stack.accept(first)

    second = stack.review()

    assert second.outcome == "succeeded", second.text()
    values = stack.evidence(second)
    assert values["docker main"]["values"]["app/environment/ADMIN_TOKEN"].startswith("keyed digest ")
    assert values["docker main"]["values"]["app/memory"] == str(32 << 20)
    assert values["compose main"]["values"]["services/app/environment/ADMIN_TOKEN"].startswith("keyed digest ")
    assert CANARY not in stack.everything_written(first, second)


def test_a_container_that_was_changed_beside_compose_is_named_with_both_values(stack: Stack) -> None:
    stack.write(app=SERVICE)
    start(stack)
    stack.accept(stack.review())
    stack.project.get("app").update(mem_limit="48m")

    result = stack.review()

    drift = stack.evidence(result)["docker main"]["changed"]
    assert drift["app/memory"] == {"old": str(32 << 20), "new": str(48 << 20)}
    beside = result.check("docker main: nothing was changed beside compose")
    assert (beside.status, beside.observed) == (FAIL, "app: memory"), result.text()
    differing = result.check("docker main: app is as in the compose file")
    assert differing.status is WARN
    assert differing.observed == f"memory limit is {48 << 20}, in the file {32 << 20}"


def test_a_container_that_compose_replaced_is_drift_and_not_beside_compose(stack: Stack) -> None:
    stack.write(app=SERVICE)
    start(stack)
    stack.accept(stack.review())
    stack.project.get("app").remove(force=True, v=True)
    stack.project.start("app", NEWER, labels={"com.docker.compose.config-hash": "b" * 64}, mem_limit="32m")

    result = stack.review()

    drift = stack.evidence(result)["docker main"]
    assert drift["changed"]["app/image"] == {"old": GOOD, "new": NEWER}
    assert "app/environment/ADMIN_TOKEN" in drift["removed"]
    assert result.check("docker main: as approved").status is FAIL
    assert result.check("docker main: nothing was changed beside compose").status is OK
    observed = str(result.check("docker main: app is as in the compose file").observed)
    assert f"image is {NEWER}, in the file {GOOD}" in observed
    assert "environment lacks ADMIN_TOKEN, LITERAL" in observed


def test_services_that_do_not_run_and_containers_that_are_in_no_file_are_named(stack: Stack) -> None:
    stack.write(app=SERVICE, gone={"image": GOOD}, optional={"image": GOOD, "profiles": ["tools"]})
    start(stack)
    stack.project.start("other")

    result = stack.review()

    idle = result.check("docker main: services of the compose file run")
    others = result.check("docker main: containers are in the compose file")
    assert (idle.status, idle.observed) == (FAIL, "gone (no container)"), result.text()
    assert (others.status, others.observed) == (FAIL, "other")


def test_a_compose_file_that_cannot_be_read_as_compose_would_is_unknown_and_hides_nothing(stack: Stack) -> None:
    start(stack)
    stack.file.write_text("services: {app: {extends: {file: other.yml, service: base}}}\n")
    extended = stack.review()
    stack.file.write_text("services: {app: {ports: !reset []}}\n")
    tagged = stack.review()
    stack.file.unlink()

    missing = stack.review()

    assert extended.check("compose main: services can be read").status is UNKNOWN, extended.text()
    assert "unfamiliar" in str(tagged.check("compose main: can be read").observed)
    assert missing.check("compose main: can be read").status in (UNKNOWN, FAIL)
    assert missing.check("docker main: as approved").status is UNKNOWN
