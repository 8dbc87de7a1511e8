"""A criterion that is both a check of the run and a recommendation of a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from maintd.job.attempt_info import KnownFinding
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

    def finding(self, known: Mapping[str, KnownFinding]) -> Finding:
        """The recommendation. known: the findings that were open before this run, by the name of the check."""
        cause = self.criterion.unknown
        meaning = f"not measured: {cause}" if cause else self.meaning
        before = known.get(self.criterion.name)
        subject = f"{self.subject} ({'new' if before is None else before.text})"
        return Finding(self.status.value, self.area, subject, meaning, self.command)

    def with_hint(self) -> Criterion:
        """The criterion to report as a check; its hint is the command, or the meaning without one."""
        return replace(self.criterion, hint=self.command or self.meaning)
