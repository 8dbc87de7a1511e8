"""Reading a whole file: bounded, never a pipe or a device, with the cause of what cannot be read."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from maintd.clients.files import instant_of, modified_at, read_regular
from maintd.errors import TargetError


def cause(path: Path, most: int = 10) -> str | None:
    with pytest.raises(TargetError) as refused:
        read_regular(path, most, "mount it")
    assert refused.value.hint == "mount it"
    return refused.value.cause


def test_a_file_of_the_largest_size_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "full").write_bytes(b"0123456789")
    (tmp_path / "link").symlink_to("full")

    assert read_regular(tmp_path / "full", 10) == b"0123456789"
    assert read_regular(tmp_path / "link", 10) == b"0123456789"


def test_what_is_no_such_file_has_its_cause(tmp_path: Path) -> None:
    (tmp_path / "larger").write_bytes(b"0123456789a")
    os.mkfifo(tmp_path / "pipe")  # opened for reading it would wait for a writer
    (tmp_path / "circle").symlink_to("circle")

    assert cause(tmp_path / "larger") == "too_large"
    assert cause(tmp_path / "missing") == "not_found"
    assert cause(tmp_path / "larger" / "below") == "not_found"
    assert cause(tmp_path / "pipe") == "unfamiliar"
    assert cause(Path("/dev/zero")) == "unfamiliar"
    assert cause(tmp_path) == "unfamiliar"
    assert cause(tmp_path / "circle") == "failed"


def test_a_link_is_only_followed_if_it_may_be(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "link").symlink_to("secret")

    with pytest.raises(TargetError, match="is a link") as refused:
        read_regular(tmp_path / "link", 10, follow=False)
    assert refused.value.cause == "unfamiliar"
    assert read_regular(tmp_path / "secret", 10, follow=False) == b"x"


@pytest.mark.parametrize("seconds", [2**62, 253_402_300_800, 253_402_300_799.5, 10**18, -(2**62), -62_135_596_801])
def test_a_time_that_no_datetime_has_is_still_in_the_future_or_old(seconds: float) -> None:
    now = datetime.now(UTC)

    found = instant_of(seconds)

    assert (found > now) is (seconds > 0)
    assert found + timedelta(days=300) > found - timedelta(days=300), "it can be calculated with"
    assert f"{found:%Y-%m-%d}"


def test_a_time_beyond_the_year_9999_on_a_disk_is_read() -> None:
    path = Path("/dev/shm") / f"maintd-test-{os.getpid()}"  # tmpfs keeps all of it
    path.write_text("x")
    try:
        os.utime(path, ns=(0, 2**62))
        os.utime(path, (300_000_000_000, 300_000_000_000))
        assert modified_at(path.stat()).year == 9998
    finally:
        path.unlink()
