"""Checks of the month's logins, of basic authentication and of maintd's own tokens, and the logins of the report."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

from maintd.checks.access.accounts import MAX_BYTES, WEAK, kind_of
from maintd.checks.access.kept_logins import KeptLogins, Login
from maintd.checks.access.table import Access
from maintd.checks.hints import command, name_first, printable
from maintd.clients.rooted_files import RootedFiles
from maintd.job.context import Context
from maintd.job.criterion import Criterion
from maintd.model.access import Token, TokenState
from maintd.model.evidence import CheckStatus
from maintd.reports.document import Cell, Line, Section, Table, columns
from maintd.reports.formatting import instant

_SHOWN = 200
_DORMANT = "PCI DSS 4.0.1, 8.2.6: inactive accounts are disabled within 90 days"


def report_logins(ctx: Context, kept: KeptLogins, period: timedelta) -> None:
    """Check that all of the period was reviewed, and name what is new in it."""
    begin, name = ctx.now() - period, "logins: kept by the daily reviews"
    hint = "security_log_review keeps them from its first complete run on: maintd trigger morning-health-check"
    if kept.since is None or kept.until is None:
        ctx.unknown(name, "not_configured: none is kept yet", expected="the whole period", hint=hint, optional=True)
    elif kept.since > begin or kept.until < ctx.now() - timedelta(days=2):
        seen = f"partial: without a gap from {instant(kept.since)} until {instant(kept.until)}"
        ctx.unknown(name, seen, expected=f"since {instant(begin)}", hint=hint)
    elif kept.others or kept.not_understood:
        seen = f"partial: {kept.others} not kept by user, {kept.not_understood} not understood"
        ctx.unknown(name, seen, expected="all", hint="see the findings of security_log_review: maintd findings")
    else:
        ctx.passed(name, f"since {instant(kept.since)}", expected="the whole period")
    recent = [each for each in kept.logins if each.count]
    new = [each for each in recent if is_new(each, kept, period, ctx)]
    shown = [printable(f"{each.user} from {each.source}, {each.method} {each.key}".strip()) for each in new]
    cause = ""
    if kept.since is None:
        cause = "not_configured: no login is kept yet"
    elif kept.since >= begin and not new:
        cause = f"empty: logins are kept without a gap only since {instant(kept.since)}"
    ctx.report(
        [
            Criterion(
                "logins: new users, sources and keys of the month",
                name_first(shown) or "none",
                equals="none",
                unknown=cause,
                severity=CheckStatus.WARN,
                hint="ask whether it was them" if new else "",
                rule="CIS Controls 8.1, 8.11: audit logs are reviewed",
                optional=kept.since is None,
            )
        ]
    )
    ctx.measure("access_logins", sum(each.count for each in recent))
    evidence = [
        {
            "user": printable(each.user),
            "source": each.source,
            "key": each.key,
            "method": each.method,
            "logins": each.count,
            "first_seen": each.first.isoformat(),
            "last_seen": each.last.isoformat(),
        }
        for each in kept.logins
    ]
    ctx.save("access-logins.json", json.dumps(evidence, indent=1), "application/json")


def is_new(login: Login, kept: KeptLogins, period: timedelta, ctx: Context) -> bool:
    """Whether it was first seen in the period, and maintd has watched for longer than that."""
    begin = ctx.now() - period
    return login.first >= begin and kept.since is not None and kept.since < begin


def logins_section(ctx: Context, kept: KeptLogins, period: timedelta) -> Section:
    """The logins of the period, the most frequent first."""
    recent = sorted((each for each in kept.logins if each.count), key=lambda each: (-each.count, each.user))
    rows = tuple(
        (
            Cell(printable(each.user)),
            Cell(each.source),
            Cell(each.key or "–"),
            Cell(each.method),
            Cell(f"{each.count:,}", each.count),
            Cell(f"{each.first:%Y-%m-%d}"),
            Cell(f"{each.last:%Y-%m-%d}"),
            Cell("new" if is_new(each, kept, period, ctx) else ""),
        )
        for each in recent[:_SHOWN]
    )
    titles = columns("User", "Source", "Key", "Method", "Logins>", "First seen", "Last seen", "New")
    window = f"kept by security_log_review; last {period.days} days"
    total = sum(each.count for each in recent)
    known = kept.since is not None
    line = Line("Logins", f"{total:,}" if known else "not known", window, total if known else None)
    since = f"kept since {instant(kept.since)}" if kept.since else "none is kept yet"
    cut = (f"{len(recent) - _SHOWN} more are in access-logins.json",) if len(recent) > _SHOWN else ()
    table = Table("By user, source, key and method", titles, rows, f"No login in this time; {since}.")
    return Section("Logins", lines=(line,), tables=(table,), notes=(f"{window}; {since}.", *cut))


def report_basic_auth(ctx: Context, path: Path) -> list[Access]:
    """Check the kinds of hash in a file of basic authentication; nothing of a hash is kept. Raises TargetError."""
    place, weak, damaged, result = f"basic auth {path}", list[str](), 0, list[Access]()
    for line in RootedFiles(path.parent).lines(path.name, MAX_BYTES):
        if not line.strip() or line.startswith("#"):
            continue
        name, separator, field = line.strip().partition(":")
        kind = kind_of(field.partition(":")[0])
        if not separator or not name or kind in ("unfamiliar", "locked"):
            damaged += 1
            continue
        result.append(Access("basic auth", place, name, f"{kind} hash"))
        if kind in (*WEAK, "apr1-md5", "empty"):
            weak.append(f"{printable(name)}: {kind}")
    if damaged:
        ctx.unknown(f"{place}: readable", f"unfamiliar: {damaged} lines", expected="NAME:HASH")
    else:
        ctx.passed(f"{place}: readable", f"{len(result)} names", expected="NAME:HASH")
    ctx.report(
        [
            Criterion(
                f"{place}: weak hashes",
                name_first(weak) or "none",
                equals="none",
                unknown=f"partial: {damaged} lines were not understood" if damaged and not weak else "",
                severity=CheckStatus.WARN,
                hint=command("htpasswd", "-B", str(path), weak[0].partition(":")[0]) if weak else "",
                rule="OWASP Password Storage Cheat Sheet: MD5, SHA-1 and DES are not for passwords",
            )
        ]
    )
    return result


def report_tokens(ctx: Context, unused: timedelta) -> list[Access]:
    """Check the use of maintd's own tokens that are valid."""
    if ctx.tokens is None:
        ctx.unknown("maintd: tokens", "not_configured: without a store", expected="readable", optional=True)
        return []
    now = ctx.now()
    valid = [each for each in ctx.tokens if each.state_at(now) is TokenState.VALID]
    old = [each.name for each in valid if now - (each.last_used_at or each.created_at) >= unused]
    ctx.check(
        f"maintd: tokens that were not used for {unused.days} days",
        name_first(old) or "none",
        equals="none",
        severity=CheckStatus.WARN,
        hint=command("maintd", "token", "revoke", old[0]) if old else "",
        rule=_DORMANT,
    )
    return [Access("token", "maintd", each.name, _rights(each), _last_use(each)) for each in valid]


def _rights(token: Token) -> str:
    holder = f"held by {token.person}" if token.person else "of a program"
    return f"{token.role}, {holder}, expires {token.expires_at:%Y-%m-%d}"


def _last_use(token: Token) -> str:
    return f"{token.last_used_at:%Y-%m-%d}" if token.last_used_at else "never"
