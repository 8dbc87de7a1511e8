"""A folder of secrets: which of them are rotated, one at a time, and what is wrong with the files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from time import monotonic

from maintd.checks.backup_sets.writer import locked, os_errors
from maintd.checks.probes import isolate_errors
from maintd.checks.secrets import hygiene, versions
from maintd.checks.secrets.consumers import Consumers
from maintd.checks.secrets.logins import opened_by
from maintd.checks.secrets.rotation import Files, Rotation
from maintd.checks.secrets.versions import FOLDER, Versions
from maintd.job.causes import Role
from maintd.job.context import Context
from maintd.job.references import resolved
from maintd.model.target import SecretsTarget

_OLDER_HINT = "give it back to the target, or compare and remove its folder in .versions"


@dataclass
class SecretsFolder:
    """One target. `name`: of the target. `keep`: encrypted backups that are kept."""

    ctx: Context
    name: str
    target: SecretsTarget
    consumers: Consumers
    keep: int
    key: bytes = b""
    _backed_up: bool = field(default=False, init=False)

    @classmethod
    def of(cls, ctx: Context, name: str, consumers: Consumers, keep: int) -> SecretsFolder:
        """That of a target. Raises JobError for a reference in it that cannot be resolved."""
        return cls(ctx, name, resolved(ctx.target("secrets", name)), consumers, keep)

    def rotate(self, only: Sequence[str], min_age: timedelta, *, new: bool) -> None:
        """Continue what is under way; with `new`, rotate what is old enough, of these names or of all."""
        with self._exclusive():
            for name, secret in self.target.secrets.items():
                if secret.kind != "generated":
                    continue
                with isolate_errors(self.ctx, f"rotation of {name}", expected="a new value in force", role=Role.WORK):
                    self._rotate(name, min_age, new=new and (not only or name in only))

    def check(self) -> None:
        """Check the files. They are measured as they are now, after a rotation."""
        ctx, now = self.ctx, self.ctx.now()
        found: dict[str, hygiene.Found] = {}
        for name in self.target.secrets:
            with isolate_errors(ctx, f"file of {name}", expected="readable"):
                found[name] = hygiene.collect(self.target, name)
                ctx.report(hygiene.evaluate(found[name], now))
                age = found[name].age(now).total_seconds() / 86_400
                if self.target.secrets[name].kind != "derived" and age >= 0:
                    ctx.measure("secret_age_days", round(age, 2), "day", name=name)
        ctx.report(hygiene.evaluate_together(found))
        with isolate_errors(ctx, f"folder {self.name}", expected="readable"):
            ctx.report(hygiene.folder_criteria(self.target), f"folder {self.name}")
            names = ", ".join(hygiene.leftover(self.target)) or "none"
            ctx.check(
                f"folder {self.name}: rotations of what is no longer generated", names, equals="none", hint=_OLDER_HINT
            )

    def _rotate(self, name: str, min_age: timedelta, *, new: bool) -> None:
        ctx = self.ctx
        versions_of = Versions(self.target.path, name)
        journal = versions_of.journal()
        if journal is None:
            if not ctx.dry_run:
                versions_of.discard()
            if not new:
                return
            age = hygiene.collect(self.target, name).age(ctx.now())
            if age < min_age:
                ctx.log(f"{name}: not old enough to be rotated, see min_age")
                return
            versions.require_recipients(self.target.recipients)
        opened = opened_by(self.target.secrets[name], ctx.target, self.target.timeout)
        files = Files(self.target, name)
        gate = self.consumers.gate
        rotation = Rotation(ctx, files, opened, self.consumers, versions_of, self.key, self._back_up, gate)
        started = monotonic()
        done: bool | None = False
        try:
            done = rotation.start() if journal is None else rotation.resume(journal)
        finally:
            if not ctx.dry_run and done is not None:
                ctx.measure("secret_rotation_success", float(done), "", name=name)
                ctx.measure("secret_rotation_duration_seconds", monotonic() - started, "s", name=name)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Be the only run that changes the folder."""
        with ExitStack() as stack:
            path = self.target.path / FOLDER
            if not self.ctx.dry_run and any(item.kind == "generated" for item in self.target.secrets.values()):
                with os_errors(path):
                    versions.make_folder(path)
                stack.enter_context(locked(path))
            self.key = versions.fingerprint_key(self.target.path)
            yield

    def _back_up(self) -> None:
        """Encrypt the folder, once for each run, and delete the oldest of more backups than are kept."""
        ctx, folder = self.ctx, self.target.path
        if self._backed_up:
            return
        versions.keep_key(folder, self.key)
        with ctx.change("back up", folder) as allowed:
            if allowed:
                path, sealed = versions.back_up(folder, self.target.recipients, ctx.now())
                allowed.observed(file=path.name, bytes=len(sealed), sha256=sha256(sealed).hexdigest())
        self._backed_up = True
        for path in versions.old_backups(folder, self.keep):
            with ctx.change("delete", path) as allowed:
                if allowed:
                    path.unlink()
