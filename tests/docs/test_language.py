"""Plain technical English: a list of words and phrases that may not be used in code, docs and test names.

Each entry of BANNED names what to write instead. ALLOWED lists the few legitimate uses, each with its reason.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BANNED = {
    # pattern (whole words, in any case): what to write instead
    r"told|tells?|telling": "report, show, state, notify",
    r"said|says|saying": "report, print, state, return; of a rule: define",
    r"stands|standing|stood": "is, status, position, represents",
    r"nobody|somebody|someone|anybody|everybody|whoever": "an operator, a user, no process, needs attention",
    r"owed|owes|owe|owing": "due",
    r"meanwhile": "in the meantime, while …",
    r"obeys?|obeyed": "handle, apply",
    r"hear|hears|heard|deaf": "receive, read",
    r"looks? at|looked at|looking at|only looks?": "read, check, inspect; read-only",
    r"judge|judges|judged|judging|judgement": "evaluate, check, rate",
    r"anew|lately|needy|heirs?|strangers?|errands?|knock(?:s|ing)?|culprit|deadest|honest(?:ly)?": "a plain term",
    r"crew|warmth|notebook|upkeep|forker|faces": "thread pool, fork server, run view, maintenance, health",
    r"desks?|shelf|shelves|doors?|reckon(?:s|ed)?|shall": "a term of the field",
    r"for want of": "because of missing …",
    r"all the same": "anyway, still",
    r"(?:is|are|was|were|be) away": "is unreachable, is unavailable",
    r"puts? back|giv(?:e|es|en|ing) back|gave back": "requeue, release, restore, return",
    r"(?:comes?|came) of (?:it|that|them)": "the result",
    r"(?:is|are|was|be) had": "is available",
    r"asked of": "requested from",
    r"in force again|stays? in force": "is active, remains active",
}

ALLOWED: dict[tuple[str, str], str] = {
    # (path, word as found): reason
    ("CHANGELOG.md", "says"): "the old name of a JSON field",
    ("CHANGELOG.md", "told"): "the old name of a JSON field",
    ("maintd/model/run_updates.py", "put back"): "the tag `run_put_back`, in spools of earlier versions",
}

_WORD = re.compile(
    r"(?<![A-Za-z])(?:" + "|".join(pattern.replace(" ", r"[\s_]+") for pattern in BANNED) + r")(?![A-Za-z])",
    re.IGNORECASE,
)


def _texts() -> Iterator[tuple[Path, int, str]]:
    """File, first line and text: code and docs as a whole, of tests the names and docstrings."""
    for folder, suffixes in (
        ("maintd", {".py", ".j2", ".html", ".js", ".css", ".mako"}),
        ("jobs", {".py"}),
        ("docs", {".md", ".py"}),
        ("bench", {".py", ".txt"}),
        ("deploy", {".md", ".yaml", ".service", ".sql"}),
    ):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in suffixes and "__pycache__" not in path.parts:
                yield path, 1, path.read_text(encoding="utf-8")
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "Dockerfile", "schedules.yaml"):
        if (ROOT / name).exists():
            yield ROOT / name, 1, (ROOT / name).read_text(encoding="utf-8")
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    yield path, node.lineno, node.name
                yield path, getattr(node, "lineno", 1), ast.get_docstring(node) or ""


def _camel(text: str) -> str:
    """`RunTold` as `Run Told`, so that a word inside an identifier is found."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)


@cache
def _matches() -> list[tuple[str, int, str]]:
    """Path, line and word of each match, exceptions included."""
    return list(_find_matches())


def _find_matches() -> Iterator[tuple[str, int, str]]:
    for path, first, text in _texts():
        if path == Path(__file__):
            continue
        spaced = _camel(text)
        for found in _WORD.finditer(spaced):
            word = " ".join(found[0].lower().replace("_", " ").split())
            yield str(path.relative_to(ROOT)), first + spaced.count("\n", 0, found.start()), word


def _words() -> Iterator[tuple[str, str]]:
    return ((name, word) for name, _, word in _matches())


def _findings() -> Iterator[str]:
    """Yield the place of each banned word."""
    return (f"{name}:{line}: {word!r}" for name, line, word in _matches() if (name, word) not in ALLOWED)


def test_the_private_vocabulary_stays_out() -> None:
    findings = list(_findings())

    assert not findings, "see BANNED for what to write instead:\n" + "\n".join(findings)


def test_every_exception_is_used() -> None:
    used = set(_words())

    assert [exception for exception in ALLOWED if exception not in used] == []


@pytest.mark.parametrize("text", ["told", "he_said", "TellMe", "looks\n    at", "is away", "For want of"])
def test_the_list_finds_words_in_identifiers_and_across_lines(text: str) -> None:
    assert _WORD.search(_camel(text))


@pytest.mark.parametrize("text", ["outstanding", "understands", "hearing", "shear", "stand-by", "had"])
def test_the_list_leaves_other_words_alone(text: str) -> None:
    assert not _WORD.search(_camel(text))
