"""Everything maintd raises on purpose. Each branch has an exit code and one JSON shape.

MaintdError                     1  something failed
├── UsageError                  2  the request makes no sense
│   ├── SettingsError           2  a setting is missing or wrong
│   └── CalendarError           2  schedules.yaml has errors; carries all of them
├── UnknownNameError            3  no such entry, job, run or target; says what is near
├── RefusedError                4  paused, frozen, or not allowed from here
├── LockBusyError               5  someone else holds it; says who
├── DaemonUnavailableError      6  no daemon answers on the socket
├── StoreError                  1
│   ├── StoreUnavailableError   1  cannot be reached now; trying again later can help
│   └── StoreUnusableError      1  corrupt, read-only, newer than the code: a person must act
├── TargetError                 1  what a job works on did not do what was asked; see maintd.clients
└── JobError                    1  a job module or its parameters cannot be used
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class MaintdError(Exception):
    """A failure that a person can act on: `message` says what and where, `hint` what to do."""

    code = "error"
    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}; {self.hint}"

    def as_json(self) -> dict[str, dict[str, str | None]]:
        """The one shape in which the API and `--json` report an error."""
        return {"error": {"code": self.code, "message": self.message, "hint": self.hint}}


class UsageError(MaintdError):
    """The request makes no sense as it was put."""

    code = "usage"
    exit_code = 2


class SettingsError(UsageError):
    """A setting is missing or wrong; the message names it and where its value came from."""

    code = "settings"


class CalendarError(UsageError):
    """The calendar cannot be used. `problems` are complete lines, each `file:line:column: what; what to write`."""

    code = "calendar"

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class UnknownNameError(MaintdError):
    """No such entry, job, run or target."""

    code = "unknown_name"
    exit_code = 3

    def __init__(self, what: str, name: str, known: Iterable[str] = ()) -> None:
        near = nearest(name, known)
        super().__init__(f'no {what} named "{name}"', f'did you mean "{near}"?' if near else None)
        self.name = name


class RefusedError(MaintdError):
    """Understood, possible, and not allowed now or from here."""

    code = "refused"
    exit_code = 4


class LockBusyError(MaintdError):
    """A lock could not be had in time; the message names its holder."""

    code = "lock_busy"
    exit_code = 5


class DaemonUnavailableError(MaintdError):
    """No daemon answers on the control socket."""

    code = "no_daemon"
    exit_code = 6


class StoreError(MaintdError):
    """The store did not do what was asked."""

    code = "store"


class StoreUnavailableError(StoreError):
    """The store cannot be reached or written now; the same call may succeed later."""

    code = "store_unavailable"


class StoreUnusableError(StoreError):
    """Corrupt, read-only, or of another revision: waiting does not help, a person must act."""

    code = "store_unusable"


class TargetError(MaintdError):
    """A target did not answer as it should. `cause` is one word of: refused, timed_out, denied, malformed, unreachable,
    not_configured, empty, partial, failed."""

    code = "target"

    def __init__(self, message: str, hint: str | None = None, *, cause: str = "failed") -> None:
        super().__init__(message, hint)
        self.cause = cause


class JobError(MaintdError):
    """A job module cannot be imported or described, or its parameters are wrong."""

    code = "job"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was most likely meant, or None if none is near."""
    from difflib import get_close_matches  # a slow import that only a mistake pays for

    found = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return found[0] if found else None
