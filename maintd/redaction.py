"""Mask secrets in texts: passwords in URLs and connection strings, named values, private keys, and known secrets."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote, unquote, unquote_plus

MASK = "***"

SHORTEST = 4
"""Characters; a shorter secret is not searched for, since it occurs in too many other words."""

SHORTEST_LINE = 8
"""Characters of one line of a secret of several lines, for the same reason."""

LONGEST_WHOLE = 16_384
"""Characters; of a longer secret the escaped and encoded forms are not searched for, only its lines."""

MAX_LINES = 2000
"""Lines of one secret that are searched for one by one."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_URL_END = re.compile(r"[\s\"'<>`|\\^{}]|$")
_PORT = re.compile(r"[^:/]+:\d{1,5}(?=[/?#]|$)")
_USER_IS_NO_SECRET = ("postgres", "mysql", "mariadb", "ssh", "sftp", "ftp", "git+ssh", "smtp", "imap", "redis")
_SECRET_NAME = re.compile(
    r"(?i)(?:.*[_.-])?(?:pass|key|sig|signature|credentials?|authorization|auth|bearer|jwt|cookie|sas|pw)$|"
    r".*(?:password|passwd|passphrase|pwd|secrets?|token|(?:api|access|private|secret|account|signing|signature)_?key)$"
)
_NAME = re.compile(
    r"(?i)(?:^|.*[_.-]|.*(?=pass|pwd|secret|token|credential))"
    r"(?:pass|passwd|password|passphrase|pwd|pass_?word|secrets?|token|api_?key|apikey|access_?key|private_?key|"
    r"secret_?key|account_?key|key|sig|signature|credentials?|authorization|auth|bearer|jwt|cookie|sas)$"
)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_ASSIGNMENT = re.compile(r"[ \t]*(=|:)[ \t]*")
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
        return [mask_values(item, name) for item in value]
    return value


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

    def __init__(self) -> None:
        self.found: list[str] = []

    def text(self, text: str) -> str:
        if "maintd_" in text:
            text = _TOKEN.sub(lambda found: self._mask(found[0]), text)
        if "PRIVATE KEY" in text:
            text = _PEM.sub(self._key, text)
        parts, at = [], 0
        while (found := _URL.search(text, at)) is not None:
            ending = _URL_END.search(text, found.end())
            end = len(text) if ending is None else ending.start()
            url = found[0] + self._url(found[0][:-3].lower(), text[found.end() : end])
            parts += [self._named(text[at : found.start()]), url]
            at = end
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
            if name.start() < at or not is_secret_name(name[0]):
                continue
            quoted = _AFTER_NAME.match(text, name.end())
            assigned = _ASSIGNMENT.match(text, name.end() if quoted is None else quoted.end())
            if assigned is None or text.startswith("//", assigned.end()):
                continue
            start, end = _value(text, assigned.end())
            if assigned[1] == ":" and not _is_field(text, name, quoted, assigned, start):
                continue
            if end > start and not text.startswith("${", start):
                mark = _DOUBLE_QUOTE.match(text, start)  # JSON stays JSON
                if mark is None and quoted is not None and quoted[0]:
                    continue  # a number, true, a list
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
