"""Secrets in the files of a git repository's HEAD, by pattern and by entropy. Only the place is kept, never the value.

Earlier commits are not examined: a secret that was in one has to be rotated as well.
"""

from __future__ import annotations

import codecs
import math
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from maintd.checks.audit.rule import Blind, Outcome, Rule, Violation
from maintd.checks.hints import name_first, printable
from maintd.checks.secrets.values import is_default
from maintd.clients.files import shown
from maintd.clients.shell import child_environment
from maintd.errors import TargetError
from maintd.model.evidence import CheckStatus

MAX_BLOB = 512 << 10
"""Bytes; a larger file is rarely written by hand."""
MAX_TOTAL = 64 << 20
MAX_FILES = 50_000
_CHUNK_FILES = 500
_MIN_ENTROPY = 3.5
"""Bits a character of a value next to the name of a secret; text in English has about 3, random base64 more than 4."""

PATTERN = Rule(
    "git-secrets",
    CheckStatus.FAIL,
    "secrets in tracked files",
    "OWASP Secrets Management, detection",
    "no secret in a commit",
    "rotate the secret, then move it out of the repository; what was in a commit stays in its history",
)
ENTROPY = Rule(
    "git-entropy",
    CheckStatus.WARN,
    "possible secrets in tracked files",
    "OWASP Secrets Management, detection",
    "a reference to a file",
    "if it is a secret, rotate it and move it out of the repository; else give it a waiver",
)
ENV = Rule(
    "git-env",
    CheckStatus.FAIL,
    "tracked .env files",
    "OWASP Secrets Management, detection",
    "only .env.example is tracked",
    "git rm --cached it, add it to .gitignore, and rotate what is in it",
)
RULES = (PATTERN, ENTROPY, ENV)

PATTERNS: Mapping[str, re.Pattern[str]] = {
    "private key": re.compile(r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----\s*+\\?n?\s*+[A-Za-z0-9+/]{20}"),
    "AWS access key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "GitHub token": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60,})\b"),
    "GitLab token": re.compile(r"\bglpat-[A-Za-z0-9_-]{20}\b"),
    "Slack token": re.compile(r"\bxox[abprs]-[0-9A-Za-z-]{20,}"),
    "Slack webhook": re.compile(r"hooks\.slack\.com/services/T[A-Z0-9]{7,}/B[A-Z0-9]{7,}/[A-Za-z0-9]{20,}"),
    "Stripe key": re.compile(r"\b[rs]k_live_[0-9A-Za-z]{20,}"),
    "Google API key": re.compile(r"\bAIza[0-9A-Za-z_-]{35}\b"),
    "npm token": re.compile(r"\bnpm_[A-Za-z0-9]{36}\b"),
    "age identity": re.compile(r"AGE-SECRET-KEY-1[0-9A-Z]{50,}"),
    "password in a URL": re.compile(
        r"\b[a-z][a-z0-9+.-]{2,20}://[^\s:@/'\"$<{]{1,64}:[^\s:@/'\"$<{%]{8,128}@[A-Za-z0-9]"
    ),
}
"""Sources: the documentation of each issuer; as in gitleaks' and trivy's rules.

The time of each is linear in the length of the text: a run without a bound is possessive or has nothing after it.
"""

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before that of UTF-16, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_ASSIGNMENT = re.compile(
    r"(?i)\b[a-z0-9_.-]{0,40}(?:secret|token|passwd|password|api[_-]?key|access[_-]?key|private[_-]?key)[a-z0-9_.-]{0,20}"
    r"['\"]?\s{0,4}(?:=>|[:=])\s{0,4}['\"]?([A-Za-z0-9+/_=.~-]{16,128})['\"]?"
)
_PLACEHOLDER = re.compile(r"(?i)change[-_]?me|example|placeholder|dummy|your[-_]|replace|xxxx|\.{3}")
_HEX = re.compile(r"^[0-9a-f]{40}$|^[0-9a-f]{64}$|^sha\d+-")


@dataclass(frozen=True)
class Tracked:
    """What was found: the kind of secret and its line, by path.

    unread, binary: files that were not examined, for their size and for their NUL bytes.
    """

    patterns: tuple[tuple[str, str, int], ...]
    guesses: tuple[tuple[str, str, int], ...]
    env: tuple[str, ...]
    examined: int
    unread: tuple[str, ...]
    binary: tuple[str, ...] = ()


def collect(repository: Path, timeout: timedelta) -> Tracked:
    """Examine the files of HEAD. Raises TargetError."""
    entries = _entries(repository, timeout)
    patterns, guesses, unread, binary = [], [], [], []
    small: list[tuple[str, str]] = []
    total = 0
    for path, blob, size in entries:
        total += size
        if size > MAX_BLOB or total > MAX_TOTAL or len(small) >= MAX_FILES:
            unread.append(path)
            total -= size
        else:
            small.append((path, blob))
    for start in range(0, len(small), _CHUNK_FILES):
        part = small[start : start + _CHUNK_FILES]
        for (path, _), content in zip(part, _contents(repository, [blob for _, blob in part], timeout), strict=True):
            text = _text(content)
            if text is None:
                binary.append(path)
                continue
            patterns += [(path, kind, line) for kind, line in by_pattern(text)]
            if not _is_lock(path):
                guesses += [(path, name, line) for name, line in by_entropy(text)]
    env = tuple(path for path, _, _ in entries if _is_env(path))
    examined = len(small) - len(binary)
    return Tracked(tuple(patterns), tuple(guesses), env, examined, tuple(unread), tuple(binary))


def _text(content: bytes) -> str | None:
    """The text, by its byte order mark or else UTF-8; None for what is binary, as git decides it."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return content.decode(encoding, errors="replace")
    return None if b"\0" in content[:8000] else content.decode(errors="replace")


def by_pattern(text: str) -> Iterator[tuple[str, int]]:
    """Kind and line of each secret with a known form."""
    for kind, pattern in PATTERNS.items():
        line, at = 1, 0
        for match in pattern.finditer(text):
            value = match[0]
            line, at = line + text.count("\n", at, match.start()), match.start()
            if kind == "password in a URL" and is_default(value.rpartition("@")[0].rpartition(":")[2]):
                continue
            if "example" not in value.lower():
                yield kind, line


def by_entropy(text: str) -> Iterator[tuple[str, int]]:
    """What is assigned to a name like that of a secret, and looks random: a kind, and the line."""
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > 2000:
            continue  # minified
        for match in _ASSIGNMENT.finditer(line):
            value = match[1]
            if (
                entropy(value) >= _MIN_ENTROPY
                and re.search(r"\d", value)
                and not _HEX.match(value)
                and not _PLACEHOLDER.search(value)
            ):
                yield "a random value", number


def entropy(value: str) -> float:
    """Shannon's entropy in bits a character."""
    counts = Counter(value)
    return -sum(count / len(value) * math.log2(count / len(value)) for count in counts.values())


def _is_lock(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.endswith((".lock", ".sum", ".svg", ".min.js", ".map")) or name in (
        "package-lock.json",
        "pnpm-lock.yaml",
    )


def _is_env(path: str) -> bool:
    name = path.rpartition("/")[2]
    return (name == ".env" or name.startswith(".env.")) and not name.endswith(
        (".example", ".sample", ".template", ".dist")
    )


def _entries(repository: Path, timeout: timedelta) -> list[tuple[str, str, int]]:
    """Path, blob and size of each file of HEAD."""
    found = []
    for line in _git(repository, ["ls-tree", "-r", "-z", "-l", "--full-tree", "HEAD"], b"", timeout).split(b"\0"):
        about, _, path = line.partition(b"\t")
        words = about.split()
        if len(words) == 4 and words[1] == b"blob" and words[0] != b"120000" and words[3].isdigit():
            found.append((path.decode(errors="surrogateescape"), words[2].decode(), int(words[3])))
    return found


def _contents(repository: Path, blobs: list[str], timeout: timedelta) -> list[bytes]:
    answer = _git(repository, ["cat-file", "--batch"], "".join(f"{blob}\n" for blob in blobs).encode(), timeout)
    found, at = [], 0
    for blob in blobs:
        end = answer.find(b"\n", at)
        words = answer[at:end].split() if end >= 0 else []
        if len(words) != 3 or words[1] != b"blob":
            raise TargetError(f"{repository}: git has no object {blob[:12]}", "git fsck", cause="partial")
        size = int(words[2])
        found.append(answer[end + 1 : end + 1 + size])
        at = end + size + 2
    return found


def _git(repository: Path, arguments: list[str], given: bytes, timeout: timedelta) -> bytes:
    """The output of a command of git that reads objects only: no hook, no filter, and nothing from the network."""
    # The folder may belong to another user: git would refuse it, since it reads its configuration.
    argv = [
        "git",
        "-c",
        "safe.directory=*",
        "-c",
        "core.fsmonitor=false",
        "-c",
        "protocol.allow=never",
        "-C",
        str(repository),
    ]
    environment = {
        **child_environment(os.environ),
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
    }
    try:
        done = subprocess.run(
            [*argv, *arguments],
            input=given,
            capture_output=True,
            timeout=timeout.total_seconds(),
            env=environment,
            check=False,
        )
    except FileNotFoundError:
        hint = "install git where maintd runs, or remove the param repositories"
        raise TargetError(f"{repository}: git is not installed", hint, cause="not_configured") from None
    except subprocess.TimeoutExpired:
        raise TargetError(f"{repository}: git did not end in time", cause="timed_out") from None
    if done.returncode:
        text = printable(" ".join(done.stderr.decode(errors="replace").split())[:200])
        raise TargetError(f"{repository}: git: {text}", "name the folder that has .git", cause="failed")
    return done.stdout


def outcomes(place: str, found: Tracked) -> list[Outcome]:
    """What was seen of each rule, one subject for each file."""
    blind = tuple(Blind(shown(path), "too_large: not examined", optional=True) for path in found.unread[:20])
    if found.binary:
        names = name_first([shown(path) for path in found.binary])
        text = f"{len(found.binary)} with NUL bytes and without a byte order mark: {names}"
        blind += (Blind("binary files", text, optional=True),)
    return [
        Outcome(PATTERN, place, found.examined, tuple(_by_file(found.patterns)), blind),
        Outcome(ENTROPY, place, found.examined, tuple(_by_file(found.guesses)), blind),
        Outcome(
            ENV,
            place,
            max(found.examined, 1),
            tuple(Violation(shown(path), "tracked", file=path) for path in found.env),
        ),
    ]


def _by_file(found: tuple[tuple[str, str, int], ...]) -> Iterator[Violation]:
    files: dict[str, list[tuple[str, int]]] = {}
    for path, kind, line in found:
        files.setdefault(path, []).append((kind, line))
    for path, places in files.items():
        text = ", ".join(f"{kind} in line {line}" for kind, line in places[:5])
        yield Violation(shown(path), text, file=path, line=places[0][1])
