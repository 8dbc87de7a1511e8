"""Checks of a host's accounts, keys, groups and rights by sudo, and their rows of the table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from maintd.checks.access.accounts import WEAK, Account, Accounts, Password, read_accounts
from maintd.checks.access.kept_logins import KeptLogins
from maintd.checks.access.keys import Key, Keys, read_keys
from maintd.checks.access.sudoers import Sudoers, read_sudoers
from maintd.checks.access.table import Access
from maintd.checks.hints import command, name_first, printable
from maintd.errors import TargetError
from maintd.job.causes import Role
from maintd.job.context import Context
from maintd.job.criterion import Criterion
from maintd.model.evidence import CheckStatus

GROUPS = ("root", "sudo", "wheel", "admin", "docker", "adm", "lxd", "libvirt", "disk", "shadow", "systemd-journal")
"""Groups whose members have the rights of root, or read what only root should."""

_MEANING = {
    "docker": "has the rights of root",
    "lxd": "has the rights of root",
    "disk": "reads and writes all disks",
    "sudo": "runs commands as root",
    "wheel": "runs commands as root",
    "admin": "runs commands as root",
    "shadow": "reads the hashes of passwords",
}
_PWCK = "compare etc/passwd and etc/shadow with: pwck -r; in a copy without hashes, keep their kind, such as $y$"
_DORMANT = "PCI DSS 4.0.1, 8.2.6: inactive accounts are disabled within 90 days"
_CIS = "CIS Debian Linux 12 Benchmark 1.1.0"


def report(
    ctx: Context, host: str, root: Path, kept: KeptLogins | None, groups: Sequence[str], unused: timedelta
) -> tuple[list[Access], str]:
    """Read and check a host; return what is to be signed off, and what of its groups and sudo rules was not read.

    kept: None where its logins are not reviewed.

    Raises TargetError when its accounts cannot be read.
    """
    found, place = read_accounts(root), f"host {host}"
    damaged = name_first([*found.damaged])
    if damaged:
        ctx.unknown(f"{place}: lines of passwd and group", f"unfamiliar: {damaged}", expected="understood")
    unread = [f"not understood: {damaged}"] if damaged else []
    people = [each for each in found.accounts if each.has_shell and not each.is_system]
    keys = read_keys(root, found.accounts)
    _report_accounts(ctx, place, found)
    _report_passwords(ctx, place, found)
    _report_keys(ctx, place, keys)
    _report_unused(ctx, place, people, keys, kept, unused)
    result = [_account(each, kept) for each in people]
    result += [_account(each, kept) for each in found.accounts if each.has_shell and each.is_system]
    result += [_key(place, each, kept) for each in keys.keys]
    for group in groups:
        for member in found.groups.get(group, ()):
            meaning = _MEANING.get(group, "a group with rights")
            result.append(Access("group member", place, f"{group}: {member}", meaning, _used(kept, member)))
    result = [each if each.place else Access(each.kind, place, each.name, each.rights, each.used) for each in result]
    try:
        rights = read_sudoers(root)
    except TargetError as error:
        if error.cause == "not_found":
            ctx.passed(f"{place}: sudoers", "sudo is not installed", expected="readable")
        else:
            ctx.report_error(f"{place}: sudoers", error, expected="readable", role=Role.SOURCE)
            unread.append("sudoers")
        return result, "; ".join(unread)
    unread += [name_first([printable(each) for each in (*rights.unread, *rights.damaged)])]
    return result + _report_sudoers(ctx, place, rights), "; ".join(filter(None, unread))


def _warn(
    ctx: Context, name: str, found: Iterable[str], hint: str, rule: str, *, fail: bool = False, unseen: str = ""
) -> None:
    """A check that nothing is found. unseen: what was not read, so that it is not known whether there is none."""
    names = [printable(each) for each in found]
    if unseen and not names:
        advice = "see what could not be read in the other checks of this host"
        ctx.unknown(name, f"partial: {unseen}", expected="none", hint=advice, rule=rule)
        return
    ctx.check(
        name,
        name_first(names) or "none",
        equals="none",
        severity=CheckStatus.FAIL if fail else CheckStatus.WARN,
        hint=hint if names else "",
        rule=rule,
    )


def _report_accounts(ctx: Context, place: str, found: Accounts) -> None:
    lines = [line for line in found.damaged if line.startswith("passwd")]
    unseen = f"not understood: {name_first(lines)}" if lines else ""
    roots = [each.name for each in found.accounts if each.uid == 0 and each.name != "root"]
    change = f"on the host: {command('userdel', roots[0])}" if roots else ""
    _warn(ctx, f"{place}: accounts with uid 0 beside root", roots, change, f"{_CIS}, 5.4.2.1", fail=True, unseen=unseen)
    system = [each.name for each in found.accounts if each.is_system and each.has_shell]
    change = f"on the host: {command('usermod', '-s', '/usr/sbin/nologin', system[0])}" if system else ""
    _warn(ctx, f"{place}: system accounts with a shell", system, change, f"{_CIS}, 5.4.2.7", unseen=unseen)


def _report_passwords(ctx: Context, place: str, found: Accounts) -> None:
    shadow: dict[str, Password] = {}
    unseen: list[str] = []
    if isinstance(found.passwords, TargetError):
        error = found.passwords
        ctx.unknown(
            f"{place}: passwords",
            f"{error.cause}: {error.message}",
            expected="readable",
            hint="optional: a copy that maintd may read is enough, with each hash cut after its kind, such as $y$",
            optional=True,
        )
    else:
        shadow = found.passwords
        unseen = [f"{printable(name)}: damaged line" for name in found.damaged_passwords]
        unseen += [
            f"{printable(each.name)}: no line"
            for each in found.accounts
            if each.has_shell and each.password is None and each.name not in {*shadow, *found.damaged_passwords}
        ]
    known = [
        (each.name, password)
        for each in found.accounts
        if (password := each.password or shadow.get(each.name)) is not None
    ]

    unclear = [f"{printable(name)}: no known kind of hash" for name, each in known if each.kind == "unfamiliar"]

    def report_found(
        title: str, names: Sequence[str], change: str, rule: str, *, fail: bool = False, more: Sequence[str] = ()
    ) -> None:
        name, missing = f"{place}: {title}", [*unseen, *more]
        if names or not (missing or isinstance(found.passwords, TargetError)):
            _warn(ctx, name, names, change, rule, fail=fail)
        elif missing:
            ctx.unknown(name, f"partial: shadow: {name_first(missing)}", expected="none", hint=_PWCK)

    empty = [name for name, each in known if each.kind == "empty"]
    change = f"on the host: {command('passwd', '-l', empty[0])}" if empty else ""
    report_found("empty passwords", empty, change, f"{_CIS}, 7.2.2", fail=True)
    endless = [name for name, each in known if each.usable and each.expires is False]
    change = (
        f"on the host: {command('chage', '-M', '365', endless[0])}; or lock it, where keys are used" if endless else ""
    )
    report_found("passwords that never expire", endless, change, f"{_CIS}, 5.4.1.1")
    weak = [f"{name}: {each.kind}" for name, each in known if each.kind in WEAK]
    change = "set ENCRYPT_METHOD YESCRYPT in /etc/login.defs, then let them change it with passwd"
    report_found("passwords with a weak hash", weak, change, f"{_CIS}, 5.4.1.4", more=unclear)
    if unseen or unclear:
        seen = f"partial: shadow: {name_first([*unseen, *unclear])}"
        ctx.unknown(f"{place}: passwords", seen, expected="a line each", hint=_PWCK)


def _report_keys(ctx: Context, place: str, keys: Keys) -> None:
    weak = [f"{each.user}: {each.weak} {each.fingerprint}" for each in keys.keys if each.weak]
    change = "let the person make a new one with: ssh-keygen -t ed25519; then delete the line"
    shown, rule = _unread_keys(keys), "OpenSSH 7.0 release notes; NIST SP 800-131A Rev. 2"
    _warn(ctx, f"{place}: weak keys", weak, change, rule, unseen=shown)
    if shown:
        cause = "denied" if any("denied" in each for each in keys.unread) else "unfamiliar"
        hint = "let maintd read the files, or correct these lines"
        ctx.unknown(f"{place}: keys in authorized_keys", f"{cause}: {shown}", expected="readable", hint=hint)
    else:
        ctx.passed(f"{place}: keys in authorized_keys", f"{len(keys.keys)} read", expected="readable")


def _unread_keys(keys: Keys) -> str:
    return name_first([*keys.unread, *keys.damaged, *(["more than 1000 keys"] if keys.cut else [])])


def _report_unused(
    ctx: Context, place: str, people: Sequence[Account], keys: Keys, kept: KeptLogins | None, unused: timedelta
) -> None:
    """An account or key is only known to be unused if the reviews of the logs have seen all of that time."""
    if kept is None:
        return
    since, limit = kept.since, ctx.now() - unused
    cause = ""
    if since is None:
        cause = "empty: security_log_review has kept no login yet"
    elif since > limit:
        cause = f"empty: logins are kept without a gap only since {since:%Y-%m-%d}"
    elif kept.until is not None and kept.until < ctx.now() - timedelta(days=2):
        cause = f"empty: the last complete review of logins was until {kept.until:%Y-%m-%d}"

    def late(last: datetime | None) -> bool:
        return last is None or last < limit

    days = f"{unused.days} days"
    names = [each.name for each in people if late(kept.last_of_user(each.name))]
    hint = f"ask, then on the host: {command('usermod', '-L', '-e', '1', names[0])}" if names else ""
    _unused(ctx, f"{place}: accounts with a shell and no login for {days}", names, cause, hint)
    old = [each for each in keys.keys if late(kept.last_of_key(each.fingerprint, each.md5))]
    hint = f"ask, then delete the line from the authorized_keys of {printable(old[0].user)}" if old else ""
    shown = [f"{each.user}: {each.fingerprint} {each.comment}".strip() for each in old]
    _unused(ctx, f"{place}: keys that were not used for {days}", shown, cause, hint, _unread_keys(keys))


def _unused(ctx: Context, name: str, found: Sequence[str], cause: str, hint: str, unseen: str = "") -> None:
    """unseen: what was not read of what could be unused."""
    shown = name_first([printable(each) for each in found]) or "none"
    unknown = cause if found else f"partial: {unseen}" if unseen else ""
    if unknown and not found:
        hint = "see what could not be read in the other checks of this host"
    elif unknown:
        hint = "it is known once security_log_review has reviewed all of that time without a gap"
    ctx.report(
        [Criterion(name, shown, equals="none", unknown=unknown, severity=CheckStatus.WARN, hint=hint, rule=_DORMANT)]
    )


def _report_sudoers(ctx: Context, place: str, found: Sudoers) -> list[Access]:
    if found.unread or found.damaged:
        cause = "denied" if any("denied" in each for each in found.unread) else "unfamiliar"
        shown = name_first([printable(each) for each in (*found.unread, *found.damaged)])
        hint = "let maintd read all of them; check them with: visudo -c"
        ctx.unknown(f"{place}: sudoers", f"{cause}: {shown}", expected="readable", hint=hint)
    else:
        ctx.passed(f"{place}: sudoers", f"{found.read} files read", expected="readable")
    free = sorted({f"{each.who}: {each.text}, {each.file}" for each in found.grants if each.no_password})
    hint = "remove NOPASSWD with: visudo -f FILE; for a program, list exact commands"
    name = f"{place}: sudo without a password"
    if not free and (found.unread or found.damaged):
        ctx.unknown(name, "partial: a part of sudoers was not read or not understood", expected="none")
    else:
        _warn(ctx, name, free, hint, f"{_CIS}, 5.2.4")
    return [Access("sudo rule", place, each.who, f"{each.rule}, {each.file}", rule=each.rule) for each in found.grants]


def _used(kept: KeptLogins | None, user: str) -> str:
    return "unknown" if kept is None or kept.since is None else _day(kept.last_of_user(user), kept.since)


def _day(last: datetime | None, since: datetime) -> str:
    return f"{last:%Y-%m-%d}" if last is not None else f"not since {since:%Y-%m-%d}"


def _account(account: Account, kept: KeptLogins | None) -> Access:
    kind = "system account" if account.is_system else "account"
    rights = f"uid {account.uid}, {account.shell or '/bin/sh'}"
    return Access(kind, "", account.name, rights, _used(kept, account.name))


def _key(place: str, key: Key, kept: KeptLogins | None) -> Access:
    rights = ", ".join(filter(None, (key.type, key.comment, key.options and f"options {key.options}", key.weak)))
    used = "unknown"
    if kept is not None and kept.since is not None:
        used = _day(kept.last_of_key(key.fingerprint, key.md5), kept.since)
    return Access("key", place, f"{key.user}: {key.fingerprint}", rights, used)
