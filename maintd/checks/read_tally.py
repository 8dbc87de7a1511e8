"""How much of a source was understood: what is not understood is counted and shown, never taken for nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from maintd.job.bounded import BoundedList
from maintd.job.criterion import Criterion

SAMPLES = 5
SAMPLE_LENGTH = 160


@dataclass
class ReadTally:
    """Lines, records or files of one source by what became of them.

    `understood` were read and counted. `out_of_scope` were read and are about something else. `not_understood` could
    be about anything, also about what the check looks for.
    """

    understood: int = 0
    not_understood: int = 0
    out_of_scope: int = 0
    samples: BoundedList[str] = field(default_factory=lambda: BoundedList(SAMPLES))

    def add_not_understood(self, text: str, times: int = 1) -> None:
        """Count something that could not be read, and keep it as a sample while there is room."""
        self.not_understood += times
        if len(self.samples) < SAMPLES:
            self.samples.append(sample(text))

    @property
    def total(self) -> int:
        """All that was seen."""
        return self.understood + self.not_understood + self.out_of_scope

    @property
    def share_not_understood(self) -> float:
        """Of what could matter: not understood to understood and not understood together; 0 to 1."""
        in_scope = self.understood + self.not_understood
        return self.not_understood / in_scope if in_scope else 0.0

    def missing(self, what: str, *, at_most_share: float = 0.05, at_least: int = 1) -> str:
        """Why a count of what was understood is too low to be ok, where `criterion` is unknown; else empty."""
        if self.not_understood < max(1, at_least) or self.share_not_understood <= at_most_share:
            return ""
        return f"{self.not_understood} of {self.understood + self.not_understood} {what} were not understood"

    def criterion(
        self, name: str, what: str, *, at_most_share: float = 0.05, at_least: int = 1, hint: str = ""
    ) -> Criterion:
        """Unknown when more than the share was not understood, with samples; else ok, with the share in percent.

        `what` is a plural noun: "lines", "files". Fewer than `at_least` could not change what the job checks.
        """
        share = round(100 * self.share_not_understood, 1)
        if 0 < self.not_understood < at_least:
            return Criterion(name, self.not_understood, unit=what, at_most=at_least - 1, hint=hint)
        if self.share_not_understood > at_most_share:
            shown = "; ".join(f'"{one}"' for one in self.samples)
            cause = f"{self.not_understood} {what} not understood ({share:g} %)"
            return Criterion(name, unknown=f"{cause}, such as {shown}" if shown else cause, hint=hint)
        return Criterion(name, share, unit="%", at_most=round(100 * at_most_share, 1), hint=hint)

    def merge(self, other: ReadTally) -> None:
        """Add another source's numbers and samples to these."""
        self.understood += other.understood
        self.not_understood += other.not_understood
        self.out_of_scope += other.out_of_scope
        for one in other.samples:
            if len(self.samples) < SAMPLES:
                self.samples.append(one)


def sample(text: str) -> str:
    """The beginning of a text from outside, without control characters."""
    cut = text[:SAMPLE_LENGTH] + ("…" if len(text) > SAMPLE_LENGTH else "")
    return "".join(character if character.isprintable() else "�" for character in cut)
