"""Words from outside are quoted for the shell where a text names a command, since people paste hints."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from maintd.checks.hints import command

ROOT = Path(__file__).parents[2]
_COMMAND = re.compile(
    r"(?:^|[`:;(]\s?)(?:docker (?:compose|container|exec|image|inspect|kill|logs|network|pull|restart|rm|rmi|run|start|"
    r"stats|stop|volume)|maintd [a-z]+|(?:chmod|chown|psql|pg_restore|tar|gpg|redis-cli|journalctl|systemctl|rm|mv|cp|"
    r"zstd|gzip|pgbackrest|restic|borg)(?! (?:cannot|did|does|exited|is|was)))(?: [\w./=%-]+)* $"
)
_QUOTING = {"quote", "join", "command"}


def _unquoted(path: Path) -> list[str]:
    """Values that follow the words of a command in an f-string, other than calls of a quoting function."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.JoinedStr):
            continue
        text = ""
        for part in node.values:
            if isinstance(part, ast.Constant):
                text += str(part.value)
                continue
            assert isinstance(part, ast.FormattedValue)
            function = part.value.func if isinstance(part.value, ast.Call) else None
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            if _COMMAND.search(text) and name not in _QUOTING:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {text}{{{ast.unparse(part.value)}}}")
            text += "x"
    return found


def test_every_value_in_a_command_of_the_checks_is_quoted() -> None:
    paths = [*(ROOT / "maintd/checks").rglob("*.py"), *(ROOT / "jobs").glob("*.py")]

    assert [problem for path in sorted(paths) for problem in _unquoted(path)] == []


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("web", "docker logs web"),
        ("a; touch PWNED;.tar", "docker logs 'a; touch PWNED;.tar'"),
        ("$(id)", "docker logs '$(id)'"),
        ("it's", "docker logs 'it'\"'\"'s'"),
        ("-f", "docker logs -f"),
        ("a\nb\x1b[1m", r"docker logs 'a\nb\x1b[1m'"),
    ],
)
def test_a_command_has_its_words_quoted_in_one_line(word: str, expected: str) -> None:
    assert command("docker", "logs", word) == expected
