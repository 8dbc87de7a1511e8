"""A rule of the audit, and what was seen of it in one place."""

from __future__ import annotations

from dataclasses import dataclass

from maintd.model.evidence import CheckStatus

WEIGHTS = {CheckStatus.FAIL: 3, CheckStatus.WARN: 1}
"""Points of a rule in the score, by its severity."""


@dataclass(frozen=True)
class Rule:
    """What must not be so.

    id: stable, for waivers and SARIF. title: the plural of what is not wanted, as in `privileged containers`.
    source: where the rule comes from. wanted: how it should be. change: what a person would do about it.
    """

    id: str
    severity: CheckStatus
    title: str
    source: str
    wanted: str
    change: str

    @property
    def text(self) -> str:
        """Source and id in one line."""
        return f"{self.source} ({self.id})"


@dataclass(frozen=True)
class Violation:
    """A subject that does not follow a rule: what was observed of it, never a secret; `change` instead of the rule's.

    file, line: where it is, for a file. line: 0: not known.
    """

    subject: str
    observed: str
    change: str = ""
    file: str = ""
    line: int = 0


@dataclass(frozen=True)
class Blind:
    """A subject of which it is not known whether it follows a rule. `optional`: a fact of this site."""

    subject: str
    cause: str
    hint: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Outcome:
    """What was seen of a rule in one place, such as `docker main`.

    examined: how many subjects were seen, those that do not follow the rule included. not_applicable: why no subject
    is concerned.
    """

    rule: Rule
    place: str
    examined: int
    violations: tuple[Violation, ...] = ()
    blind: tuple[Blind, ...] = ()
    not_applicable: str = ""
