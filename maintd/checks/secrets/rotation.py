"""The rotation of one secret, as steps that are written down before they are done, and that are safe to repeat.

create    back up the folder, make the new value, keep both
set       let the server accept the new value, write the files, restart the consumers
test      log in with the new value
finish    revoke the old value, and see it refused

Whatever fails after `create` brings the old value back: at the server, in the files, in the consumers, seen to work.
A rotation that was killed is continued by the next run: it tries the new value, then the old one, and goes on with what
is missing; one that was going back goes on with that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

from maintd.checks.probes import as_target_error
from maintd.checks.secrets import files, values
from maintd.checks.secrets.consumers import Consumers
from maintd.checks.secrets.files import read_file
from maintd.checks.secrets.logins import Held, Opened, require_distinguishing
from maintd.checks.secrets.versions import Journal, Step, Versions
from maintd.checks.services.gate import GateLimits
from maintd.errors import MaintdError, TargetError
from maintd.job.causes import Role
from maintd.job.context import Context
from maintd.model.evidence import CheckStatus
from maintd.model.target import Secret, SecretsTarget
from maintd.units import format_duration

_LINE_ENDS = "\r\n"
_WHILE_STARTING = ("refused", "unreachable", "timed_out", "partial", "failed")
"""Causes of what does not answer yet."""


@dataclass(frozen=True)
class Files:
    """The files of one secret, and what they have with a value."""

    target: SecretsTarget
    name: str

    @property
    def secret(self) -> Secret:
        return self.target.secrets[self.name]

    @property
    def main(self) -> str:
        """The file with the value itself."""
        return self.secret.file or self.name

    @property
    def names(self) -> list[str]:
        """The main file, that of the user, and those that are derived."""
        users = [self.secret.user_file] if self.secret.user_file else []
        derived = [other.file or name for name, other in self.target.secrets.items() if other.of == self.name]
        return [*derived, *users, self.main]

    def path(self, file: str) -> Path:
        return self.target.path / file

    def value(self) -> str:
        """The value as consumers read it, without a line end. Raises TargetError."""
        try:
            return read_file(self.path(self.main)).value.decode().rstrip(_LINE_ENDS)
        except UnicodeDecodeError:
            raise TargetError(f"{self.main} is not text", "write the value as text", cause="unfamiliar") from None

    def contents(self, held: Held) -> dict[str, bytes]:
        """What each file has with this value."""
        found = {
            other.file or name: values.filled(other.template, held.user, held.value).encode()
            for name, other in self.target.secrets.items()
            if other.of == self.name
        }
        if self.secret.user_file:
            found[self.secret.user_file] = held.user.encode()
        found[self.main] = held.value.encode()
        return found


@dataclass
class Rotation:
    """The rotation of one secret. `key`: of the fingerprints. `back_up` is called before the first change. `gate`: how
    long what its services opened may not answer after a restart."""

    ctx: Context
    files: Files
    opened: Opened
    consumers: Consumers
    versions: Versions
    key: bytes
    back_up: Callable[[], None]
    gate: GateLimits

    @property
    def name(self) -> str:
        """The name of the secret."""
        return self.files.name

    @property
    def secret(self) -> Secret:
        """What is known of it."""
        return self.files.secret

    def start(self) -> bool:
        """Rotate the secret; whether it has a new value. Raises TargetError before any change."""
        ctx, name = self.ctx, self.name
        with ctx.phase(f"see that the present value of {name} works"):
            old = self._present()
            self.opened.require()
            names = self.consumers.require(self.secret.consumers, recreate=self.secret.recreate)
        if names:
            ctx.log(f"{name}: restarts {', '.join(names)}")
        if ctx.dry_run:
            self._plan(old, names)
            return False
        with ctx.phase(f"back up, and make a new value of {name}"):
            self.back_up()
            new = Held(self._next_user(old), values.make(self.secret.form))
            before = {file: read_file(self.files.path(file)) for file in self.files.names}
            journal = Journal(
                step=Step.CREATE,
                started_at=ctx.now(),
                old_user=old.user,
                new_user=new.user,
                containers=tuple(names),
                modified={file: found.modified_ns for file, found in before.items()},
            )
            kept = {file: found.value for file, found in before.items()}
            self.versions.begin(kept, new.value, self.opened.verifier(old), journal)
        return self._forward(journal, old, new)

    def resume(self, journal: Journal) -> bool | None:
        """Continue a rotation that an earlier run has begun; whether it has a new value, None if it only waits.

        Raises TargetError.
        """
        ctx, name = self.ctx, self.name
        old = Held(journal.old_user, self.versions.before()[self.files.main].decode().rstrip(_LINE_ENDS))
        new = Held(journal.new_user, self.versions.pending())
        accepted = self._accepted(old, new)
        if journal.until is not None and not journal.back and ctx.now() < journal.until:
            left = format_duration(journal.until - ctx.now())
            ctx.passed(f"old value of {name}", f"works for {left} more", expected="revoked after the overlap")
            return None
        if ctx.dry_run:
            self._plan(old, journal.containers)
            return False
        if journal.until is None or journal.back:
            doing = "going back" if journal.back else journal.step.value
            ctx.check(
                f"interrupted rotation of {name}",
                f"in step {doing}, since {journal.started_at:%Y-%m-%d %H:%M}Z; accepted: {accepted}; continued",
                equals="none",
                severity=CheckStatus.WARN,
                hint="see the log of the run before",
            )
        if self.secret.recreate:
            self.consumers.end_interrupted(self.secret.consumers)
        if journal.back:
            return self._go_back(journal, old, new)
        return self._forward(journal, old, new)

    # --- parts ---

    def _present(self) -> Held:
        """The value in the file, with the user that it is accepted for. Raises TargetError when it is for none."""
        value = self.files.value()
        for user in self.opened.users():
            held = Held(user, value)
            accepted = self.opened.accepts(held)
            if accepted is None:
                return held
            if accepted:
                require_distinguishing(self.opened, held)
                return held
        hint = "write the value that is in force into the file first"
        raise TargetError(f"{self.opened.shown} refuses the present value of {self.name}", hint, cause="denied")

    def _next_user(self, old: Held) -> str:
        return next((user for user in self.opened.users() if user != old.user), old.user)

    def _accepted(self, old: Held, new: Held) -> str:
        """Which of the values are accepted, as text. Raises TargetError when the server does not say."""
        if self.opened.accepts(new) is None:
            return "not to be tried"
        found = [text for text, held in (("the new value", new), ("the old value", old)) if self.opened.accepts(held)]
        return " and ".join(found) or "neither value"

    def _plan(self, old: Held, names: Sequence[str]) -> None:
        if self.opened.changes_server:
            with self.ctx.change("set secret", f"{self.opened.shown}: {self._next_user(old)}"):
                pass
        for file in self.files.names:
            with self.ctx.change("write secret", self.files.path(file)):
                pass
        self.consumers.restart(self.secret.consumers, names, recreate=self.secret.recreate)

    def _forward(self, journal: Journal, old: Held, new: Held) -> bool:
        """Do what is left. Whether the new value is in force; false when the old one was restored, or neither is."""
        ctx, name = self.ctx, self.name
        try:
            with as_target_error(f"rotation of {name}"):
                ended = self._go_on(journal, old, new)
        except MaintdError as error:
            ctx.report_error(f"rotation of {name}", error, expected="a new value in force", role=Role.WORK)
            return self._go_back(journal, old, new)
        if ended:
            self.versions.end()
            ctx.passed(f"rotation of {name}", f"done, {self._fingerprints(old, new)}", expected="a new value in force")
        return True

    def _go_on(self, journal: Journal, old: Held, new: Held) -> bool:
        """Do what is left; false while the old value works for some time yet. Raises MaintdError."""
        ctx, name = self.ctx, self.name
        if journal.until is None:
            self.versions.record(journal := journal.model_copy(update={"step": Step.SET}))
            with ctx.phase(f"set the new value of {name}"):
                self._set(old, new, journal.containers)
            self.versions.record(journal := journal.model_copy(update={"step": Step.TEST}))
        with ctx.phase(f"try the new value of {name}"):
            self._require_accepted(new, "new")
        if self.secret.overlap and journal.until is None:
            until = ctx.now() + self.secret.overlap
            self.versions.record(journal.model_copy(update={"step": Step.FINISH, "until": until}))
            text = f"works until {until:%Y-%m-%d %H:%M}Z, and is revoked by the first run after that"
            ctx.passed(f"old value of {name}", text, expected="revoked after the overlap")
            return False
        self.versions.record(journal.model_copy(update={"step": Step.FINISH}))
        with ctx.phase(f"revoke the old value of {name}"):
            if self.opened.keeps_both:
                with ctx.change("revoke secret", f"{self.opened.shown}: {old.user}") as allowed:
                    if allowed:
                        ctx.log(f"{name}: {self.opened.revoke(old, new)}")
            self._require_refused(old, "old")
        return True

    def _set(self, old: Held, new: Held, names: Sequence[str]) -> None:
        if self.opened.changes_server:
            with self.ctx.change("set secret", f"{self.opened.shown}: {new.user}") as allowed:
                if allowed:
                    self.ctx.log(f"{self.name}: {self.opened.accept(new, old)}")
        for file, content in self.files.contents(new).items():
            self._write(file, content, new)
        self.consumers.restart(self.secret.consumers, names, recreate=self.secret.recreate)

    def _write(self, file: str, content: bytes, held: Held) -> None:
        path = self.files.path(file)
        before = read_file(path)
        with self.ctx.change("write secret", path, mode=f"{before.mode:04o}") as allowed:
            if allowed:
                (files.replace_file if self.secret.recreate else files.write_in_place)(path, content)
                after = read_file(path)
                same = (before.mode, before.owner, before.group) == (after.mode, after.owner, after.group)
                allowed.observed(inode_kept=before.inode == after.inode, mode_and_owner_kept=same)
                allowed.observed(fingerprint=values.fingerprint(self.key, held.value.encode()))

    def _accepts_soon(self, held: Held) -> bool | None:
        """As `accepts`, with time for what was restarted until it answers. An answer is final, whatever it is."""
        until = monotonic() + self.gate.within.total_seconds()
        while True:
            try:
                return self.opened.accepts(held)
            except TargetError as error:
                if not self.secret.consumers or error.cause not in _WHILE_STARTING or monotonic() >= until:
                    raise
            sleep(self.gate.every.total_seconds())

    def _require_accepted(self, held: Held, which: str) -> None:
        accepted = self._accepts_soon(held)
        check = f"{which} value of {self.name} at {self.opened.shown}"
        if accepted is None:
            health = "the health of its services" if self.secret.consumers else "nothing"
            self.ctx.passed(check, f"in the file; shown by {health}", expected="in force")
        elif accepted:
            self.ctx.passed(check, "accepted", expected="accepted")
        else:
            self.ctx.fail(check, "refused", expected="accepted", hint="see whether its services read this file")
            raise TargetError(f"{self.opened.shown} refuses the {which} value of {self.name}", cause="failed")

    def _require_refused(self, held: Held, which: str) -> None:
        accepted = self.opened.accepts(held)
        check = f"{which} value of {self.name} is refused by {self.opened.shown}"
        if accepted is None:
            self.ctx.unknown(check, "nothing can try it", expected="refused", optional=True)
        elif accepted:
            hint = "find what still has it: another service, or a variable that takes precedence over the file"
            self.ctx.fail(check, "accepted", expected="refused", hint=hint)
            raise TargetError(f"{self.opened.shown} still accepts the {which} value of {self.name}", hint)
        else:
            self.ctx.passed(check, "refused", expected="refused")

    def _go_back(self, journal: Journal, old: Held, new: Held) -> bool:
        """Bring the old value back everywhere; always false. What cannot be done is left to the next run."""
        ctx, name = self.ctx, self.name
        check = f"{name} as it was before"
        hint = "repair what it names, then run this job again: it continues here"
        with self._reported(check, hint), ctx.phase(f"bring the old value of {name} back"):
            self.versions.record(journal.model_copy(update={"back": True, "until": None}))
            before = self.versions.before()
            if self.opened.changes_server:
                with ctx.change("restore secret", f"{self.opened.shown}: {old.user}") as allowed:
                    if allowed:
                        ctx.log(f"{name}: {self.opened.restore(old, new, self.versions.verifier())}")
            for file, content in before.items():
                self._write(file, content, old)
                files.set_modified(self.files.path(file), journal.modified[file])
            self.consumers.restart(self.secret.consumers, journal.containers, recreate=self.secret.recreate)
            accepted = self._accepts_soon(old)
            if accepted is False:
                again = "run the job again: it goes on from here; the log of the server has the reason"
                raise TargetError(f"{self.opened.shown} refuses the old value", again, cause="failed")
            if self.opened.accepts(new):
                ctx.check(f"new value of {name}", "accepted", equals="refused", severity=CheckStatus.WARN, hint=hint)
            self.versions.end()
            seen = "the old value is in its file" if accepted is None else "the old value works again"
            ctx.passed(check, seen, expected="the old value in force")
            hint = "see why above; the next rotation makes another value"
            ctx.fail(
                f"{name} rotated", "no: everything is as it was before", expected="a new value in force", hint=hint
            )
        return False

    @contextmanager
    def _reported(self, check: str, hint: str) -> Iterator[None]:
        try:
            with as_target_error(check):
                yield
        except MaintdError as error:
            cause = getattr(error, "cause", "failed")
            reported = TargetError(error.message, f"{error.hint}; {hint}" if error.hint else hint, cause=cause)
            self.ctx.report_error(check, reported, expected="the old value in force", role=Role.WORK)

    def _fingerprints(self, old: Held, new: Held) -> str:
        before, after = (values.fingerprint(self.key, held.value.encode()) for held in (old, new))
        return f"fingerprint {after}, before {before}"
