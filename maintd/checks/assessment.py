"""A criterion that is both a check of the run and a recommendation of a report."""

from __future__ import annotations

from dataclasses import dataclass, replace

from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus
from maintd.reports.document import Finding


@dataclass(frozen=True)
class Assessment:
    """`area` is the report's heading; `meaning` and `command` (what to run next) apply when it is not met."""

    area: str
    subject: str
    criterion: Criterion
    meaning: str = ""
    command: str = ""

    @property
    def status(self) -> CheckStatus:
        """The criterion's."""
        return self.criterion.status

    @property
    def finding(self) -> Finding:
        """The recommendation."""
        cause = self.criterion.unknown
        meaning = f"not measured: {cause}" if cause else self.meaning
        return Finding(self.status.value, self.area, self.subject, meaning, self.command)

    def with_hint(self) -> Criterion:
        """The criterion to report as a check; its hint is the command, or the meaning without one."""
        return replace(self.criterion, hint=self.command or self.meaning)
