"""The document of a rollback manifest: whatever is in its place is an error with a cause."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maintd.checks.rollback.manifest import DOCUMENT, FORMAT, Manifest, manifest_name, newest
from maintd.errors import TargetError

AT = datetime(2026, 3, 1, 2, tzinfo=UTC)
WRITTEN = Manifest(
    format=FORMAT, maintd="0.1.0", name=manifest_name(AT), made_at=AT, run=7, entry="planned-maintenance"
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the place of one manifest."""
    root = tmp_path_factory.mktemp("rollback")
    (root / manifest_name(AT)).mkdir()
    return root


def read(folder: Path, data: bytes) -> Manifest:
    (folder / manifest_name(AT) / DOCUMENT).write_bytes(data)
    return newest(folder).manifest


@given(st.binary(max_size=80) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_in_place_of_the_document_are_an_error_with_a_cause(folder: Path, data: bytes) -> None:
    with pytest.raises(TargetError) as refused:
        read(folder, data)

    assert refused.value.cause in ("malformed", "unfamiliar")


@given(st.sampled_from(sorted(Manifest.model_fields)), JSON)
def test_a_document_with_another_value_is_read_or_an_error_with_a_cause(folder: Path, field: str, value: Any) -> None:
    changed = json.loads(WRITTEN.text()) | {field: value}

    try:
        found = read(folder, json.dumps(changed).encode())
    except TargetError as error:
        assert error.cause in ("malformed", "unfamiliar")
    else:
        assert found.format == FORMAT


def test_what_was_written_is_read(folder: Path) -> None:
    assert read(folder, WRITTEN.text().encode()) == WRITTEN
