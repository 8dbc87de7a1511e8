"""A socket that may not be opened is not a daemon that does not run: the message names the group that may."""

from __future__ import annotations

import grp
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.servers.base import needs_root
from support.users import as_unprivileged_user, folder_for_all

from maintd.cli.plain_http import Place, get
from maintd.client import Client
from maintd.errors import RefusedError


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can enter."""
    needs_root("becomes another user for a moment")
    with folder_for_all() as folder:
        yield folder


@pytest.mark.parametrize(
    ("folder_mode", "socket_mode", "texts"),
    [
        (0o755, 0o660, ("join the group daemon (usermod -aG daemon nobody)",)),
        (0o755, 0o600, ("run this as root", "chmod g+rw")),
        (0o750, 0o660, ("no permission to enter the folder", "state", "join the group daemon")),
        (0o700, 0o666, ("no permission to enter the folder", "state", "chmod g+x")),
    ],
)
def test_a_socket_that_may_not_be_opened_names_the_group_and_the_folder(
    folder: Path, folder_mode: int, socket_mode: int, texts: tuple[str, ...]
) -> None:
    group = grp.getgrnam("daemon").gr_gid
    state = folder / "state"
    state.mkdir()
    path = state / "maintd.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        for item, mode in ((path, socket_mode), (state, folder_mode)):
            os.chown(item, 0, group)
            item.chmod(mode)
        client = Client(path)

        with as_unprivileged_user(), pytest.raises(RefusedError) as read:
            client.get("/status")
        with as_unprivileged_user(), pytest.raises(RefusedError) as checked:
            client.is_ready()
        with as_unprivileged_user(), pytest.raises(PermissionError):
            get(Place("unix", str(path)), "/readyz", 4.0)  # so that the full program explains it

    for text in (f"nobody may not open the control socket {path}", *texts):
        assert text in str(read.value)
        assert text in str(checked.value)
    assert read.value.exit_code == 4
