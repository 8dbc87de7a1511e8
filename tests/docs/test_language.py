"""Plain technical English: a list of words and phrases that may not be used in code, docs and test names.

Each entry of BANNED names what to write instead. ALLOWED lists the few legitimate uses, each with its reason.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
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
    r"desks?|shelf|shelves|doors?|rehears(?:e|es|ed|als?)|reckon(?:s|ed)?|shall": "a term of the field",
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
    ("tests/jobs/test_log_cleanup.py", "nobody"): "the Unix user nobody",
    ("tests/jobs/test_security_log_review.py", "nobody"): "the Unix user nobody",
    ("maintd/model/run_updates.py", "put back"): "the tag `run_put_back`, in spools of earlier versions",
}

# Uses that are left in packages whose rewrite is under way. Only ever lowered.
LEFT: dict[str, int] = {
    "docs": 14,
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


def _findings() -> Iterator[tuple[str, str]]:
    """Package and a line that says where and which."""
    for path, first, text in _texts():
        name = str(path.relative_to(ROOT))
        if path == Path(__file__):
            continue
        parts = name.split("/")
        package = "/".join(parts[:2]) if parts[0] in ("maintd", "tests") and len(parts) > 2 else parts[0]
        text = _camel(text)
        for found in _WORD.finditer(text):
            word = " ".join(found[0].lower().replace("_", " ").split())
            if (name, word) in ALLOWED:
                continue
            yield package, f"{name}:{first + text.count(chr(10), 0, found.start())}: {word!r}"


def test_the_private_vocabulary_stays_out() -> None:
    findings = list(_findings())
    counts = Counter(package for package, _ in findings)

    over = {package: count for package, count in counts.items() if count > LEFT.get(package, 0)}

    shown = "\n".join(line for package, line in findings if package in over)
    assert not over, f"{over}\n{shown}\nsee BANNED in tests/docs/test_language.py for what to write instead"


@pytest.mark.parametrize("text", ["told", "he_said", "TellMe", "looks\n    at", "is away", "For want of"])
def test_the_list_finds_words_in_identifiers_and_across_lines(text: str) -> None:
    assert _WORD.search(_camel(text))


@pytest.mark.parametrize("text", ["outstanding", "understands", "hearing", "shear", "stand-by", "had"])
def test_the_list_leaves_other_words_alone(text: str) -> None:
    assert not _WORD.search(_camel(text))


if __name__ == "__main__":
    listed = list(_findings())
    print("\n".join(line for _, line in listed))
    print(Counter(package for package, _ in listed))
