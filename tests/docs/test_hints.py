"""Commands that are named anywhere exist: in hints, messages, docstrings, templates and docs."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from maintd.calendar import parse_calendar
from maintd.cli.main import COMMANDS, cli
from maintd.job.registry import JobRegistry, shipped

ROOT = Path(__file__).parents[2]
PLACEHOLDER = "{}"  # an expression in an f-string

# `maintd …` in backticks, in quotes, after a colon, a prompt or the start of a string, up to the end of the clause.
_COMMAND = re.compile(r"(?:^|[`\"'>$]\s*|: )maintd[ ](?P<words>[^`;\n<|&#…]*)")
_CODE_LINE = re.compile(
    r"^\s*(?:\$ )?(?:docker compose (?:-f \S+ )?exec maintd )?maintd (?P<words>[^#\n|&]*)", re.MULTILINE
)
_MISSPELT = {"vacum"}  # the README shows what happens then
_PROSE = {"itself", "retries", "refuses"}  # words after "maintd" at the start of a sentence
_UNBUILT = re.compile(r"exit code 5\b|; 5 a lock", re.IGNORECASE)


class Mention(NamedTuple):
    where: str
    words: tuple[str, ...]


def _strings(path: Path) -> Iterator[tuple[int, str]]:
    """The string literals of a module with their lines; expressions in f-strings are PLACEHOLDER."""
    inner: set[int] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            inner.update(id(part) for part in node.values)
            parts = [part.value if isinstance(part, ast.Constant) else PLACEHOLDER for part in node.values]
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.lineno, node.value


def _texts() -> Iterator[tuple[str, str]]:
    for folder in ("maintd", "jobs"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for line, text in _strings(path):
                yield f"{path.relative_to(ROOT)}:{line}", text
        for path in sorted((ROOT / folder).rglob("*.html")):
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
    for path in _pages():
        yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


def _pages() -> list[Path]:
    named = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "schedules.yaml")]
    return [
        *named,
        *sorted((ROOT / "docs").rglob("*.md")),
        *sorted(path for path in (ROOT / "deploy").glob("*") if path.is_file()),
    ]


def _mentions() -> Iterator[Mention]:
    for where, text in _texts():
        code = "\n".join(re.findall(r"```(?:sh|console|text)?\n(.*?)```", text, re.DOTALL))
        for found in (*_COMMAND.finditer(text), *_CODE_LINE.finditer(code)):
            clause = re.split(r"[,.;)](?:\s|$)|\n", found["words"].replace("%s", f" {PLACEHOLDER} "))[0].rstrip(
                "\"'`), "
            )
            try:
                words = tuple(shlex.split(clause))
            except ValueError:  # an opening quote of the sentence around it
                words = tuple(clause.split())
            if words and words[0] not in _PROSE and not words[0].startswith(("[", "%(", "{{")):
                yield Mention(where, words)


def _problem(words: tuple[str, ...], names: set[str]) -> str:
    """What is wrong with the words after `maintd`; empty if nothing is."""
    command: click.Command = cli
    options = _options(cli)
    rest = list(words)
    positional: list[str] = []
    while rest:
        word = rest.pop(0)
        if word in ("…", "...", "COMMAND", PLACEHOLDER) and command is cli:
            return ""
        if word.startswith("-"):
            name = word.partition("=")[0]
            if name not in options and name not in ("--help", "-h"):
                return f"no option {name}"
            if options.get(name) and "=" not in word and rest:
                rest.pop(0)
        elif isinstance(command, click.Group) and not positional:
            found = command.get_command(click.Context(command), word)
            if found is None:
                return "" if command is not cli and not re.fullmatch(r"[a-z]+", word) else f"no command {word}"
            command, options = found, {**options, **_options(found)}
        else:
            positional.append(word)
    if command.name in ("trigger", "run") and positional and re.fullmatch(r"[a-z][a-z0-9_-]*", positional[0]):
        return "" if positional[0] in names else f"no entry or job {positional[0]}"
    return ""


def _options(command: click.Command) -> dict[str, bool]:
    """Each option of a command, and whether it takes a value."""
    found = {"--json": False} if command is cli else {}
    for param in command.params:
        if isinstance(param, click.Option):
            found.update(dict.fromkeys(param.opts, not param.is_flag))
    return found


def _names() -> set[str]:
    jobs = JobRegistry().jobs
    calendar = parse_calendar(shipped("schedules.yaml").read_text(encoding="utf-8"), "schedules.yaml", jobs)
    return {*jobs, *(entry.name for entry in calendar.entries), *_MISSPELT}


def _examples(page: str) -> set[str]:
    """Names of entries in the calendars that a page shows."""
    return set(re.findall(r"^ {0,2}([a-z][a-z0-9_-]*):", page, re.MULTILINE))


def test_every_named_command_exists_with_its_options_and_entries() -> None:
    names = _names()
    pages = {str(path.relative_to(ROOT)): _examples(path.read_text(encoding="utf-8")) for path in _pages()}

    mentions = list(_mentions())
    problems = [
        f"{mention.where}: maintd {' '.join(mention.words)}: {problem}"
        for mention in mentions
        if (problem := _problem(mention.words, names | pages.get(mention.where, set())))
    ]

    assert len(mentions) > 100  # 180 when this was written: the patterns find what they look for
    assert problems == []


def test_nothing_is_promised_that_does_not_exist_yet() -> None:
    found = [f"{where}: {match[0]}" for where, text in _texts() for match in _UNBUILT.finditer(text)]

    assert found == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("thaw all", "no command thaw"),
        ("status --verbose", "no option --verbose"),
        ("trigger vacum --wait", "no entry or job vacum"),
        ("db repair", "no command repair"),
        ("trigger vacuum -p keep=30d --wait", ""),
        ("--state-dir /tmp/x status --quiet", ""),
        ("db backup /mnt/backups/", ""),
    ],
)
def test_a_wrong_command_is_found(text: str, problem: str) -> None:
    assert _problem(tuple(text.split()), {"vacuum"}) == problem


def test_every_command_of_the_table_is_a_command() -> None:
    assert all(cli.get_command(click.Context(cli), name) is not None for name in COMMANDS)


# --- hints that help ---

_SAYS_NOTHING = re.compile(
    r"(?:please )?(?:see|check|read|look at|inspect) (?:its|the|their)(?: server's| service's| daemon's| own)? "
    r"(?:log|logs|check|output|causes?|causes of the checks that are unknown)"
    r"|(?:correct|fix) (?:it|the (?:param|field|query|value|setting|file)s?)(?: [a-z_]+)?(?: or its `\w+`)?"
    r"|(?:check|try|run|restart)(?: it)?(?: again)?(?: later)?"
    r"|(?:it|they) (?:was|were|is|are|should be) \w+(?: now)?"
    r"|generate a new one|report it|.* as (?:usual|appropriate|needed)",
    re.IGNORECASE,
)


def _hints() -> Iterator[tuple[str, str]]:
    """The texts of arguments and variables that are hints, and of the second argument of errors, with their places."""
    for folder in ("maintd", "jobs"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            found: list[ast.expr] = []
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    found += [word.value for word in node.keywords if word.arg in ("hint", "advice")]
                    name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                    found += node.args[1:2] if name.endswith("Error") or name == "Cause" else []
                elif isinstance(node, ast.Assign) and "hint" in ast.unparse(node.targets[0]).lower():
                    found.append(node.value)
            for expression in found:
                for text in _literals(expression):
                    yield f"{path.relative_to(ROOT)}:{expression.lineno}", text


def _literals(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else PLACEHOLDER for part in node.values)
    else:
        for child in ast.iter_child_nodes(node):
            yield from _literals(child)


def test_no_hint_leaves_the_reader_where_the_check_left_him() -> None:
    hints = list(_hints())

    assert len(hints) > 300  # 500 when this was written
    assert [f"{where}: {text}" for where, text in hints if _SAYS_NOTHING.fullmatch(text.strip())] == []


@pytest.mark.parametrize(
    "text",
    [
        "see its log",
        "see the server's log",
        "correct the query",
        "correct the query or its `needs`",
        "correct the param expect",
        "see the causes of the checks that are unknown",
        "check again",
        "it was restarted",
        "generate a new one",
    ],
)
def test_a_hint_without_anything_to_do_is_found(text: str) -> None:
    assert _SAYS_NOTHING.fullmatch(text)


@pytest.mark.parametrize(
    "text",
    [
        "see the daemon's log: journalctl -u maintd",
        "correct the target's dsn",
        "restart it in the next window",
        "start it",
    ],
)
def test_a_hint_with_something_to_do_is_accepted(text: str) -> None:
    assert not _SAYS_NOTHING.fullmatch(text)
