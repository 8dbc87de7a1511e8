"""The effective configuration of one subject as a flat mapping from path to text, without secrets, and its digest."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from maintd.checks.hints import printable
from maintd.command_options import mask_argv
from maintd.errors import TargetError
from maintd.job.criterion import Criterion
from maintd.redaction import MASK, is_secret_name, mask_output, mask_text

MAX_PATHS = 5000
"""Paths of one subject; pg_settings has about 400, CONFIG GET 200, a stack of ten containers 500."""

MAX_TEXT = 400
"""Characters of one value; of a longer one, the beginning and a keyed digest are kept."""

_MAX_DEPTH = 30
_MAX_NODES = 100_000
_DIGEST = 16  # hexadecimal digits that are shown of a keyed digest
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://[^\s\"'<>`|\\^\[\],;)]+")
_NAMES = ("job_name", "name", "alert", "record", "uid", "receiver", "url")
"""Fields that identify an item of a list, so that an item that is inserted does not move the paths of the others."""
_FURTHER = re.compile(r"(?i)(?:pass|auth)$|(?:basic|digest)auth\.users$|^users$")
"""Names of secrets besides the usual ones: Redis' requirepass and masterauth, and Traefik's hashes of passwords."""

_OPTION = re.compile(r"(?<![\w-])--?([A-Za-z][\w.-]*)(?:[ \t]+|=)")
_VALUE = re.compile(r"\"[^\"]*\"|'[^']*'|[^\s\"']+")


@dataclass(frozen=True)
class Snapshot:
    """What was read of a subject. `cut`: the number of paths beyond the limit, which are not in it."""

    subject: str
    values: Mapping[str, str]
    cut: int = 0

    @property
    def digest(self) -> str:
        """sha256 of subject and values, hexadecimal."""
        text = json.dumps([self.subject, sorted(self.values.items())], ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Seen:
    """A subject as it was read. `unread`: by the prefix of the paths, parts that could not be read, with the cause.
    `criteria`: what is right or wrong with it, whatever was approved."""

    snapshot: Snapshot
    unread: Mapping[str, str] = field(default_factory=dict)
    criteria: tuple[Criterion, ...] = ()


@dataclass(frozen=True)
class Difference:
    """What differs from the approved values: by path the new one, the old one, and both."""

    added: Mapping[str, str]
    removed: Mapping[str, str]
    changed: Mapping[str, tuple[str, str]]

    @property
    def count(self) -> int:
        """The number of paths that differ."""
        return len(self.added) + len(self.removed) + len(self.changed)

    @property
    def paths(self) -> list[str]:
        """All paths that differ, sorted."""
        return sorted([*self.added, *self.removed, *self.changed])

    def lines(self) -> list[str]:
        """One line for each path, changed ones first."""
        return [
            *(f"{path}: {old} → {new}" for path, (old, new) in sorted(self.changed.items())),
            *(f"{path} added: {value}" for path, value in sorted(self.added.items())),
            *(f"{path} removed: {value}" for path, value in sorted(self.removed.items())),
        ]


def difference(approved: Mapping[str, str], now: Mapping[str, str], unread: Iterable[str] = ()) -> Difference:
    """Compare; paths below a prefix that was not read are left out."""
    prefixes = tuple(unread)
    old = {path: value for path, value in approved.items() if not path.startswith(prefixes)}
    new = {path: value for path, value in now.items() if not path.startswith(prefixes)}
    return Difference(
        added={path: value for path, value in new.items() if path not in old},
        removed={path: value for path, value in old.items() if path not in new},
        changed={path: (old[path], new[path]) for path in old.keys() & new.keys() if old[path] != new[path]},
    )


class Collector:
    """Collects the values of a subject.

    What is a secret by its name becomes a digest that is keyed with `key`, so that it shows a change, and no guess can
    be tried without the key. Of URLs only scheme and host are kept: the paths of webhooks are secrets. `ignored`: paths
    to leave out.
    """

    def __init__(self, subject: str, key: bytes, ignored: Callable[[str], bool] = lambda path: False) -> None:
        self.subject = subject
        self._key = key
        self._ignored = ignored
        self._values: dict[str, str] = {}
        self._cut = 0

    def keyed(self, text: str) -> str:
        """The digest of a text that is not kept."""
        return hmac.new(self._key, text.encode(errors="surrogatepass"), "sha256").hexdigest()[:_DIGEST]

    def secret(self, path: str, text: str) -> None:
        """Add only the keyed digest of a value."""
        self._add(path, f"keyed digest {self.keyed(text)}" if text else "empty")

    def presence(self, path: str, text: str) -> None:
        """Add only whether a value is set: for secrets that are rotated."""
        self._add(path, "set" if text else "not set")

    def add(self, path: str, value: object) -> None:
        """Add a value; its name is the last part of the path."""
        name = path.rpartition("/")[2]
        self._add(path, self._shown(value, secret=is_secret(name), whole_urls=name == "runbook_url"))

    def tree(
        self,
        path: str,
        value: object,
        *,
        plain: Iterable[str] = (),
        as_environment: Callable[[str], bool] = lambda path: False,
    ) -> None:
        """Add all values of a tree of mappings and lists, as of YAML.

        plain: names of mappings that would be secret by their name, and are not. as_environment: of which paths all
        values are those of an environment, as a mapping or as a list of `NAME=value`. Raises TargetError for a tree
        that is too large.
        """
        require_bounded(value, self.subject)
        self._tree(path, value, frozenset(plain), as_environment, secret=False, depth=0)

    def snapshot(self) -> Snapshot:
        """What was collected, sorted."""
        return Snapshot(self.subject, dict(sorted(self._values.items())), self._cut)

    def _tree(
        self,
        path: str,
        value: object,
        plain: frozenset[str],
        as_environment: Callable[[str], bool],
        *,
        secret: bool,
        depth: int,
    ) -> None:
        if depth > _MAX_DEPTH:
            self._cut += 1
            return
        name = path.rpartition("/")[2]
        secret = secret or (is_secret(name) and name not in plain)
        if as_environment(path):
            self.environment(path, value)
        elif isinstance(value, Mapping) and value:
            for key, item in value.items():
                self._tree(joined(path, str(key)), item, plain, as_environment, secret=secret, depth=depth + 1)
        elif isinstance(value, list | tuple) and any(isinstance(item, Mapping | list) for item in value):
            for index, item in enumerate(value):
                at = f"{path}[{_identity(item, index)}]"
                self._tree(at, item, plain, as_environment, secret=secret, depth=depth + 1)
        else:
            whole_urls = name == "runbook_url"
            if isinstance(value, list | tuple):
                self._add(path, self._listed(value, secret=secret, whole_urls=whole_urls))
            else:
                self._add(path, self._shown(value, secret=secret, whole_urls=whole_urls))

    def environment(self, path: str, value: object) -> None:
        """Add the names of an environment with keyed digests of the values."""
        if isinstance(value, Mapping):
            pairs = [(str(name), text) for name, text in value.items()]
        elif isinstance(value, list):
            split = [str(item).partition("=") for item in value]
            pairs = [(name, text if sign else None) for name, sign, text in split]
        else:
            pairs = [("", value)]
        for name, text in pairs:
            if text is None:
                self._add(joined(path, name), "from outside")
            else:
                self.secret(joined(path, name), str(text))

    def _listed(self, values: list[object] | tuple[object, ...], *, secret: bool, whole_urls: bool) -> str:
        """The items of a list, which may be the words of a command with a secret after the name of its option."""
        texts = [item if isinstance(item, str) else None for item in values]
        words = mask_argv([text or "" for text in texts], lambda _: MASK)
        for index, word in enumerate(words[:-1]):
            if word.startswith("-") and is_secret(word.lstrip("-")):
                words[index + 1] = MASK
        shown = [
            self._shown(item if text is None or word == text else word, secret=secret, whole_urls=whole_urls)
            for item, text, word in zip(values, texts, words, strict=True)
        ]
        is_masked = any(text is not None and word != text for text, word in zip(texts, words, strict=True))
        digest = f" (keyed digest {self.keyed(' '.join(map(str, values)))})" if is_masked else ""
        return self._shortened((", ".join(shown) or "[]") + digest)

    def _shown(self, value: object, *, secret: bool, whole_urls: bool = False) -> str:
        if value is None or isinstance(value, bool):
            return {None: "null", True: "true", False: "false"}[value]
        if isinstance(value, Mapping | list | tuple):
            return "{}" if isinstance(value, Mapping) else "[]"
        text = str(value)
        if text in ("", "<secret>"):
            return text or "empty"
        if secret:
            return f"keyed digest {self.keyed(text)}"
        masked = mask_output(mask_text(_without_options(text if whole_urls else _URL.sub(_host_only, text))))
        return self._shortened(masked if masked == text else f"{masked} (keyed digest {self.keyed(text)})")

    def _shortened(self, text: str) -> str:
        text = printable(text)
        return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}… (keyed digest {self.keyed(text)})"

    def _add(self, path: str, text: str) -> None:
        path = printable(path)
        if len(path) > MAX_TEXT:
            path = f"{path[:MAX_TEXT]}… {self.keyed(path)}"
        if self._ignored(path):
            return
        if len(self._values) >= MAX_PATHS:
            self._cut += 1
            return
        unique, number = path, 2
        while unique in self._values:
            unique, number = f"{path}#{number}", number + 1
        self._values[unique] = text


def require_bounded(value: object, where: str) -> None:
    """Raise TargetError for a tree that is too large. Aliases of YAML count each time: few lines can mean billions."""
    if _size(value, {}) > _MAX_NODES:
        raise TargetError(f"{where}: has more than {_MAX_NODES:,} values", cause="too_large")


def _size(value: object, known: dict[int, int]) -> int:
    if not isinstance(value, Mapping | list | tuple):
        return 1
    if id(value) not in known:
        known[id(value)] = _MAX_NODES + 1  # a tree that contains itself has no end
        items = value.values() if isinstance(value, Mapping) else value
        known[id(value)] = 1 + sum(_size(item, known) for item in items)
    return known[id(value)]


def is_secret(name: str) -> bool:
    """Whether a value of this name is not kept."""
    return is_secret_name(name) or _FURTHER.search(name) is not None


def joined(path: str, name: str) -> str:
    """The path with a further name; one with a slash is quoted."""
    part = f'"{name}"' if "/" in name else name
    return f"{path}/{part}" if path else part


def _identity(item: object, index: int) -> str:
    if isinstance(item, Mapping):
        for name in _NAMES:
            if isinstance(item.get(name), str):
                return f"{name}={mask_text(_URL.sub(_host_only, item[name]))}"
    return str(index)


def _without_options(text: str) -> str:
    """The text with what follows the name of an option for a secret masked."""
    parts, at = [], 0
    for option in _OPTION.finditer(text):
        value = _VALUE.match(text, option.end())
        if value is not None and option.start() >= at and is_secret(option[1]):
            parts += [text[at : option.end()], MASK]
            at = value.end()
    return "".join([*parts, text[at:]])


def _host_only(found: re.Match[str]) -> str:
    try:
        parts = urlsplit(found[0])
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return f"{found[1]}://***"
    place = f"{found[1]}://{host}{f':{port}' if port else ''}"
    return place + ("/***" if parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc else "")
