"""How much disk the host's journal takes, by journald's own limits, and making it smaller where that is asked for.

Source: journald.conf(5) for the places, the precedence and the defaults of the settings.
"""

from __future__ import annotations

import configparser
from datetime import timedelta
from pathlib import Path
from shutil import disk_usage, which

from maintd.checks.hints import command
from maintd.checks.limits import Limits
from maintd.clients.files import shown
from maintd.clients.rooted_files import RootedFiles
from maintd.clients.shell import Command, run
from maintd.errors import TargetError
from maintd.job.context import Context
from maintd.units import Duration, Size, duration_text, format_size

FOLDER = "var/log/journal"
_CONFIG = "systemd/journald.conf"
_MOST_BYTES = 1 << 20  # of one file of settings
_BY_PRECEDENCE = ("etc", "run", "usr/local/lib", "usr/lib", "lib")
_DEFAULT_SHARE, _DEFAULT_MOST = 0.10, 4 << 30  # of the file system, and bytes: SystemMaxUse when it is not set
_FILES_OF_LIMIT = 8  # SystemMaxFileSize is an eighth of SystemMaxUse: the newest file may be that far above the limit
_SUFFIXES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50, "E": 1 << 60}
_VACUUM_TIMEOUT = timedelta(minutes=5)


class JournalLimits(Limits):
    """What the journal may take. `keep_bytes` and `keep` delete archived files of the journal; without them none."""

    path: Path | None = None
    """Folder of the journal; default: the host's `/var/log/journal`."""
    keep_bytes: Size | None = None
    """Archived files are deleted, the oldest first, until the journal is not larger."""
    keep: Duration | None = None
    """Archived files with only older entries are deleted."""


def report_journal(ctx: Context, host: str, root: Path, limits: JournalLimits) -> None:
    """Check the size of the journal by its limit, and delete archived files where the limits ask for it."""
    place = limits.path or _folder(root)
    check = f"{host}: journal"
    settings = read_settings(root)
    try:
        size = size_of(place)
    except TargetError as error:
        if error.cause != "empty":
            ctx.report_error(check, error)
        elif settings.get("Storage", "auto").lower() == "persistent":
            ctx.report_error(check, TargetError(error.message, "restart systemd-journald", cause="not_configured"))
        else:
            ctx.log(f"{check}: none on disk (Storage={settings.get('Storage', 'auto')})")
        return
    try:
        limit, origin = limit_of(settings, place)
    except ValueError as error:
        hint = "correct it; journald ignores it, and uses its default"
        ctx.unknown(check, f"SystemMaxUse: {error}", expected="a size", hint=hint)
        limit, origin = limit_of({}, place)
    if limits.keep_bytes is not None or limits.keep is not None:
        size = _vacuum(ctx, check, place, size, limits)
    hint = f"journald does not keep its limit ({origin}): run {command('journalctl', '--verify')}"
    ctx.check(check, size, warn_above=limit + limit // _FILES_OF_LIMIT, unit="B", hint=hint)
    ctx.measure("journal_bytes", size, "B", host=host)


def _folder(root: Path) -> Path:
    """The folder without links, since journalctl reads it, too."""
    try:
        return RootedFiles(root).resolved(FOLDER)
    except TargetError as error:
        if error.cause == "not_found":
            return root / FOLDER
        raise


def size_of(place: Path) -> int:
    """Bytes on disk of all journals below a folder. Raises TargetError, with cause `empty` when there are none."""
    total, found = 0, False
    try:
        for folder in (place, *(one for one in place.iterdir() if one.is_dir() and not one.is_symlink())):
            for path in folder.iterdir():
                if path.name.endswith((".journal", ".journal~")):
                    total += path.lstat().st_blocks * 512
                    found = True
    except FileNotFoundError as error:
        if not place.exists():
            raise TargetError(f"{shown(place)}: no journal", cause="empty") from error
        raise TargetError(f"{shown(place)}: a file went away while it was read", cause="partial") from error
    except OSError as error:
        hint = "mount the host's /var/log/journal, and add this process' user to the group systemd-journal"
        raise TargetError(f"{shown(place)}: {error.strerror}", hint, cause="denied") from error
    if not found:
        raise TargetError(f"{shown(place)}: no journal", cause="empty")
    return total


def read_settings(root: Path) -> dict[str, str]:
    """journald's settings: the first main file by precedence, then drop-ins by name, of which the last wins.

    Raises TargetError for a file that cannot be read: it could have the limit.
    """
    files = RootedFiles(root, "let maintd's user read it")
    mains = (f"{folder}/{_CONFIG}" for folder in _BY_PRECEDENCE)
    main = next((name for name in mains if files.exists(name)), None)
    drop_ins: dict[str, str] = {}
    for folder in reversed(_BY_PRECEDENCE):
        drop_ins |= {name.rpartition("/")[2]: name for name in files.glob(f"{folder}/{_CONFIG}.d/*.conf")}
    found: dict[str, str] = {}
    for name in (*((main,) if main else ()), *(drop_ins[each] for each in sorted(drop_ins))):
        parser = configparser.RawConfigParser(strict=False, delimiters=("=",), comment_prefixes=("#", ";"))
        parser.optionxform = str  # type: ignore[method-assign, assignment]  # names of systemd keep their case
        try:
            parser.read_string(files.read(name, _MOST_BYTES).decode("utf-8", "surrogateescape"))
        except configparser.Error:
            continue
        if parser.has_section("Journal"):
            found |= dict(parser.items("Journal"))
    return {name: value.strip() for name, value in found.items() if value.strip()}


def limit_of(settings: dict[str, str], place: Path) -> tuple[int, str]:
    """The limit in bytes, and where it comes from. Raises ValueError for a setting that is no size."""
    text = settings.get("SystemMaxUse")
    if text is not None:
        number, suffix = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
        if suffix == "B":
            number, suffix = (number[:-1], number[-1:].upper()) if number[-1:].isalpha() else (number, "")
        if suffix not in _SUFFIXES or not number.strip().isascii() or not number.strip().isdigit():
            raise ValueError(f'"{shown(text)}" is no size')
        return int(number) * _SUFFIXES[suffix], f"SystemMaxUse={text}"
    return min(int(disk_usage(place).total * _DEFAULT_SHARE), _DEFAULT_MOST), "the default of SystemMaxUse"


def _vacuum(ctx: Context, check: str, place: Path, size: int, limits: JournalLimits) -> int:
    """Delete archived files by journalctl; return the size afterwards, as it is seen on the disk."""
    program = which("journalctl")
    if program is None:
        error = TargetError("journalctl is not installed", "install systemd", cause="not_configured")
        ctx.report_error(f"{check} made smaller", error)
        return size
    if limits.keep is None and limits.keep_bytes is not None and size <= limits.keep_bytes:
        return size
    argv = [program, f"--directory={place}", "--quiet"]
    argv += [f"--vacuum-size={limits.keep_bytes}"] if limits.keep_bytes is not None else []
    argv += [f"--vacuum-time={limits.keep.total_seconds():.0f}s"] if limits.keep is not None else []
    wanted = [format_size(limits.keep_bytes)] if limits.keep_bytes is not None else []
    wanted += [duration_text(limits.keep)] if limits.keep is not None else []
    after, cause = size, ""
    with ctx.change("vacuum journal", shown(place), keep=", ".join(wanted)) as allowed:
        if not allowed:
            return size
        lines: list[str] = []
        timeout = min(ctx.remaining / 2, _VACUUM_TIMEOUT)
        result = run(Command(argv), timeout, lambda _, line: lines.append(line) if len(lines) < 20 else None)
        after = size_of(place)
        allowed.observed(bytes_before=size, bytes_after=after)
        if result.exit_code != 0:
            cause = f"exit code {result.exit_code} of journalctl: {'; '.join(lines[-3:])[:300]}"
            allowed.failed(cause)
        elif after >= size:
            allowed.refused("no archived file that may be deleted; run: journalctl --rotate")
    if cause:
        hint = f"as the daemon's user, run: {command(*argv)}"
        ctx.fail(f"{check} made smaller", cause, expected="exit code 0", hint=hint)
    elif limits.keep_bytes is not None:
        hint = f"only archived files are deleted; run {command('journalctl', '--rotate')} and this job again"
        ctx.check(f"{check} made smaller", after, warn_above=limits.keep_bytes, unit="B", hint=hint)
    return after
