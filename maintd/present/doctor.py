"""The result of `maintd doctor` as text: first what is missing, then what was found in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from maintd.model.evidence import Check, CheckStatus
from maintd.model.run import Run, RunState
from maintd.present.text import WIDTH, Style, Tone, symbol, wrap
from maintd.units import plural, value_text

_ORDER = (CheckStatus.FAIL, CheckStatus.UNKNOWN, CheckStatus.WARN, CheckStatus.OK)

_WORDS = {
    CheckStatus.FAIL: "missing",
    CheckStatus.UNKNOWN: "unknown",
    CheckStatus.WARN: "to note",
    CheckStatus.OK: "ok",
}


def doctor_text(checks: Sequence[Check], run: Run, *, width: int = WIDTH, colour: bool = False) -> str:
    """Each check in two lines at most: what was observed, and what to do unless it is ok. The last line counts them."""
    style = Style(colour)
    lines: list[str] = []
    for status in _ORDER:
        for check in checks:
            if check.status is status:
                lines += _check_lines(check, style, width)
    counts = {status: sum(check.status is status for check in checks) for status in _ORDER}
    summary = ", ".join(f"{counts[status]} {_WORDS[status]}" for status in _ORDER if counts[status])
    lines.append(f"{plural(len(checks), 'check')}: {summary}" if checks else "nothing was examined")
    if run.state not in (RunState.SUCCEEDED, RunState.WARNED, RunState.UNKNOWN) and not counts[CheckStatus.FAIL]:
        lines += wrap(f"{run.state.replace('_', ' ')}: {run.reason}", width)
    return "\n".join(lines) + "\n"


def _check_lines(check: Check, style: Style, width: int) -> Iterator[str]:
    observed = value_text(check.observed, check.unit)
    note = " (not required)" if check.not_required else ""
    yield f"{symbol(check.status, style)} {check.name}{note}"
    if check.status is CheckStatus.OK:
        yield from (style(line, Tone.DIM) for line in wrap(observed, width, "    "))
        return
    yield from wrap(f"{observed}; needed: {check.expected}", width, "    ")
    if check.hint:
        yield from wrap(check.hint, width, "    → ", "      ")
