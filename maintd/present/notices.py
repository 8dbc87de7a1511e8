"""Notices, incidents and mutes for terminals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from maintd.model.notice import Incident, Mute, Notice, NoticeState
from maintd.present.text import WIDTH, Style, Tone, ago, rough_text, utc_minute, wrap

_TONES = {
    NoticeState.WAITING: Tone.LIVE,
    NoticeState.SENDING: Tone.LIVE,
    NoticeState.SENT: Tone.GOOD,
    NoticeState.FAILED: Tone.BAD,
}


def notices_text(
    notices: Sequence[Notice],
    incidents: Sequence[Incident],
    mutes: Sequence[Mute],
    *,
    now: datetime,
    width: int = WIDTH,
    colour: bool = False,
) -> str:
    """Open incidents, mutes, and notices with what became of them, newest first."""
    style = Style(colour)
    lines = []
    if incidents:
        lines += [style("open incidents", Tone.STRONG)]
        for incident in incidents:
            kind = incident.kind.replace("_", " ")
            text = (
                f"{subject_text(incident.subject)}: {kind} for {rough_text(now - incident.opened_at)}: {incident.why}"
            )
            lines += wrap(text, width, "  ", "    ")
        lines.append("")
    for mute in mutes:
        text = f"{mute.entries} is muted by {mute.by or 'an operator'} until {utc_minute(mute.until)}: {mute.why}"
        lines += [style(line, Tone.WARN) for line in wrap(text, width, "", "  ")]
    lines += [""] if mutes else []
    lines += [line for notice in notices for line in _lines(notice, now, width, style)]
    return "\n".join(lines or ["no notices yet"]) + "\n"


def subject_text(subject: str) -> str:
    """An entry's name, or `node NAME`, of which maintd itself has an incident."""
    return f"node {subject.removeprefix(OWN).partition(':')[0]}" if subject.startswith(OWN) else subject


OWN = "maintd@"
"""Begins the subject of an incident of maintd itself: `maintd@NODE:PROBLEM`."""


def _lines(notice: Notice, now: datetime, width: int, style: Style) -> Iterator[str]:
    state = style(notice.state.ljust(8), _TONES[notice.state])
    first, *more = wrap(notice.title, width - 10)
    yield f"{state}  {first}"
    yield from (f"          {line}" for line in more)
    facts = [f"to {notice.channel}, {ago(notice.sent_at or notice.created_at, now)}"]
    if notice.state is NoticeState.WAITING:
        facts.append(f"to be sent {ago(notice.not_before, now)}")
    if notice.attempts > 1:
        facts.append(f"{notice.attempts} attempts")
    if notice.error:
        facts.append(notice.error)
    yield from (style(line, Tone.DIM) for line in wrap("; ".join(facts), width, " " * 10, " " * 10))
