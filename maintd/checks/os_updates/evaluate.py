"""Updates of a host compared with limits; each hint has the change and where the rule comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from fnmatch import fnmatchcase

from maintd.checks.docker.end_of_life import Software, support_criterion
from maintd.checks.hints import command, name_first
from maintd.checks.os_updates.packages import Packages, Update
from maintd.checks.os_updates.running import Kernel, Reboot, Restarts
from maintd.job.context import Context
from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus
from maintd.units import Duration, duration_text

_NOTIFIERS = frozenset({"update-notifier-common", "unattended-upgrades"})


class Limits:
    """Defaults of the params, which have the same names."""

    pending_fail = timedelta(days=30)
    lists_age = timedelta(days=7)
    reboot_warn = timedelta(days=14)
    reboot_fail = timedelta(days=45)
    support_warn = timedelta(days=90)


def report_packages(
    ctx: Context,
    host: str,
    found: Packages,
    expected_holds: Sequence[str],
    lists_age: Duration,
    pending_fail: Duration,
    now: datetime,
) -> None:
    """Report pending updates and their age, the age of the lists, packages that are held or broken."""
    broken = [f"{each.name}: {each.state}" for each in found.installed if each.state != "installed"]
    hint = f"on the host: dpkg --configure -a; then apt-get -f install: {name_first(broken)}"
    ctx.check(f"{host}: packages that are not fully installed", len(broken), at_most=0, hint=hint, rule="dpkg(1)")
    problem = _report_lists(ctx, host, found, lists_age, now)
    security = [update for update in found.updates if update.security]
    _report_security(ctx, host, found, security, problem, pending_fail, now)
    held = [each for each in found.installed if each.held]
    surprising = [each.name for each in held if not any(fnmatchcase(each.name, one) for one in expected_holds)]
    late = [each.text for each in security if each.package.held]
    ctx.check(
        f"{host}: held packages",
        name_first(surprising) or "none but those expected",
        equals="none but those expected",
        severity=CheckStatus.WARN,
        hint=f"on the host: {command('apt-mark', 'unhold', *surprising[:10])}; or name them in the param "
        "expected_holds",
        rule="apt-mark(8): a held package gets no update",
    )
    hint = f"update by hand in a window: {name_first(late)}"
    name, unknown = f"{host}: held packages with a security update", "" if late else problem
    rule = "apt-mark(8): a hold must not prevent a security update"
    ctx.report([Criterion(name, len(late), at_most=0, unknown=unknown, hint=hint, rule=rule)])
    if not problem:
        ctx.measure("os_updates_pending", len(found.updates), host=host)
        ctx.measure("os_security_updates_pending", len(security), host=host)


def _report_lists(ctx: Context, host: str, found: Packages, lists_age: timedelta, now: datetime) -> str:
    """Report how old the lists are; why what is pending cannot be known from them, if so."""
    name, fetch = f"{host}: lists of packages", "on the host: apt-get update; enable apt-daily.timer"
    problem = ""
    if found.fetched_at is None or not found.sources:
        problem = "empty: apt has no list of packages"
        ctx.unknown(name, problem, expected="fetched", hint=fetch, rule="apt-get(8)")
    else:
        age = now - found.fetched_at
        ctx.check(name, age, warn_above=lists_age, hint=fetch, rule="apt-get(8): what is not fetched is not known")
        if age > lists_age:
            problem = f"empty: the lists were fetched {duration_text(age)} ago"
        elif not any(source.security for source in found.sources):
            problem = "empty: no list is of security updates"
    if found.unread:
        ctx.unknown(
            f"{host}: lists that were read",
            f"unfamiliar: {name_first(found.unread)}",
            expected="all",
            hint='write Acquire::GzipIndexes "false"; into /etc/apt/apt.conf.d/90maintd, then apt-get update',
            rule="apt.conf(5)",
        )
        problem = problem or "partial: not all lists could be read"
    return problem


def _report_security(
    ctx: Context,
    host: str,
    found: Packages,
    security: Sequence[Update],
    problem: str,
    pending_fail: timedelta,
    now: datetime,
) -> None:
    names = sorted({update.package.name for update in security})
    install = command("apt-get", "install", "--only-upgrade", *names[:10])
    what = name_first([update.text for update in security])
    change = f"in a window: {install}: {what}" if security else "add the security archive to /etc/apt/sources.list"
    hint = f"on the host, {change}"
    ctx.report(
        [
            Criterion(
                f"{host}: pending security updates",
                len(security),
                warn_above=0,
                unknown="" if security or not problem else problem,
                hint=hint,
                rule="CIS Debian Linux 12 Benchmark, 1.2.2.1",
            )
        ]
    )
    first_seen: dict[str, float] = {}
    for update in security:
        labels = {"host": host, "package": update.package.name, "version": update.version}
        first = ctx.last("os_security_update_first_seen", None, **labels)
        first_seen[update.text] = now.timestamp() if first is None else first
        ctx.measure("os_security_update_first_seen", first_seen[update.text], "s", **labels)
    oldest = min(first_seen.values(), default=now.timestamp())
    late = [text for text, at in first_seen.items() if at == oldest]
    criterion = Criterion(
        f"{host}: oldest pending security update",
        timedelta(seconds=max(now.timestamp() - oldest, 0)),
        at_most=pending_fail,
        unknown="" if security else problem,
        hint=f"install {name_first(late)}: since maintd first saw it; when it was published is not in apt's lists",
        rule="CIS Controls 8, 7.3: monthly",
    )
    ctx.report([criterion])


def report_support(
    ctx: Context, host: str, release: Mapping[str, str], ends: date | None, warn: timedelta, now: datetime
) -> None:
    """Report the end of the distribution's support."""
    product, version = release.get("ID", ""), release.get("VERSION_ID", "")
    name = f"{host}: {product or 'distribution'}"
    overrides = {product: {version: ends}} if ends is not None and version else {}
    criterion = support_criterion(name, Software(product, version), overrides, now.date(), warn, timedelta(days=400))
    if criterion is not None:
        ctx.report([criterion])


def report_reboot(
    ctx: Context,
    host: str,
    reboot: Reboot | None,
    kernel: Kernel | None,
    warn: timedelta,
    fail: timedelta,
    installed: Sequence[str],
    now: datetime,
) -> None:
    """Report which kernel runs, and since when a reboot is required. None: not observed, and reported already.

    `installed`: packages; some create /run/reboot-required, and without them its absence shows nothing.
    """
    since: list[datetime] = []
    by: list[str] = []
    if kernel is not None:
        old = bool(kernel.newest) and kernel.newest != kernel.running
        if kernel.newest:
            hint = f"reboot the host in a window: {kernel.newest} is installed"
            name, rule = f"{host}: running kernel", "uname(1): an update works after a reboot"
            ctx.check(name, kernel.running, equals=kernel.newest, severity=CheckStatus.WARN, hint=hint, rule=rule)
        else:
            cause = f"not_found: no kernel like {kernel.running} is in /boot"
            hint = "mount /boot of the host; a container host without its own kernel has none"
            ctx.unknown(f"{host}: running kernel", cause, expected="the newest", hint=hint, optional=True)
        if old and kernel.installed_at is not None:
            since.append(kernel.installed_at)
            by.append(f"linux-image-{kernel.newest}")
    if reboot is not None and reboot.required:
        by += reboot.packages or ("a package that is not named",)
        if reboot.since is not None:
            since.append(reboot.since)
    name = f"{host}: a reboot is due for"
    if reboot is None and not since:
        return
    if not since and not (kernel is not None and kernel.newest) and _NOTIFIERS.isdisjoint(installed):
        cause = "empty: no package that creates /run/reboot-required is installed, and no kernel in /boot shows it"
        ctx.unknown(
            name, cause, expected="none", hint="on the host: apt-get install unattended-upgrades", optional=True
        )
        return
    ctx.check(
        name,
        max(now - min(since, default=now), timedelta(0)),
        at_most=fail,
        warn_above=warn,
        hint=f"reboot the host in a window, because of {name_first(by) or 'nothing'}",
        rule="/run/reboot-required",
    )


def report_restarts(ctx: Context, host: str, found: Restarts) -> None:
    """Report services that use files which an update has replaced."""
    name, services = f"{host}: services to restart", sorted(found.services)
    if services:
        text = [f"{service} has {min(found.services[service])}" for service in services]
        units = [service for service in services if service.endswith(".service")]
        what = command("systemctl", "restart", *units[:10]) if units else "restart them"
        ctx.check(
            name,
            len(services),
            warn_above=0,
            hint=f"on the host, in a window: {what}: {name_first(text)}",
            rule="needrestart(1)",
        )
    elif found.unread or not found.read:
        cause = f"denied: {found.unread} processes could not be read" if found.unread else "empty: no process was read"
        ctx.unknown(name, cause, expected="none", hint="run needrestart -b on the host as root", optional=True)
    else:
        ctx.check(name, 0, warn_above=0)
