"""Settings of the kernel against a profile, now and at the next start, and the files to write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Self

from pydantic import model_validator

from maintd.checks.hints import name_first
from maintd.checks.host.mounted import has_root, not_mounted, shares_network
from maintd.checks.limits import Limits
from maintd.checks.probes import value_or_error
from maintd.clients import sysctl
from maintd.clients.sysctl import Assignment, BootSettings
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.job.references import resolved
from maintd.model.evidence import CheckStatus
from maintd.model.target import HostTarget

DROP_IN = "/etc/sysctl.d/90-maintd.conf"
"""Written by a person, from the artifact."""
TMPFILES = "/etc/tmpfiles.d/90-maintd.conf"
"""The same for transparent huge pages, which are no sysctl."""


class Setting(Limits):
    """What a setting must be: one of the three limits, and where the rule comes from."""

    equals: int | None = None
    at_most: int | None = None
    at_least: int | None = None
    default: int | None = None
    """The kernel's own value: a setting that has it, and that no file sets, is kept over a restart."""
    source: str = "params of the job"
    """Where the rule comes from, with its section."""

    @model_validator(mode="after")
    def _has_one_limit(self) -> Self:
        if len([limit for limit in self._limits if limit is not None]) != 1:
            raise ValueError("give one of equals, at_most and at_least")
        return self

    @property
    def _limits(self) -> tuple[int | None, ...]:
        return self.equals, self.at_most, self.at_least

    @property
    def text(self) -> str:
        """The limit in words."""
        if self.equals is not None:
            return str(self.equals)
        return f"at most {self.wanted}" if self.at_most is not None else f"at least {self.wanted}"

    @property
    def wanted(self) -> int:
        """The value to write."""
        return next(limit for limit in self._limits if limit is not None)

    def allows(self, value: int) -> bool:
        """Whether a value meets the limit."""
        if self.equals is not None:
            return value == self.equals
        return value <= self.wanted if self.at_most is not None else value >= self.wanted


PROFILE: Mapping[str, Setting] = {
    "vm.swappiness": Setting(
        at_most=10, default=60, source="runbook, Infrastructure Optimization: databases stay in memory"
    ),
    "vm.overcommit_memory": Setting(
        equals=1, default=0, source="Redis documentation, Administration: a snapshot forks"
    ),
    "net.core.somaxconn": Setting(at_least=511, default=4096, source="Redis documentation, tcp-backlog"),
    "vm.dirty_background_ratio": Setting(at_most=10, default=10, source="kernel documentation, sysctl/vm"),
    "vm.dirty_ratio": Setting(at_most=20, default=20, source="kernel documentation, sysctl/vm"),
    "vm.zone_reclaim_mode": Setting(equals=0, default=0, source="kernel documentation, sysctl/vm: not for databases"),
}
"""Settings that a host of databases and services must have, unless a site's params differ."""

HUGE_PAGE_MODES = ("madvise", "never")
_HUGE_PAGES_SOURCE = "Redis documentation, Latency; madvise leaves the choice to each program"


@dataclass(frozen=True)
class KernelFacts:
    """The values by key, the mode of huge pages, and what the files set."""

    values: Mapping[str, int | TargetError]
    huge_pages: str | TargetError
    boot: BootSettings | TargetError


def collect(target: HostTarget, keys: Iterable[str]) -> KernelFacts:
    """Read the settings of a host; an error is in the place of its value."""
    host = resolved(target)
    return KernelFacts(
        values={key: value_or_error(partial(_running, host, key)) for key in keys},
        huge_pages=value_or_error(lambda: sysctl.huge_pages(host.root)),
        boot=value_or_error(lambda: _boot_settings(host)),
    )


def _boot_settings(host: HostTarget) -> BootSettings:
    if not has_root(host):
        raise not_mounted("what its files set")
    return sysctl.boot_settings(host.root)


def _running(host: HostTarget, key: str) -> int:
    if key.startswith("net.") and not shares_network(host):
        raise TargetError(
            f"{key} is of a network namespace, and this process is not in that of the host",
            f"run the container of maintd with network_mode: host and the host's /proc, or read it there: sysctl {key}",
            cause="not_configured",
        )
    return sysctl.running(host.proc, key)


def report(ctx: Context, name: str, facts: KernelFacts, profile: Mapping[str, Setting], modes: tuple[str, ...]) -> None:
    """Report each setting, and save the files that would correct those that are not as they must be."""
    subject = f"host {name}"
    lines = []
    for key, setting in profile.items():
        value = facts.values[key]
        is_right = _report_value(ctx, subject, key, setting, value)
        is_kept = _report_kept(ctx, subject, key, setting, value, facts.boot) if is_right else False
        if not (is_right and is_kept) and not isinstance(value, TargetError):
            lines.append(f"# {setting.source}\n{key} = {value if is_right else setting.wanted}\n")
    if modes:
        _report_huge_pages(ctx, subject, name, facts.huge_pages, modes)
    if lines:
        text = f"# Write this to {DROP_IN} of {name}, then run: sysctl --system\n\n" + "\n".join(lines)
        ctx.save(f"{name}.sysctl.conf", text)
    if isinstance(facts.boot, BootSettings):
        _report_vain(ctx, subject, facts.boot)


def _report_value(ctx: Context, subject: str, key: str, setting: Setting, value: int | TargetError) -> bool:
    check = f"{subject}: {key}"
    if isinstance(value, TargetError):
        # Facts of the site: another network namespace, or a kernel that has no such setting.
        of_site = value.cause == "not_configured" or (value.cause == "not_found" and key in PROFILE)
        text, hint = f"{value.cause}: {value.message}", value.hint or ""
        ctx.unknown(check, text, expected=setting.text, hint=hint, optional=of_site)
        return False
    ctx.measure("kernel_setting", value, "", host=subject.removeprefix("host "), setting=key)
    found = ctx.check(
        check,
        value,
        equals=setting.equals,
        at_most=setting.at_most,
        at_least=setting.at_least,
        severity=CheckStatus.WARN,
        hint=f"write {key} = {setting.wanted} to {DROP_IN}, then run: sysctl --system",
        rule=setting.source,
    )
    return found.status is CheckStatus.OK


def _report_kept(
    ctx: Context, subject: str, key: str, setting: Setting, value: int | TargetError, boot: BootSettings | TargetError
) -> bool:
    """Report whether a value that is right now is so after the next start, too."""
    check, expected = f"{subject}: {key} after a restart", "as now"
    if isinstance(boot, TargetError):
        optional = boot.cause == "not_configured"
        ctx.unknown(check, f"{boot.cause}: {boot.message}", expected=expected, hint=boot.hint or "", optional=optional)
        return False
    change = f"write {key} = {value} to {DROP_IN}"
    assignment = boot.last.get(key)
    if assignment is None:
        is_default = value == setting.default
        text = "the kernel's default" if is_default else "set in no file"
        return _kept(ctx, check, text, change, is_kept=is_default)
    number = assignment.number
    is_kept = number is not None and setting.allows(number)
    return _kept(ctx, check, f"{assignment.value} by {assignment.place}", change, is_kept=is_kept)


def _kept(ctx: Context, check: str, text: str, change: str, *, is_kept: bool) -> bool:
    if is_kept:
        ctx.passed(check, text, expected="as now")
    else:
        hint = f"{change}, so that it does not end with the next start"
        ctx.check(check, text, equals="as now", severity=CheckStatus.WARN, hint=hint, rule="sysctl.d(5)")
    return is_kept


def _report_huge_pages(ctx: Context, subject: str, name: str, mode: str | TargetError, modes: tuple[str, ...]) -> None:
    check = f"{subject}: transparent huge pages"
    if isinstance(mode, TargetError):
        ctx.report_error(check, mode, expected=" or ".join(modes))
        return
    line = f"w /sys/{sysctl.HUGE_PAGES} - - - - {modes[0]}"
    hint = f"write the line `{line}` to {TMPFILES}, then run: systemd-tmpfiles --create"
    found = ctx.check(check, mode, one_of=modes, severity=CheckStatus.WARN, hint=hint, rule=_HUGE_PAGES_SOURCE)
    if found.status is not CheckStatus.OK:
        ctx.save(f"{name}.tmpfiles.conf", f"# Write this to {TMPFILES} of {name}\n{line}\n")


def _report_vain(ctx: Context, subject: str, boot: BootSettings) -> None:
    """Report lines that have no effect: a command that appends to a file at every run leaves them."""
    for what, items, change in (
        ("settings given twice in a file", boot.repeated, "delete the earlier lines"),
        (
            "settings that no start reads",
            boot.not_read,
            f"move them to {DROP_IN}: systemd does not read this file",
        ),
    ):
        hint = f"{change}: {name_first(list(_places(items)))}" if items else ""
        ctx.check(f"{subject}: {what}", len(items), warn_above=0, hint=hint, rule="sysctl.d(5)")


def _places(items: Iterable[Assignment]) -> Iterator[str]:
    for item in items:
        yield f"{item.key} in {item.place}"
