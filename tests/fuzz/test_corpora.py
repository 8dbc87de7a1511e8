"""Every input of the corpora, and 200 similar ones per target, against the properties of `make fuzz`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import maintd
from fuzz.targets import CORPUS, NO_TARGET, READERS, TARGETS, kept

MOST_FILES = 200
MOST_BYTES = 300_000


@pytest.mark.parametrize("target", TARGETS)
def test_every_kept_input_holds(target: str) -> None:
    with TARGETS[target]() as holds:
        for path in kept(target):
            try:
                holds(path.read_bytes())
            except Exception as error:
                error.add_note(f"input: {path}")
                raise


@pytest.mark.parametrize("target", TARGETS)
def test_inputs_near_the_kept_ones_hold(target: str) -> None:
    seeds = [path.read_bytes()[:2000] for path in kept(target)]
    pieces = st.sampled_from(seeds).flatmap(lambda seed: st.integers(0, len(seed)).map(lambda at: (seed, at)))
    # The head of one input, any bytes, and the tail of another.
    spliced = st.builds(lambda a, mid, b: a[0][: a[1]] + mid + b[0][b[1] :], pieces, st.binary(max_size=8), pieces)
    with TARGETS[target]() as holds:

        @settings(max_examples=200, database=None)
        @given(data=spliced | st.binary(max_size=60))
        def hold(data: bytes) -> None:
            holds(data)

        hold()


@pytest.mark.parametrize("target", TARGETS)
def test_a_corpus_stays_small(target: str) -> None:
    sizes = [path.stat().st_size for path in kept(target)]

    assert 0 < len(sizes) <= MOST_FILES
    assert sum(sizes) <= MOST_BYTES


_DECODES = re.compile(
    r"\b(?:json\.loads?|parse_json|model_validate_json|validate_json|inflate|read_each|fromhex|literal_eval|"
    r"int\.from_bytes|struct\.(?:unpack\w*|iter_unpack|Struct)|yaml\.\w+|tomllib|text_string_to_metric_families|"
    r"ReadTally|LoginTally)\b"
)
_FOREIGN = ("calendar/", "checks/", "cli/", "clients/", "config/", "executor/", "job/", "schedule/", "store/", "web/")


def test_every_module_that_decodes_foreign_bytes_has_a_target() -> None:
    package = Path(maintd.__file__).parent
    modules = {str(path.relative_to(package).with_suffix("")): path.read_text() for path in package.rglob("*.py")}
    covered = {module for names in READERS.values() for module in names.split()}
    decoding = {name for name, text in modules.items() if name.startswith(_FOREIGN) and _DECODES.search(text)}

    assert decoding - covered - set(NO_TARGET) == set(), "name its target in READERS, or the reason in NO_TARGET"
    assert (covered | set(NO_TARGET)) - set(modules) == set(), "there is no such module"
    assert covered & set(NO_TARGET) == set()
    assert set(READERS) <= set(TARGETS)


def test_every_corpus_has_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
