"""What must be true before data or a schema are rolled back: a person approved it, and writers are halted."""

from __future__ import annotations

from typing import Any

from maintd.checks.halts import Switch
from maintd.checks.rollback.loss import HANDED
from maintd.errors import TargetError
from maintd.job.context import Context


def loss_text(database: str, source: str) -> str:
    """What a person types who accepts the loss at a terminal."""
    return f"lose what was written to {database} since {source}"


def require_approval(ctx: Context, gate: str, typed: str, database: str, source: str) -> None:
    """Require the approval of this loss by a person. Raises CheckFailedError.

    That is a gate of this run that was passed, which programs cannot do; or, started by `maintd run --here` on this
    machine, where no gate can ask, the typed text of the loss. The text counts nowhere else: anything with a token
    could send it.
    """
    check, expected = "approved by a person", f"gate {gate} approved, or accept_loss typed with maintd run --here"
    if gate in ctx.approvals:
        ctx.passed(check, f"gate {gate}: {ctx.approvals[gate]}", expected=expected)
        return
    wanted = loss_text(database, source)
    if ctx.in_foreground and typed == wanted:
        ctx.passed(check, f'typed at a terminal: "{typed}"', expected=expected)
        return
    if ctx.dry_run:
        ctx.log("not asked in a dry run: the approval of a person")
        return
    seen = "another text was typed" if typed and ctx.in_foreground else "no"
    hint = f'maintd trigger emergency-data-rollback; or with --here: -p accept_loss="{wanted}"'
    ctx.require(check, seen, equals="yes", hint=hint)


def stated_loss(ctx: Context, name: str) -> dict[str, Any] | None:
    """What an earlier step of this run has stated about the loss of a Postgres target; None without one."""
    found = ctx.handed(HANDED)
    about = found.get(name) if isinstance(found, dict) else None
    return about if isinstance(about, dict) else None


def require_halted(ctx: Context, *, needed: bool) -> None:
    """Require that all halt targets are halted, by both sources. Raises CheckFailedError, and TargetError.

    needed: that there is one at all.
    """
    if not needed:
        ctx.log("whether services are halted is not required by the params")
        return
    if not ctx.targets.halts:
        hint = "set targets.halts in the calendar, or halted: false where nothing can be halted"
        raise TargetError("nothing shows that writers are halted", hint, cause="not_configured")
    for name in ctx.targets.halts:
        with ctx.phase(f"see that {name} is halted"):
            state = Switch.of(ctx, name, "rollback").state()
        hint = f"halt it first: maintd trigger service_halt; nothing was changed ({state.text})"
        if state.halted is None:
            raise state.error
        ctx.require(f"{name}: halted", "halted" if state.halted else "running", equals="halted", hint=hint)
