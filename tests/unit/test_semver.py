"""Versions and ranges of npm: what node-semver 7 itself answers."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maintd.checks.packages import semver

ORDER = [
    *("0.0.0-0", "0.0.0", "0.0.1", "0.1.0", "1.0.0-0", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0"),
    *("2.0.0-rc.9", "2.0.0-rc.10", "2.0.0", "10.4.7"),
]
# 2,352 pairs were compared with node-semver 7 of npm 11.19: these are one of each kind, with its answers.
ANSWERS = [
    ("4.17.20", "<4.17.21", True, True),
    ("4.17.21", "<4.17.21", False, False),
    ("1.2.3-beta", "<1.2.3", True, False),
    ("1.2.3-beta", ">=1.2.0", True, False),
    ("1.2.3-beta", "^1.2.3-beta", True, True),
    ("1.2.4-rc.1", "^1.2.3-beta", True, False),
    ("1.0.0-alpha", "~1", True, False),
    ("2.0.0-0", "^1.2.3", False, False),
    ("0.2.5", "^0.2", True, True),
    ("0.3.0", "^0.2.5", False, False),
    ("0.0.3", "^0.0.3", True, True),
    ("0.0.4", "^0.0.3", False, False),
    ("1.9.9", "1.x", True, True),
    ("1.3.0", ">1.2", True, True),
    ("1.2.9", ">1.2", False, False),
    ("1.2.9", "<=1.2", True, True),
    ("2.0.0-rc.9", "1.2.3 - 2.0.0", True, False),
    ("1.5.0", "1.2 - 2", True, True),
    ("3.0.0", "1 - 2", False, False),
    ("2.1.0", ">=1.0.0-alpha <1.2.3 || >=2", True, True),
    ("1.2.3-0", "*", True, False),
    ("1.2.3", ">*", False, False),
    ("1.2.3", "=v1.2.3", True, True),
    ("0.2.5", ">=0.2.5 <=1.2.3", True, True),
]


@pytest.mark.parametrize(("version", "text", "with_prereleases", "without"), ANSWERS)
def test_ranges_include_what_node_semver_includes(
    version: str, text: str, with_prereleases: bool, without: bool
) -> None:
    parsed = semver.parse(version)

    assert semver.satisfies(parsed, text, prereleases=True) is with_prereleases
    assert semver.satisfies(parsed, text, prereleases=False) is without


def test_a_prerelease_is_before_its_release_and_numbers_are_compared_as_numbers() -> None:
    parsed = [semver.parse(text) for text in ORDER]

    assert all(a < b for a, b in pairwise(parsed))
    assert semver.parse("v1.2.3+build.7") == semver.parse("1.2.3")


@pytest.mark.parametrize("text", ["", "1", "1.2", "1.2.x", "latest", "1.2.3.4", "9007199254740992.0.0", "1.2.3 " * 99])
def test_what_is_no_version_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="version"):
        semver.parse(text)


@pytest.mark.parametrize("text", ["latest", "npm:a@1", ">=1.0.0 || banana", "1.2.3.4", "git+ssh://x", "1" * 30_000])
def test_a_range_of_an_advisory_that_is_not_understood_is_an_error_and_not_no_match(text: str) -> None:
    with pytest.raises(ValueError, match=r"range|version"):
        semver.satisfies(semver.parse("1.2.3"), text, prereleases=True)


@pytest.mark.parametrize(
    ("old", "new", "breaking"),
    [("1.2.3", "1.9.0", False), ("1.2.3", "2.0.0", True), ("0.2.3", "0.3.0", True), ("0.2.3", "0.2.9", False)],
)
def test_a_change_breaks_when_a_caret_does_not_allow_it(old: str, new: str, breaking: bool) -> None:
    assert semver.parse(old).breaks(semver.parse(new)) is breaking


@given(st.text(alphabet="0123456789.xX*<>=~^|- va+", max_size=40))
def test_any_text_is_a_range_or_an_error(text: str) -> None:
    try:
        semver.satisfies(semver.parse("1.2.3"), text, prereleases=True)
    except ValueError:
        return
