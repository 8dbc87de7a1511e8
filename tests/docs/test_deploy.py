"""The files of deploy/ fit together: what one names, the others mount or provide."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from support.compose_project import allowed_in_a_window

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SIDECAR = yaml.safe_load((DEPLOY / "compose.sidecar.yaml").read_text())
STACK = yaml.safe_load((DEPLOY / "cli-trading.compose.yaml").read_text())
SETTINGS = (DEPLOY / "cli-trading.yaml").read_text()


def mounts() -> list[str]:
    """Where the container sees something of the host."""
    volumes = [*SIDECAR["services"]["maintd"]["volumes"], *STACK["services"]["maintd"]["volumes"]]
    return [
        item["target"] if isinstance(item, dict) else re.split(r":(?=/)", item)[1].split(":")[0] for item in volumes
    ]


def test_every_path_of_the_settings_is_mounted() -> None:
    paths = [*re.findall(r"path: (/[^}\s]+)", SETTINGS), *re.findall(r"file:(/[^}]+)", SETTINGS)]

    assert len(paths) >= 3
    assert [path for path in paths if path not in mounts()] == []


def test_the_settings_are_read_from_the_mounted_folder() -> None:
    config = STACK["services"]["maintd"]["environment"]["MAINTD_CONFIG"]

    assert config.startswith("/etc/maintd/")
    assert "/etc/maintd" in mounts()


def test_the_proxy_of_the_settings_is_a_service_on_a_network_with_maintd_only() -> None:
    (host,) = re.findall(r"tcp://([a-z-]+):", SETTINGS)

    assert host in STACK["services"]
    assert STACK["networks"][STACK["services"][host]["networks"][0]]["internal"] is True
    assert set(STACK["services"][host]["networks"]) < set(STACK["services"]["maintd"]["networks"])
    assert STACK["services"][host]["environment"]["POST"] == 0


@pytest.mark.parametrize("name", ["compose.sidecar.yaml", "cli-trading.compose.yaml"])
def test_no_single_file_but_secrets_is_mounted(name: str) -> None:
    """A file that is replaced on the host stays the old one in a container."""
    volumes = yaml.safe_load((DEPLOY / name).read_text())["services"]["maintd"]["volumes"]

    files = [item for item in volumes if isinstance(item, str) and "." in item.rsplit("/", 1)[1].split(":")[0]]

    assert files == []


def test_the_command_of_the_readme_names_no_path_that_is_relative_to_another_folder() -> None:
    text = (ROOT / "README.md").read_text().split("## Beside a compose stack")[1].split("```")[1]

    assert re.findall(r"[A-Z_]+=\./", text) == []
    assert "mkdir -p /etc/maintd" in text


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ("GET /v1.41/containers/json", True),
        ("POST /v1.41/containers/create", True),
        ("POST /v1.41/containers/shop-web-1/restart", True),
        ("POST /v1.41/images/sha256:00/tag", True),
        ("DELETE /v1.41/images/maintd/rollback:web-1", True),
        ("POST /v1.41/networks/create", True),
        ("DELETE /v1.41/networks/maintd-rehearsal-7-ab", True),
        ("DELETE /v1.41/networks/backend", False),
        ("POST /v1.41/containers/shop-web-1/exec", False),
        ("GET /v1.41/containers/shop-web-1/archive", False),
        ("POST /v1.41/images/prune", False),
        ("POST /v1.41/volumes/prune", False),
        ("DELETE /v1.41/volumes/data", False),
        ("POST /v1.41/build", False),
    ],
)
def test_the_proxy_of_a_window_allows_what_its_jobs_need_and_no_more(request_: str, expected: bool) -> None:
    method, path = request_.split()

    assert allowed_in_a_window(method, path) is expected
