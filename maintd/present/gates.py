"""Gates as text: what waits, for whom, since when, until when, and what to type."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from maintd.model.gate import GateItem, ItemState, WaitingGate
from maintd.present.text import WIDTH, Style, Tone, ago, from_now, symbol, utc_minute, wrap


def gates_text(gates: Sequence[WaitingGate], *, now: datetime, width: int = WIDTH, colour: bool = False) -> str:
    """The gates where runs wait, the one whose time is over first at the top."""
    if not gates:
        return "no run waits at a gate\n"
    style = Style(colour)
    lines: list[str] = []
    for gate in gates:
        lines += ["", *gate_lines(gate, now, width, style)] if lines else gate_lines(gate, now, width, style)
    return "\n".join(lines) + "\n"


def gate_text(gate: WaitingGate, *, now: datetime, width: int = WIDTH, colour: bool = False) -> str:
    """One gate."""
    return "\n".join(gate_lines(gate, now, width, Style(colour))) + "\n"


def gate_lines(gate: WaitingGate, now: datetime, width: int, style: Style) -> Iterator[str]:
    """Where the run waits and for whom, the checklist with its evidence, and the next command."""
    dry = " (dry run)" if gate.dry_run else ""
    head = f'run {gate.run_id} of {gate.entry}{dry} waits at gate "{gate.gate}" for {gate.whom}'
    first, *more = wrap(head, width - 2)
    yield f"{symbol('waiting', style)} {style(first, Tone.STRONG)}"
    yield from (f"  {style(line, Tone.STRONG)}" for line in more)
    for name, text in _facts(gate, now):
        if text:
            yield from wrap(text, width, f"  {name:12} ", " " * 15)
    if gate.items:
        done = sum(item.done for item in gate.items)
        yield f"  {'checklist':12} {done} of {len(gate.items)} done"
        for item in gate.items:
            yield from item_lines(item, width, style)
    if gate.next_step:
        yield from wrap(gate.next_step, width, f"  {'type':12} ", " " * 15)


def item_lines(item: GateItem, width: int, style: Style) -> Iterator[str]:
    """`✓ 2 Backup completed: run 41 of daily-backup succeeded …`."""
    evidence = item.evidence or ("not ticked" if item.state is ItemState.OPEN else "")
    first, *more = wrap(f"{item.number:2} {item.text}: {evidence}", width - 6, hanging="   ")
    yield f"    {symbol(item.state, style)} {first}"
    yield from (f"      {line}" for line in more)


def _facts(gate: WaitingGate, now: datetime) -> Iterator[tuple[str, str]]:
    yield "title", gate.title if gate.title != gate.entry else ""
    by = gate.requested_by
    yield "requested by", f"{by}: {gate.why}" if by and gate.why else by or gate.why
    earlier = ", ".join(gate.earlier_requesters)
    yield "", f"it resumes a run that {earlier} requested" if earlier else ""
    yield "EMERGENCY", gate.emergency
    yield "since", f"{utc_minute(gate.since)}, {ago(gate.since, now)}"
    yield "until", f"{utc_minute(gate.until)}, {from_now(gate.until, now)}; then the run ends as timed out"
    yield "asks", gate.ask
