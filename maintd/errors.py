"""The errors that maintd raises. Each has an exit code, and all have one JSON shape.

MaintdError                     1  an operation failed
├── UsageError                  2  the request is not valid
│   ├── SettingsError           2  a setting is missing or not valid
│   └── CalendarError           2  schedules.yaml has errors; lists all of them
├── UnknownNameError            3  no entry, job, run or target with that name; suggests a similar one
├── RefusedError                4  the request is valid, but not allowed now
│   ├── UnauthorizedError       4  the request has no token, or one that is not valid
│   └── ForbiddenError          4  the caller's token or role does not have the right
├── OutputError                 1  standard output cannot be written
├── DaemonUnavailableError      6  no daemon answers on the socket
├── StoreError                  1  the store failed
│   ├── StoreUnavailableError   1  the store cannot be reached now; a retry can succeed
│   └── StoreUnusableError      1  the store is corrupt, read-only or of another revision; an operator must act
├── TargetError                 1  a target that a job works on failed; see maintd.clients
└── JobError                    1  a job module or its params cannot be used
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from maintd.terminal import quotable

DAEMON_LOG = "see the daemon's log: journalctl -u maintd, or docker compose logs maintd"
"""Where the log of a daemon is."""


class MaintdError(Exception):
    """An error for people: `message` states what happened and where, `hint` what to do."""

    code = "error"
    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}; {self.hint}"

    def as_json(self) -> dict[str, dict[str, str | None]]:
        """The error as the API and `--json` return it."""
        return {"error": {"code": self.code, "message": self.message, "hint": self.hint}}


class UsageError(MaintdError):
    """The request is not valid."""

    code = "usage"
    exit_code = 2


class SettingsError(UsageError):
    """A setting is missing or not valid; the message names the setting and the source of its value."""

    code = "settings"


class CalendarError(UsageError):
    """The calendar has errors. Each of `problems` is one line, `file:line:column: problem; what to write instead`."""

    code = "calendar"

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class UnknownNameError(MaintdError):
    """No entry, job, run or target has that name; the hint suggests the most similar of the `known` names, if there is
    one."""

    code = "unknown_name"
    exit_code = 3

    def __init__(self, what: str, name: str, known: Iterable[str] = (), hint: str | None = None) -> None:
        near = nearest(name, known)
        super().__init__(f'no {what} named "{quotable(name)}"', f'did you mean "{near}"?' if near else hint)
        self.name = name


class RefusedError(MaintdError):
    """The request is valid, but not allowed now."""

    code = "refused"
    exit_code = 4


class UnauthorizedError(RefusedError):
    """The request needs a token and has none, or one that is unknown, expired or revoked."""

    code = "unauthorized"


class ForbiddenError(RefusedError):
    """The caller does not have the right; the hint names the roles or entries that have it."""

    code = "forbidden"


class OutputError(MaintdError):
    """Standard output cannot be written: its disk is full, or its reader, such as `head`, has exited."""

    code = "output"

    def __init__(self, error: Exception) -> None:
        super().__init__(f"cannot write the output: {getattr(error, 'strerror', None) or error}")
        self.reader_exited = isinstance(error, BrokenPipeError)


class DaemonUnavailableError(MaintdError):
    """No daemon answers on the control socket."""

    code = "no_daemon"
    exit_code = 6


class StoreError(MaintdError):
    """The store failed."""

    code = "store"


class StoreUnavailableError(StoreError):
    """The store cannot be reached or written now; a retry can succeed."""

    code = "store_unavailable"


class StoreUnusableError(StoreError):
    """The store is corrupt, read-only, or of another revision; a retry cannot succeed, an operator must act."""

    code = "store_unusable"


class TargetError(MaintdError):
    """A target failed. `maintd.job.causes` lists the values of `cause`."""

    code = "target"

    def __init__(self, message: str, hint: str | None = None, *, cause: str = "failed") -> None:
        super().__init__(message, hint)
        self.cause = cause


class JobError(MaintdError):
    """A job module cannot be imported or described, or its params are not valid."""

    code = "job"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most similar to `name`, or None when none is similar enough."""
    from difflib import get_close_matches  # a slow import that only a mistyped name needs

    found = get_close_matches(name[:200], list(known), n=1, cutoff=0.6)  # the time grows with the product of lengths
    return found[0] if found else None
