"""The user whose rights jobs have where the daemon is root: found, checked at the start, and taken on by each child.

The daemon and its template stay root. A child gives its rights up, for good, before it reads a secret or runs a line of
its job. Only the attempt's own two folders belong to that user.
"""

from __future__ import annotations

import ctypes
import grp
import json
import os
import pwd
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import maintd
from maintd.errors import SettingsError

if TYPE_CHECKING:
    from maintd.config.settings import Settings

_PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h
_CHECK_SECONDS = 30
_CHECK = """
import json, os, sys
paths = json.loads(sys.argv[1])
print(json.dumps({how: [p for p in paths[how] if os.access(p, mode)]
    for how, mode in (("R", os.R_OK), ("W", os.W_OK), ("X", os.X_OK))}))
"""
_HINT = "unset MAINTD_JOB_USER, or see docs/operations.md, Least privilege"

_libc = ctypes.CDLL(None, use_errno=True)


class JobUser(NamedTuple):
    """A user without privileges."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]  # the supplementary ones
    home: str


def job_user_of(settings: Settings) -> JobUser | None:
    """Return the user of the settings; None: jobs have the daemon's rights. Raises SettingsError."""
    if not settings.job_user:
        if settings.job_groups or settings.root_jobs:
            raise SettingsError("job_groups and root_jobs have no effect without job_user", "set MAINTD_JOB_USER")
        return None
    found = _find(settings.job_user)
    groups = {*found.groups, *(_group(word) for word in _words(settings.job_groups))} - {found.gid}
    user = found._replace(groups=tuple(sorted(groups)))
    if os.geteuid() != 0:
        if user.uid == os.geteuid():
            return None
        raise SettingsError(
            f'job_user "{settings.job_user}": only a daemon of root can run jobs as another user', _HINT
        )
    if user.uid == 0 or 0 in (user.gid, *user.groups):
        raise SettingsError(f'job_user "{settings.job_user}" is root, or in the group of root', _HINT)
    return user


def root_jobs_of(settings: Settings) -> frozenset[str]:
    """Return the names of the jobs that keep the daemon's rights."""
    return frozenset(_words(settings.root_jobs))


def check_access(user: JobUser, settings: Settings) -> None:
    """Raise SettingsError unless this user can use maintd's code and its own folders, and nothing else of the daemon.

    A process of that user tries it, so that groups, access lists and mount options count.
    """
    state = settings.state_dir.absolute()
    _let_through(state)
    if state.stat().st_gid in (user.gid, *user.groups):
        raise SettingsError(f'job_user "{settings.job_user}" is in the group of {state}', _HINT)
    private = [f"{state}/{name}" for name in ("spool", "secrets", "job_descriptions.json", "daemon.pid")]
    if settings.store_file is not None:
        private.append(os.fspath(settings.store_file.absolute()))
    sources = [os.fspath(path.absolute()) for path in (settings.calendar, settings.config) if path is not None]
    code = [os.fspath(folder.absolute()) for folder in (Path(maintd.__file__).parent, *settings.job_dirs)]
    paths = {
        "R": [*private, *code],
        "W": [*private, os.fspath(state), os.fspath(settings.socket_path), *sources, *code],
        "X": [os.fspath(state)],
    }
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _CHECK, json.dumps(paths)],
            user=user.uid,
            group=user.gid,
            extra_groups=user.groups,
            cwd="/",
            env={name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ},
            capture_output=True,
            timeout=_CHECK_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SettingsError(f'job_user "{settings.job_user}" cannot run {sys.executable}: {error}', _HINT) from error
    if done.returncode != 0:
        why = done.stderr.decode(errors="replace").strip().splitlines()
        raise SettingsError(f'job_user "{settings.job_user}" cannot run Python: {why[-1] if why else "?"}', _HINT)
    can = json.loads(done.stdout)
    for path in code:
        if Path(path).is_dir() and path not in can["R"]:
            raise SettingsError(f'job_user "{settings.job_user}" cannot read {path}, which its jobs need', _HINT)
    if os.fspath(state) not in can["X"]:
        raise SettingsError(f'job_user "{settings.job_user}" cannot pass through {state} to its artifacts', _HINT)
    for how, verb in (("W", "write"), ("R", "read")):
        for path in can[how]:
            if how == "W" or path in private:
                raise SettingsError(
                    f'job_user "{settings.job_user}" can {verb} {path}, which jobs must not',
                    _HINT,
                )


def provide_folders(user: JobUser, state_dir: Path, *folders: Path | str) -> None:
    """Create the folders of an attempt, below the state directory, for this user. Raises OSError.

    Others may pass through the folders above, which stay the daemon's, but not list them; so no job can replace the
    folder of another attempt.
    """
    top = state_dir.absolute()
    _let_through(top)
    for folder in map(Path, folders):
        above = folder.parent
        for part in (*reversed([p for p in above.parents if p.is_relative_to(top) and p != top]), above):
            with suppress(FileExistsError):
                part.mkdir(mode=0o751)
            _let_through(part)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchown(descriptor, user.uid, os.getegid())
            os.fchmod(descriptor, 0o2750)  # files in it get the daemon's group
        finally:
            os.close(descriptor)


def remove_if_empty(folder: Path | str, state_dir: Path) -> None:
    """Remove the folder of an attempt that left nothing in it, and the empty ones above it."""
    path, top = Path(folder), state_dir.absolute()
    with suppress(OSError):
        while path.parent != top and path.is_relative_to(top):
            path.rmdir()
            path = path.parent


def become(user: JobUser) -> None:
    """Give this process the rights of the user, for good; also no program that it executes gets others.

    The kernel also makes the process undumpable, so that other processes of the user cannot trace it. Raises OSError.
    """
    for number in (1, 2):
        os.fchown(number, user.uid, user.gid)  # pipes; else it could not open /dev/stdout
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
    os.setgroups(user.groups)
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    with suppress(PermissionError):
        os.setuid(0)
        raise OSError("the rights of root could not be given up")
    os.environ.update(HOME=user.home, USER=user.name, LOGNAME=user.name)


def _let_through(folder: Path) -> None:
    mode = stat.S_IMODE(folder.stat().st_mode)
    if not mode & stat.S_IXOTH:
        folder.chmod(mode | stat.S_IXOTH)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _find(text: str) -> JobUser:
    """Return the user with its own groups: `name`, `uid`, or `uid:gid`, which needs no entry in /etc/passwd."""
    name, _, group = text.partition(":")
    try:
        found = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        if name.isdecimal() and group.isdecimal() and int(name) < 1 << 32:
            return JobUser(name, int(name), _group(group), (), "/")
        raise SettingsError(f'job_user: there is no user "{name}"', "create it, or give uid:gid") from None
    gid = _group(group) if group else found.pw_gid
    return JobUser(found.pw_name, found.pw_uid, gid, tuple(os.getgrouplist(found.pw_name, gid)), found.pw_dir or "/")


def _group(text: str) -> int:
    if text.isdecimal() and int(text) < 1 << 32:
        return int(text)
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        raise SettingsError(f'there is no group "{text}"', "create it, or give its number") from None
