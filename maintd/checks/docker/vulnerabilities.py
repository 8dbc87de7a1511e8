"""Vulnerabilities of images, from reports of trivy or by trivy itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path

from maintd.checks.docker.images import Image, ImageInUse
from maintd.clients import trivy
from maintd.errors import TargetError
from maintd.job.causes import Role
from maintd.job.context import Context
from maintd.model.evidence import CheckStatus
from maintd.units import format_duration

SEVERITIES = ("CRITICAL", "HIGH", "MEDIUM", "LOW")
_COMPARED = ("CRITICAL", "HIGH")
_MAX_COMPARED = 500  # vulnerabilities of one service that are kept for the next run


def report_without_scanner(ctx: Context) -> None:
    """Report that vulnerabilities are not known: without an alarm, as a site may scan elsewhere."""
    hint = "set trivy, or trivy_reports"
    ctx.unknown("vulnerabilities", "not_configured: no scanner is set", hint=hint, optional=True)


class VulnerabilityCheck:
    """Reports the vulnerabilities of images that have a fix; nothing without a folder of reports or trivy."""

    def __init__(
        self,
        ctx: Context,
        *,
        reports: Path | None,
        program: str | None,
        docker_url: str,
        timeout: timedelta,
        max_age: timedelta,
        accepted: Mapping[str, date],
    ) -> None:
        """`max_age`: of reports and of trivy's database. `accepted`: last day by vulnerability."""
        self._ctx, self._program, self._folder, self._docker_url = ctx, program, reports, docker_url
        self._timeout, self._max_age, self._accepted = timeout, max_age, accepted
        self._reports: list[trivy.Scan] = []
        self._unusable = ""  # why trivy itself cannot be used
        if reports is not None:
            self._reports, errors = trivy.reports(reports)
            for error in errors:
                ctx.report_error("trivy report", error, role=Role.SOURCE)
        if program is not None:
            try:
                age = ctx.now() - trivy.database_made_at(program, timedelta(seconds=30))
                if age > max_age:
                    self._unusable = f"its database is {format_duration(timedelta(days=age.days))} old"
            except TargetError as error:
                self._unusable = f"{error.cause}: {error.message}"

    def report(self, used: ImageInUse, image: Image) -> None:
        """Report one image of one service."""
        ctx, name = self._ctx, f"{used.service}: vulnerabilities with a fix"
        if self._program is None and self._folder is None:
            return
        found = trivy.report_of(self._reports, used.name, image.id)
        try:
            if found is None and self._program is not None and not self._unusable:
                found = trivy.scan(self._program, image.id, self._docker_url, ctx.work_dir, self._timeout)
        except TargetError as error:
            ctx.report_error(name, error, role=Role.SOURCE)
            return
        if found is None:
            cause = self._unusable or f"there is no report of {used.name} in {self._folder}"
            ctx.unknown(name, cause, hint="update trivy's database, or write a report of this image")
            return
        if ctx.now() - found.made_at > self._max_age:
            ctx.unknown(
                name,
                f"the report is from {found.made_at:%F}",
                hint="write it again, before each run of this job: trivy image --format json --output FILE IMAGE",
            )
            return
        today = ctx.now().date()
        open_ids = {key: level for key, level in found.ids.items() if self._accepted.get(key, date.min) < today}
        self.report_found(used.service, open_ids)

    def report_found(self, service: str, ids: Mapping[str, str]) -> None:
        """Report the vulnerabilities that a scan of a service found, severity by id, and which are new."""
        self._report_severities(service, ids)
        self._report_new(service, sorted(key for key, level in ids.items() if level in _COMPARED))

    def _report_severities(self, service: str, ids: Mapping[str, str]) -> None:
        by_severity = {level: [key for key, its in sorted(ids.items()) if its == level] for level in SEVERITIES}
        for severity, names in by_severity.items():
            self._ctx.measure("image_vulnerabilities", len(names), "", service=service, severity=severity)
        for severity, status in (("CRITICAL", CheckStatus.FAIL), ("HIGH", CheckStatus.WARN)):
            names = by_severity[severity]
            hint = f"{', '.join(names[:5])}: use a newer image, or accept them until a day" if names else ""
            check = f"{service}: {severity.lower()} vulnerabilities with a fix"
            self._ctx.check(check, len(names), at_most=0, severity=status, hint=hint)

    def _report_new(self, service: str, ids: Sequence[str]) -> None:
        """Report critical and high vulnerabilities that the last scan of this service did not find.

        Each is kept as a measure, and their number, by which a record with gaps is recognised.
        """
        ctx, check = self._ctx, f"{service}: new vulnerabilities with a fix"
        kept = ids[:_MAX_COMPARED]
        for key in kept:
            ctx.measure("image_vulnerability", 1, "", service=service, id=key)
        ctx.measure("image_vulnerabilities_compared", len(kept), "", service=service)
        scans = ctx.series("image_vulnerabilities_compared", service=service)
        if not scans:
            ctx.log(f"{check}: there is no earlier scan to compare with")
            return
        last = scans[-1]
        before = {
            point.labels.get("id", "")
            for point in ctx.series("image_vulnerability", service=service)
            if point.at == last.at
        }
        if len(before) != last.value:
            ctx.unknown(check, f"only {len(before)} of {last.value:g} of the last scan are recorded", optional=True)
            return
        if len(ids) > _MAX_COMPARED or last.value >= _MAX_COMPARED:
            cause = f"only the first {_MAX_COMPARED} are compared with the last scan"
            ctx.unknown(check, cause, hint="use a newer image", optional=True)
            return
        new = [key for key in ids if key not in before]
        hint = f"{', '.join(new[:5])}: not found by the scan of {last.at:%F}" if new else ""
        ctx.check(check, len(new), warn_above=0, hint=hint)
