"""The table that a person signs off: each access with a stable id, and the decisions about exactly this table."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from maintd.checks.hints import printable
from maintd.errors import UsageError

MOST = 500
"""Rows of a table; a larger one is cut, and the review is unknown."""

MAX_NOTE = 2000
"""Characters of the note of an approval."""

COLUMNS = ("id", "kind", "place", "name", "rights", "last used", "run", "decision")
_ID = re.compile(r"[0-9a-f]{8}")
_DIGEST_LENGTH = 16


@dataclass(frozen=True)
class Access:
    """One account, key, membership, role or token. `used`: when it was last used, `never seen`, or `unknown`.

    `rule`: what it allows, where the same name can have several, each to be decided by itself: a rule of sudo.
    """

    kind: str
    place: str
    name: str
    rights: str = ""
    used: str = "unknown"
    rule: str = ""

    @property
    def id(self) -> str:
        """Eight hex digits that depend on kind, place, name and rule only."""
        return _id(self.kind, self.place, self.name, *([self.rule] if self.rule else []))

    @property
    def id_by_name(self) -> str:
        """The id without the rule, under which sudo rules were listed and decided before rules were kept."""
        return _id(self.kind, self.place, self.name)

    @property
    def title(self) -> str:
        """The name, with the rule if it has one, printable."""
        return printable(f"{self.name}: {self.rule}" if self.rule else self.name)

    @property
    def row(self) -> tuple[str, ...]:
        """The columns up to `last used`, safe to open in a spreadsheet."""
        return (self.id, *(_cell(text) for text in (self.kind, self.place, self.name, self.rights, self.used)))


def _id(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _cell(text: str) -> str:
    shown = printable(text)[:200].strip()
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown


def rows_of(accesses: Iterable[Access], run_id: int) -> list[tuple[str, ...]]:
    """The rows of the table of a run, each id once, by kind, place and name.

    The number of the run is in each row, so that a table with decisions is of no other run, also when nothing changed.
    """
    unique = {each.id: each for each in accesses}
    return sorted(((*each.row, str(run_id)) for each in unique.values()), key=lambda row: (row[1:4], row[0]))


def digest_of(rows: Iterable[Sequence[str]]) -> str:
    """The digest of the rows without their decisions: 16 hex digits of SHA-256."""
    text = json.dumps([list(row[:-1]) if len(row) == len(COLUMNS) else list(row) for row in rows])
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_LENGTH]


def to_csv(rows: Iterable[Sequence[str]], decisions: dict[str, str] | None = None) -> str:
    """The table as CSV, with an empty column for the decisions, or with these by id."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow((*row, (decisions or {}).get(row[0], "")))
    return text.getvalue()


def from_csv(text: str) -> tuple[str, list[str], dict[str, str]]:
    """The digest and ids of the table in a file that a person has filled, and the decisions by id, `keep` or `revoke`.

    Raises UsageError for a file that is no such table.
    """
    delimiter = ";" if text.partition("\n")[0].count(";") >= len(COLUMNS) - 1 else ","
    try:
        lines = [line for line in csv.reader(io.StringIO(text.removeprefix("\ufeff")), delimiter=delimiter) if line]
    except csv.Error as error:
        raise UsageError(f"the file is not CSV: {error}", "fill the column decision of access-review.csv") from None
    if not lines or tuple(lines[0]) != COLUMNS:
        raise UsageError("the file is no table of access_review", "fill the column decision of access-review.csv")
    decisions: dict[str, str] = {}
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(COLUMNS):
            raise UsageError(f"line {number} has {len(line)} columns instead of {len(COLUMNS)}")
        word = line[-1].strip().lower()
        if word not in ("", "keep", "revoke"):
            raise UsageError(f'line {number}: "{printable(word)[:40]}" is no decision', "write keep or revoke")
        if word:
            decisions[line[0]] = word
    return digest_of(lines[1:]), [line[0] for line in lines[1:]], decisions


@dataclass(frozen=True)
class Decisions:
    """The decisions about the table with this digest, by id; `undecided` are the other ids of the table."""

    digest: str
    by_id: dict[str, str] = field(default_factory=dict)
    undecided: tuple[str, ...] = ()


def note_of(digest: str, ids: Sequence[str], decisions: dict[str, str]) -> str:
    """The note of an approval with these decisions, as short as possible: `table=… revoke=1a…,2b… keep=rest`.

    Raises UsageError when it does not fit.
    """
    lists = {word: [one for one in ids if decisions.get(one, "open") == word] for word in ("keep", "revoke", "open")}
    rest = max(lists, key=lambda word: len(lists[word]))
    words = [f"{word}={'rest' if word == rest else ','.join(found)}" for word, found in lists.items() if found]
    note = " ".join((f"table={digest}", *words))
    if len(note) > MAX_NOTE:
        raise UsageError("the decisions do not fit into one approval", "decide for more of them in the same way")
    return note


def from_note(note: str, digest: str, ids: Sequence[str]) -> Decisions:
    """What the note of an approval has decided about the table with this digest. Raises UsageError when it is unclear.

    Ids that are not named are undecided, unless `keep`, `revoke` or `open` has the value `rest` or `all`.
    """
    words = re.findall(r"(?<!\S)(table|keep|revoke|open)=(\S*)", note)
    given: dict[str, str] = {}
    for key, value in words:
        if key in given:
            raise UsageError(f"{key}= occurs twice in the note")
        given[key] = value
    if given.get("table", "")[:_DIGEST_LENGTH] != digest:
        shown = f"table={given['table'][:20]}" if "table" in given else "without table="
        raise UsageError(f"the note is {printable(shown)}, but the table that was shown is {digest}")
    decided: dict[str, str] = {}
    rest = ""
    for word in ("keep", "revoke", "open"):
        for one in filter(None, given.get(word, "").split(",")):
            if one in ("rest", "all"):
                if rest:
                    raise UsageError(f"both {rest}= and {word}= have the rest")
                rest = word
            elif not _ID.fullmatch(one) or one not in ids:
                raise UsageError(f'the table has no id "{printable(one)[:20]}"')
            elif decided.setdefault(one, word) != word:
                raise UsageError(f"{one} is in {decided[one]}= and in {word}=")
    every = {one: decided.get(one, rest or "open") for one in ids}
    made = {one: word for one, word in every.items() if word != "open"}
    return Decisions(digest, made, tuple(one for one in ids if one not in made))
