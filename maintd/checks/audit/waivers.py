"""Waivers: findings that a person accepts until a day, with the reason."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import date
from fnmatch import fnmatchcase

from pydantic import BaseModel, ConfigDict, Field

from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus


class Waiver(BaseModel):
    """A rule that does not apply to subjects, as `*` and `?` match them, until the end of a day (UTC).

    `subject` is compared with `api`, and with `docker main/api`, which has the place, too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: str
    subject: str = Field("*", min_length=1)
    why: str = Field(min_length=1)
    by: str = Field(min_length=1)
    until: date

    @property
    def name(self) -> str:
        """Rule and subject."""
        return f"{self.rule} of {self.subject}"


class Ledger:
    """The waivers of one audit, and which of them matched something."""

    def __init__(self, waivers: Sequence[Waiver], today: date) -> None:
        self.waivers = waivers
        self._today = today
        self._used: set[Waiver] = set()

    def find(self, rule: str, place: str, subject: str) -> Waiver | None:
        """The first waiver that applies; one that has expired does not."""
        found = None
        for waiver in self.waivers:
            names = (subject, f"{place}/{subject}")
            if waiver.rule == rule and any(fnmatchcase(name, waiver.subject) for name in names):
                self._used.add(waiver)
                if found is None and waiver.until >= self._today:
                    found = waiver
        return found

    def criteria(self, unseen: Collection[str]) -> Iterator[Criterion]:
        """A check of each waiver: one that has expired or matches nothing warns. unseen: rules that were not seen."""
        rule = "the param waivers"
        for waiver in dict.fromkeys(self.waivers):
            name = f"waivers: {waiver.name}"
            if waiver.until < self._today:
                yield Criterion(
                    name,
                    f"expired on {waiver.until}",
                    equals="not expired",
                    severity=CheckStatus.WARN,
                    rule=rule,
                    hint=f"make the change, or renew it with a reason; it was by {waiver.by}: {waiver.why}",
                )
            elif waiver not in self._used and waiver.rule not in unseen:
                yield Criterion(
                    name,
                    "matches nothing",
                    equals="matches a finding",
                    severity=CheckStatus.WARN,
                    rule=rule,
                    hint="remove it: it would hide the next finding that it matches",
                )
            elif waiver in self._used:
                text = f"applies until {waiver.until}"
                yield Criterion(name, text, equals=text, rule=rule)
