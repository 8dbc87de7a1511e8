"""Secrets among the options of commands: `--password VALUE`, `--api-key VALUE`, `-pVALUE` of mysql, as text or argv.

What follows `=` or `:` is found by its name, see `maintd.redaction`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

SIGNS = (
    "mysql",
    "mariadb",
    "redis-cli",
    "mongo",
    "ldap",
    "curl",
    "docker login",
    "podman login",
    "mosquitto",
    "sqlcmd",
)
"""In lower case, for options of one letter; the long ones have a word for a secret in their names."""

_SECRET_NAME = re.compile(
    r"(?i)(?:[\w-]*[_-])?(?:pass|credentials?|bearer|jwt|cookie|sas|pw)$|"
    r"[\w-]*(?:password|passwd|passphrase|pwd|secrets?|token|"
    r"(?:api|access|private|secret|account|signing|signature|encryption|master|shared|auth|ssh|ssl)[_-]?key)$"
)
_NAME = r"[A-Za-z][A-Za-z0-9_-]*"
_BETWEEN = r"(?:\\?[\"'],?)?(?:[ \t]|\\\n)+"
_OPTION = re.compile(rf"(?<![\w-])(--?{_NAME}){_BETWEEN}(?=\\?[\"']?(?:[^\s\"'-]|-[^A-Za-z-]))")
_QUOTED = re.compile(r"(\\?[\"'])(.*?)(?:(?<!\\)\1|$)", re.MULTILINE)
_MOST_PARTS = 50
_SINGLE_DASH = re.compile(r"(?i)-(?:pass(?:word|wd|phrase)?|secret|(?:\w+[_-])?token|api[_-]?key)$")
"""More would match `-psecret`, an option of one letter with its value."""

_PLAIN = re.compile(r"[^\s\"']+(?:[\"'][^\s\"',\])}]+)*")
_IS_NO_SECRET = re.compile(
    # A reference, a placeholder, and the words that follow the name of an option in a sentence.
    r"\$\{?\w+\}?|\$\(|[<[{][\w -]+[>\]}]|\*+|\d{1,3}|(?:"
    r"is|are|was|were|be|and|or|but|nor|not|no|to|for|from|in|into|on|of|at|as|by|with|without|instead|must|may|can|"
    r"cannot|should|will|would|has|have|had|needs?|takes?|requires?|if|when|while|which|that|the|an?|it|option|options|"
    r"given|set|missing|expired|yes|true|false|none|null)[.,;:)]*$"
)
_PATH = re.compile(
    r"(?:~|\.{0,2})/\S*\.(?:pem|key|crt|cer|pub|asc|gpg|p12|json)$|(?:~/|/(?:etc|home|root|run|var)/)\S+$"
)
"""What an option such as `--private-key` has as a value is mostly a file, whose name is no secret."""


class _Letter(NamedTuple):
    """An option of one letter that has a secret, of some programs."""

    programs: str  # a regular expression
    letters: str
    separate: bool  # `-p secret`
    attached: bool  # `-psecret`
    after_colon: bool = False  # only what follows the colon of `user:secret`


_LETTERS = (
    _Letter(
        r"mysql(?:dump|admin|import|check|show|slap|binlog|pump|sh)?|mariadb(?:-\w+)*",
        "p",
        separate=False,
        attached=True,
    ),  # `-p name`: asks for it
    _Letter(r"sshpass|(?:docker|podman) login|mongo(?:sh|dump|restore|export|import|stat|top)?", "p", True, True),
    _Letter(r"redis-cli", "a", separate=True, attached=False),
    _Letter(r"ldap\w+", "w", separate=True, attached=True),
    _Letter(r"mosquitto_(?:pub|sub|rr)|sqlcmd", "P", separate=True, attached=True),
    _Letter(r"curl", "uU", separate=True, attached=True, after_colon=True),
)


def _of_program(letter: _Letter) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w.-])(?:{letter.programs})(?=\\?[\"']?,?[ \t])")


def _of_letter(letter: _Letter) -> re.Pattern[str]:
    gap = rf"(?:{_BETWEEN})" + ("?" if letter.attached else "")
    gap = gap if letter.separate else ""
    ahead = r"(?=[^\s-])" if letter.separate else r"(?=\S)(?![\"'],?(?:[\s\])]|$))"
    return re.compile(rf"(?<![\w-])-[{letter.letters}]{gap}{ahead}")


_IN_TEXT = tuple((letter, _of_program(letter), _of_letter(letter)) for letter in _LETTERS)
_END_OF_COMMAND = re.compile(r"[\n;|&]|$")

Mask = Callable[[str], str]
"""Takes a secret, and returns what is shown in its place."""


def mask_options(text: str, mask: Mask) -> str:
    """The text with the secrets among the options of commands masked."""
    if "-" not in text:
        return text
    parts, at = [], 0
    for option in _OPTION.finditer(text):
        if option.start() < at or not is_secret_option(option[1]):
            continue
        start, end = _value(text, option.end())
        if end > start and not (start == option.end() and _is_no_secret(option[1], text[start:end])):
            parts += [text[at:start], mask(text[start:end])]
            at = end
    text = "".join([*parts, text[at:]])
    lowered = text.lower()
    if any(sign in lowered for sign in (*SIGNS, "sshpass")):
        for letter, program, option_of in _IN_TEXT:
            text = _mask_letters(text, letter, program, option_of, mask)
    return text


def mask_argv(argv: Sequence[str], mask: Mask) -> list[str]:
    """The words of a command with the secrets among its options masked."""
    masked: list[str] = []
    letters = [letter for letter in _LETTERS if _is_program(letter, argv)]
    for index, word in enumerate(argv):
        before = argv[index - 1] if index else ""
        if is_secret_option(before) and word[:1] not in ("", "-") and not _is_no_secret(before, word):
            masked.append(mask(word))
            continue
        for letter in letters:
            is_value = letter.separate and before in tuple(f"-{each}" for each in letter.letters)
            is_attached = letter.attached and len(word) > 2 and word[0] == "-" and word[1] in letter.letters
            if is_value or is_attached:
                start = 0 if is_value else 2
                word = word[:start] + _masked(word[start:], letter, mask)
        masked.append(word)
    return masked


def is_secret_option(word: str) -> bool:
    """Whether the value of this option is a secret: `--password`, `-password`, `--api-key`, `--auth_token`."""
    if word.startswith("--"):
        return not word.startswith("--no-") and _SECRET_NAME.match(word, 2) is not None
    return _SINGLE_DASH.match(word) is not None


def _mask_letters(text: str, letter: _Letter, program: re.Pattern[str], option_of: re.Pattern[str], mask: Mask) -> str:
    parts, at, searched = [], 0, 0
    for found in program.finditer(text):
        if found.start() < searched:
            continue  # a word of the command before
        ending = _END_OF_COMMAND.search(text, found.end())
        searched = len(text) if ending is None else ending.start()
        for option in option_of.finditer(text, found.end(), searched):
            if option.start() < at:
                continue
            start, end = _value(text, option.end())
            if end > start:
                parts += [text[at:start], _masked(text[start:end], letter, mask)]
                at = end
    return "".join([*parts, text[at:]])


def _masked(value: str, letter: _Letter, mask: Mask) -> str:
    if _IS_NO_SECRET.match(value):
        return value
    if not letter.after_colon:
        return mask(value)
    user, colon, secret = value.partition(":")
    return f"{user}:{mask(secret)}" if colon and secret and not secret.startswith("//") else value


def _is_program(letter: _Letter, argv: Sequence[str]) -> bool:
    names = [word.rpartition("/")[2] for word in argv[:2]]
    return any(re.fullmatch(letter.programs, name) for name in (*names[:1], " ".join(names)))


def _is_no_secret(name: str, value: str) -> bool:
    if _IS_NO_SECRET.match(value) or value.lower().rstrip(".,;:)]") == re.split("[_-]", name.lower())[-1]:
        return True
    return name.lower().endswith("key") and _PATH.match(value) is not None


def _value(text: str, start: int) -> tuple[int, int]:
    """Start and end of a value: within its quotes, or a word, which may have several parts in quotes."""
    at = start
    parts = 0
    while (quoted := _QUOTED.match(text, at)) is not None and parts < _MOST_PARTS:
        at, parts = quoted.end(), parts + 1
        if parts == 1 and (at == len(text) or text[at] in " \t\n,;)]}"):
            return quoted.start(2), quoted.end(2)
        plain = _PLAIN.match(text, at)
        at = at if plain is None else plain.end()
    if parts:
        return start, at
    plain = _PLAIN.match(text, start)
    return start, start if plain is None else plain.end()
