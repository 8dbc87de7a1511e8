"""Mask secrets in texts: passwords in URLs and connection strings, named values, private keys, and known secrets."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote, unquote, unquote_plus

from maintd.command_options import SIGNS, mask_argv, mask_options

MASK = "***"

SHORTEST = 4
"""Characters; a shorter secret is not searched for, since it occurs in too many other words."""

SHORTEST_LINE = 8
"""Characters of one line of a secret of several lines, for the same reason."""

LONGEST_WHOLE = 16_384
"""Characters; of a longer secret the escaped and encoded forms are not searched for, only its lines."""

MAX_KEY_LINES = 250
"""Lines after the beginning of a private key that are masked while its end does not come: RSA with 16,384 bits."""

MAX_LINES = 2000
"""Lines of one secret that are searched for one by one."""

_URL_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*$")
_LONGEST_SCHEME = 32  # a long word costs its length, not its square
_URL_END = re.compile(r"[\s\"'<>`|\\^{}]|$")
_PORT = re.compile(r"[^:/]+:\d{1,5}(?=[/?#]|$)")
_USER_IS_NO_SECRET = ("postgres", "mysql", "mariadb", "ssh", "sftp", "ftp", "git+ssh", "smtp", "imap", "redis")
_SECRET_NAME = re.compile(
    r"(?i)(?:.*[_.-])?(?:pass|key|sig|signature|credentials?|authorization|auth|bearer|jwt|cookie|sas|pw)$|"
    r".*(?:password|passwd|passphrase|pwd|secrets?|token|(?:api|access|private|secret|account|signing|signature)_?key)$"
)
_PRINTED_NAME = re.compile(
    r"(?i)(?:.*[_.-])?(?:pass|signature|credentials?|authorization|bearer|jwt|cookie|sas|pw)$|"
    r".*(?:password|passwd|passphrase|pwd|secrets?|token|rediscli_auth|"
    r"(?:api|access|private|secret|account|signing|signature|encryption|master|shared|auth|ssh|ssl)[_-]?key)$"
)
"""In what jobs print, `key=users:1`, `sort_key=name`, `sig=SIGTERM` and `auth=ldap` are no secrets."""

_NO_SECRET = re.compile(r"(?i)(?:\d{1,3}|yes|no|true|false|none|null|on|off|ok|nil|undefined|not)?[\])},;.]*$")
_BEARER = re.compile(r"(?i)\b(bearer[ \t]+)(?=[A-Za-z._~+/=-]*\d)([A-Za-z0-9._~+/=-]{8,})")
_KEY_BEGINS = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----")
_KEY_ENDS = re.compile(r"-----END [A-Z0-9 ]*PRIVATE KEY-----")
_SIGNS = (
    *("pass", "pw", "secret", "token", "key", "bearer", "credential"),
    *("authorization", "signature", "cookie", "jwt", "sas", "://", "maintd_", "rediscli"),
    *SIGNS,
)
"""In lower case; a text without any of them has nothing that `mask_output` masks."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_ASSIGNMENT = re.compile(r"[ \t]*(=|:)[ \t]*")
_LINE_OR_QUOTE = re.compile(r"[\n\"']|$")
_WORD = re.compile(r"[ \t][A-Za-z-]+[,.;:]?([ \t])|[ \t]\[?[a-z-]+[,.;:]?(?=$|\s)")
_ENDINGS = (
    *("pass", "password", "passwd", "passphrase", "pwd", "pw", "key", "sig", "signature", "credential", "credentials"),
    *("authorization", "auth", "bearer", "jwt", "cookie", "sas", "secret", "secrets", "token"),
)
"""Of the names of secrets, in lower case: a fast first look."""

_AFTER_NAME = re.compile(r"(?:\\?[\"'])?(?=[ \t]*[=:])")
_PLAIN_VALUE = re.compile(r"[^\s\"']+(?:[\"'](?![,}\])\s]|$)[^\s\"']*)*")
_DOUBLE_QUOTE = re.compile(r"\\?\"")
_SCHEME = re.compile(r"(?i)(?:bearer|basic|token|digest|negotiate)[ \t]+")
_TOKEN = re.compile(r"\bmaintd_(?=[a-z0-9_-]*[A-Z])[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])")
_PEM = re.compile(
    r"(-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----)(.*?)(?:(-----END [A-Z0-9 ]*PRIVATE KEY-----)|\Z)", re.DOTALL
)


def is_secret_name(name: str) -> bool:
    """Whether a value of this name is a secret: `sslpassword`, `PGPASSWORD`, `api-key`, `sig`, `X-Amz-Signature`."""
    return _SECRET_NAME.match(name.strip()) is not None


def mask_text(text: str) -> str:
    """Return the text with those secrets masked that their position reveals.

    `postgres://op:a/b@c@db/x` → `postgres://op:***@db/x`; `password = 'a b'` → `password = ***`; also in queries of
    URLs, headers, JSON, and private keys.
    """
    return _Masker().text(text)


def mask_output(text: str) -> str:
    """`mask_text` for what a job prints or reports, where fewer names are those of secrets; also `Bearer` tokens.

    A line of 100 characters costs about 1 µs without any sign of a secret, and 5 to 20 µs with one.
    """
    return _Masker(_PRINTED_NAME).text(text) if has_sign_of_secret(text) else text


def has_sign_of_secret(text: str) -> bool:
    """Whether `mask_output` may mask something in a text; it costs a tenth of that."""
    lowered = text.lower()
    for sign in _SIGNS:  # noqa: SIM110 - any() costs three times as much
        if sign in lowered:
            return True
    return False


def mask_output_values(value: Any, name: str = "") -> Any:
    """A JSON value with its texts masked as by `mask_output`; the text below a secret's name is masked as a whole."""
    if isinstance(value, str):
        if name and _PRINTED_NAME.match(name) and not _NO_SECRET.match(value):
            return MASK
        return mask_output(value)
    if isinstance(value, dict):
        return {mask_output(str(key)): mask_output_values(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(mask_output_values(item, name) for item in _masked_argv(value))
    return value


def mask_key_line(line: str, left: int) -> tuple[str, int]:
    """A line of a stream, masked if it is within a private key, and `left` for the next line of that stream.

    `left` counts the lines that are still masked while the end of a key does not come: 0 outside of one.
    """
    if "PRIVATE KEY-----" not in line:
        return (MASK, left - 1) if left else (line, 0)
    after = key_lines_left(line.encode(errors="replace"), 1, left)
    end = _KEY_ENDS.search(line) if left else None
    if end is None:
        return line, after
    return (f"{MASK} " if line[: end.start()].strip() else "") + line[end.start() :], after


def key_lines_left(data: bytes, lines: int, left: int) -> int:
    """What `mask_key_line` returns as `left` after these whole lines."""
    if b"PRIVATE KEY-----" not in data:
        return max(0, left - lines)
    text = data.decode(errors="replace")
    begins, ends = (max((at.end() for at in each.finditer(text)), default=-1) for each in (_KEY_BEGINS, _KEY_ENDS))
    if begins == ends:  # of something else
        return max(0, left - lines)
    return 0 if ends > begins else max(0, MAX_KEY_LINES - text[begins:].rstrip("\n").count("\n"))


def secrets_in(text: str) -> set[str]:
    """The secrets that `mask_text` masks in a text, as they are and with their quotes and escapes removed."""
    masker = _Masker()
    masker.text(text)
    found = set(masker.found)
    for secret in masker.found:
        found.add(unquote(secret))
        if secret.lstrip("\\")[:1] in ("'", '"'):
            found.add(re.sub(r"\\(.)", r"\1", secret.strip("\\'\"")))
    return found


def mask_values(value: Any, name: str = "") -> Any:
    """A JSON value with the secrets in its texts masked; the text below a secret's name is masked as a whole."""
    if isinstance(value, str):
        if value and (set(value) == {"*"} or (is_secret_name(name) and not _is_reference(value))):
            return MASK
        return mask_text(value)
    if isinstance(value, dict):
        return {key: mask_values(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mask_values(item, name) for item in _masked_argv(value)]
    return value


def _masked_argv(items: list[Any] | tuple[Any, ...]) -> list[Any] | tuple[Any, ...]:
    """Items that may be the words of a command, without the secrets among its options."""
    if all(isinstance(item, str) for item in items) and any(item.startswith("-") for item in items):
        return mask_argv(items, lambda _: MASK)
    return items


def forms_of(secrets: Iterable[str]) -> list[str]:
    """Every form in which these secrets can occur in a text, the longest first.

    As they are, each line of one of several lines, escaped as in JSON and URLs, and in Base64.
    """
    found = {form for secret in secrets for form in _forms(secret)}
    return sorted(found, key=lambda form: (-len(form), form))


def replace_secrets(text: str, forms: Iterable[str]) -> str:
    """The text with each of these forms (see `forms_of`) replaced."""
    for form in forms:
        if form in text:
            text = text.replace(form, MASK)
    return text


def _forms(secret: str) -> Iterator[str]:
    stripped = secret.strip()
    if len(stripped) < SHORTEST:
        return
    yield stripped
    if "\n" in stripped:
        for line in stripped.splitlines()[:MAX_LINES]:
            line = line.strip()
            if len(line) >= SHORTEST_LINE and not line.startswith("-----"):
                yield line
    if len(stripped) > LONGEST_WHOLE:
        return
    yield json.dumps(stripped)[1:-1]
    yield json.dumps(stripped, ensure_ascii=False)[1:-1]
    if len(stripped) >= SHORTEST_LINE:
        yield from (quote(stripped), quote(stripped, safe=""))
        yield base64.b64encode(secret.encode()).decode().rstrip("=")


def _is_reference(text: str) -> bool:
    return re.fullmatch(r"(?:\$\{[^}]+\})+", text) is not None


def mask_tokens(text: str) -> str:
    """The text with tokens of maintd's API masked; by their capital letters they differ from names of metrics."""
    return _TOKEN.sub(MASK, text) if "maintd_" in text else text


class _Masker:
    """Masks one text; `found` are the secrets that were in it."""

    def __init__(self, printed: re.Pattern[str] | None = None) -> None:
        """`printed`: what names of secrets match in a job's output, where some values are no secrets."""
        self.found: list[str] = []
        self._printed = printed

    def _is_secret(self, name: str) -> bool:
        if not name.lower().endswith(_ENDINGS):
            return False
        return is_secret_name(name) if self._printed is None else self._printed.match(name) is not None

    def text(self, text: str) -> str:
        if "maintd_" in text:
            text = _TOKEN.sub(lambda found: self._mask(found[0]), text)
        if "PRIVATE KEY" in text:
            text = _PEM.sub(self._key, text)
        text = mask_options(text, self._mask)
        if self._printed is not None and "earer" in text.lower():
            text = _BEARER.sub(lambda found: found[1] + self._mask(found[2]), text)
        parts, at, colon = [], 0, text.find("://")
        while colon >= 0:
            scheme = _URL_SCHEME.search(text[max(at, colon - _LONGEST_SCHEME) : colon])
            start = colon + 3
            if scheme is not None:
                ending = _URL_END.search(text, start)
                end = len(text) if ending is None else ending.start()
                url = self._url(scheme[0].lower(), text[start:end])
                parts += [self._named(text[at : colon - len(scheme[0])]), f"{scheme[0]}://{url}"]
                at = start = end
            colon = text.find("://", start)
        return "".join([*parts, self._named(text[at:])])

    def _mask(self, secret: str) -> str:
        if secret.strip("\\'\"") != MASK:
            self.found.append(secret)
        return MASK

    def _key(self, found: re.Match[str]) -> str:
        return f"{found[1]} {self._mask(found[2].strip())} {found[3] or ''}".rstrip()

    def _url(self, scheme: str, rest: str) -> str:
        """What follows `scheme://`, with its user information and its query masked."""
        before = ""
        end = _userinfo_end(rest)
        if end >= 0:
            user, _, password = rest[:end].partition(":")
            if password:
                before = f"{user}:{self._mask(password)}@"
            elif user and not scheme.startswith(_USER_IS_NO_SECRET):
                before = f"{self._mask(user)}{':' if ':' in rest[:end] else ''}@"
            else:
                before = rest[: end + 1]
            rest = rest[end + 1 :]
        head, mark, query = _split_first(rest, "?#")
        return before + head + mark + re.sub(r"[^&;#?]+", lambda pair: self._pair(pair[0]), query)

    def _pair(self, pair: str) -> str:
        name, equals, value = pair.partition("=")
        return f"{name}={self._mask(value)}" if equals and value and is_secret_name(unquote_plus(name)) else pair

    def _named(self, text: str) -> str:
        """`name = value`, `name: value` and `"name": "value"` with the values of secret names masked."""
        if "=" not in text and ":" not in text:
            return text
        parts, at = [], 0
        for name in _NAME.finditer(text):
            if name.start() < at or not self._is_secret(name[0]):
                continue
            quoted = _AFTER_NAME.match(text, name.end())
            assigned = _ASSIGNMENT.match(text, name.end() if quoted is None else quoted.end())
            if assigned is None or text.startswith("//", assigned.end()):
                continue
            start, end = _value(text, assigned.end())
            if assigned[1] == ":" and self._printed is None and not _is_field(text, name, quoted, assigned, start):
                continue
            if assigned[1] == ":" and self._printed is not None:
                if name[0].lower().endswith("cookie"):
                    end = next((at.start() for at in _LINE_OR_QUOTE.finditer(text, start)), len(text))
                elif not name[0].lower().endswith("authorization") and _is_in_sentence(text, name[0], assigned):
                    continue
            if end > start and not text.startswith("${", start) and not _is_reference(text[start:end].strip("'\"")):
                mark = _DOUBLE_QUOTE.match(text, start)  # JSON stays JSON
                if mark is None and quoted is not None and quoted[0]:
                    continue  # a number, true, a list
                if self._printed is not None and _NO_SECRET.match(text[start:end].strip("\\'\"")):
                    continue
                masked = self._mask(text[start:end])
                parts += [text[at:start], masked if mark is None else mark[0] + masked + mark[0]]
                at = end
        return "".join([*parts, text[at:]])


def _userinfo_end(rest: str) -> int:
    """The index of the @ that ends the user information; -1 if there is none.

    A password is often not escaped, so it can contain `/`, `@`, `?` and `#`; a path or a query can contain an @ too.
    """
    if _PORT.match(rest):
        return -1
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if ":" not in authority:
        return authority.rfind("@")
    host_and_path = _split_first(rest, "?#")[0]
    return host_and_path.rfind("@") if "@" in host_and_path else rest.rfind("@")


def _split_first(text: str, marks: str) -> tuple[str, str, str]:
    found = re.search(f"[{re.escape(marks)}]", text)
    return (text, "", "") if found is None else (text[: found.start()], found[0], text[found.end() :])


def _is_field(
    text: str, name: re.Match[str], quoted: re.Match[str] | None, assigned: re.Match[str], start: int
) -> bool:
    """Whether `name: value` is a field, and not a sentence such as `no such key: it was removed`."""
    if quoted is not None and quoted[0]:
        return True
    return not name[0].lower().endswith(("key", "auth", "cookie")) and (
        name[0].lower().endswith("authorization") or text.find(" ", start) < 0 or text[assigned.end() - 1] != " "
    )


def _is_in_sentence(text: str, name: str, assigned: re.Match[str]) -> bool:
    """Whether a word after `name: ` in a job's output is one of a sentence, as in `token: expired at 3` or, of what is
    no password, as in `backup: signature: sound`."""
    found = _WORD.match(text, assigned.end() - 1)
    if found is None:
        return False
    return bool(found[1]) or not name.lower().endswith(("password", "passwd", "passphrase", "pwd"))


def _value(text: str, start: int) -> tuple[int, int]:
    """Start and end of a value: in quotes, where a backslash escapes, or up to a space or separator."""
    scheme = _SCHEME.match(text, start)
    if scheme is not None:
        start = scheme.end()
    escaped = text.startswith(('\\"', "\\'"), start)
    quote_mark = text[start + escaped : start + escaped + 1]
    if quote_mark not in ("'", '"') or not quote_mark:
        found = _PLAIN_VALUE.match(text, start)
        return start, start if found is None else found.end()
    at = start + 1 + escaped
    while at < len(text) and text[at] != quote_mark:
        at += 2 if text[at] == "\\" and not (escaped and text[at + 1 : at + 2] == quote_mark) else 1
    return start, min(at + 1, len(text))
