"""The texts of notices: one for each incident, and one for a message of several. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from shlex import quote
from typing import Any, NamedTuple

from maintd.model.evidence import CheckStatus
from maintd.model.notice import Incident, Notice, NoticeKind
from maintd.model.run import Run, RunState, RunSummary, Step
from maintd.operations.diagnosis import run_reason
from maintd.present import utc_minute
from maintd.present.notices import OWN, subject_text
from maintd.present.text import rough_text
from maintd.redaction import mask_text
from maintd.store import LastRuns
from maintd.units import duration_text, plural, utc_text

MOST_CHECKS = 20
"""Checks of a run that the details of a notice list."""

MOST_RUNNING = 5
"""Other runs that a notice names."""

WHOLE = 5
"""Notices of one message that are shown in full; of more, each is one line."""

MOST_LINES = 50
"""Lines of a message of many notices."""

LONGEST_TITLE = 160
LONGEST_WHY = 1500

MARK = "EMERGENCY"
"""Names who passed a rule in an emergency, in a run's notices."""

KEPT = ("entry_title", "emergency", "hint", "next_step")
"""Details of a notice that its incident keeps, for later ones about it."""

_WORDS: Mapping[NoticeKind, str] = {
    NoticeKind.FAILED: "failed",
    NoticeKind.UNKNOWN: "unknown",
    NoticeKind.LATE: "late",
    NoticeKind.MISSED: "missed",
    NoticeKind.TOO_LONG: "too long",
    NoticeKind.WAITING: "waiting",
    NoticeKind.STILL_FAILING: "still failing",
    NoticeKind.RECOVERED: "recovered",
    NoticeKind.CALENDAR_REFUSED: "calendar refused",
    NoticeKind.MAINTD: "problem of maintd",
}

_URGENCY = (
    NoticeKind.FAILED,
    NoticeKind.MAINTD,
    NoticeKind.CALENDAR_REFUSED,
    NoticeKind.UNKNOWN,
    NoticeKind.MISSED,
    NoticeKind.STILL_FAILING,
    NoticeKind.TOO_LONG,
    NoticeKind.LATE,
    NoticeKind.WAITING,
)
"""Kinds in the order in which the title of a message of several notices has them; others follow, recoveries last."""


class Text(NamedTuple):
    """Title, body and details of a notice. The details are those of the webhook's JSON."""

    title: str
    body: str
    details: dict[str, Any]


class Around(NamedTuple):
    """What else is in a notice: where maintd's page is, and what runs now."""

    page: str = ""  # without a slash at its end
    running: tuple[RunSummary, ...] = ()
    node: str = ""


def of_run(kind: NoticeKind, run: RunSummary, last: LastRuns, since: datetime, now: datetime, around: Around) -> Text:
    """A notice about a run that opened an incident; `run` has its evidence if it is a Run."""
    why, hint, next_step = why_of(run)
    word = run.state.replace("_", " ") if run.state is not RunState.SKIPPED else "was not done"
    facts = {MARK: run.emergency, "why": why, "since": _since(since, last, now), "hint": hint, "type": next_step}
    at = run.due_at if run.state is RunState.SKIPPED else run.finished_at
    when = "" if at is None else f" {'due' if run.state is RunState.SKIPPED else 'at'} {utc_minute(at)}"
    where = f" on {run.node}" if run.node else ""
    head = f"{_named(run)} {word}{when}{where}, run {run.id}."
    details = _details(run, why, hint, next_step, since, around)
    return _text(f"{run.entry} {word}: {why}", head, facts, details, around, run.id)


def late(run: RunSummary, now: datetime, around: Around) -> Text:
    """A run has not started although it was due."""
    by = rough_text(now - run.not_before)
    why = f"run {run.id} should have started {by} ago" + (f": {run.reason}" if run.reason else "")
    step = f"maintd show {run.id}"
    head = f"{_named(run)} has not started; it was due {utc_minute(run.due_at or run.not_before)}."
    details = _details(run, why, "", step, run.not_before, around)
    facts = {MARK: run.emergency, "why": why, "type": step}
    return _text(f"{run.entry} is late by {by}", head, facts, details, around, run.id)


def unplanned(entry: str, due_at: datetime, now: datetime, around: Around) -> Text:
    """A due time that no node planned."""
    why = f"it was due {utc_minute(due_at)}, and {rough_text(now - due_at)} later no node had planned it"
    step = "maintd status"
    details = {"entry": entry, "why": why, "since": utc_text(due_at), "next_step": step, "node": around.node}
    facts = {"why": why, "since": utc_minute(due_at), "type": step}
    return _text(f"{entry} was not planned", f"{entry} was due and was not planned.", facts, details, around)


def too_long(run: RunSummary, limit: str, now: datetime, around: Around) -> Text:
    """A run takes longer than it should; `limit` is how long that is and why."""
    started = run.started_at or run.queued_at
    took = duration_text(now - started - run.waited)
    at_gates = f" beside {duration_text(run.waited)} at gates" if run.waited else ""
    why = f"it has been running for {took}{at_gates}, expected at most {limit}"
    step = f"maintd logs -f {run.id}"
    hint = f"stop it with: maintd cancel {run.id}"
    head = f"{_named(run)} takes too long, run {run.id}" + (f" on {run.node}." if run.node else ".")
    details = _details(run, why, hint, step, started, around)
    facts = {MARK: run.emergency, "why": why, "since": utc_minute(started), "hint": hint, "type": step}
    return _text(f"{run.entry} takes too long: {took}", head, facts, details, around, run.id)


def waiting(run: Run, step: Step, now: datetime, around: Around, *, reminder: bool = False) -> Text:
    """A run waits at a gate for a person; `step` is the gate."""
    since = step.started_at or run.queued_at
    until = "" if run.waiting_until is None else utc_minute(run.waiting_until)
    role = step.gate.approve.role if step.gate is not None else "person"
    why = f"run {run.id} {run.reason or 'waits at a gate'}" + (f"; without a decision it ends {until}" if until else "")
    verb = f"still waits after {rough_text(now - since)}" if reminder else "waits"
    head = f"{_named(run)} {verb} at gate {step.name} for an {role}, run {run.id}."
    details = _details(run, why, "", "maintd gates", since, around)
    facts = {MARK: run.emergency, "why": why, "since": utc_minute(since), "until": until, "type": "maintd gates"}
    return _text(f"{run.entry} {verb} for an {role}", head, facts, details, around, run.id)


def of_maintd(kind: NoticeKind, text: str, since: datetime, around: Around) -> Text:
    """A problem of maintd itself."""
    step = "maintd validate" if kind is NoticeKind.CALENDAR_REFUSED else "maintd status"
    title = "the calendar was refused" if kind is NoticeKind.CALENDAR_REFUSED else f"node {around.node}"
    details = {"entry": None, "why": text, "since": utc_text(since), "next_step": step, "node": around.node}
    facts = {"why": text, "since": utc_minute(since), "type": step}
    head = f"A problem of maintd itself, on node {around.node}."
    return _text(title if kind is NoticeKind.CALENDAR_REFUSED else f"{title}: {text}", head, facts, details, around)


def recovered(incident: Incident, at: datetime, run: RunSummary | None, around: Around) -> Text:
    """An incident is over."""
    lasted = duration_text(at - incident.opened_at)
    over = f"{subject_text(incident.subject)} recovered"
    head, by = over, "" if run is None else f" with run {run.id}"
    if incident.kind is NoticeKind.CALENDAR_REFUSED:
        over = "the calendar was accepted again"
        head = f"The calendar was accepted again on {subject_text(incident.subject)}"
    head = f"{head} at {utc_minute(at)}{by}, after {lasted}."
    facts = {"was": f"{_WORDS[incident.kind]}: {incident.why}", "since": utc_minute(incident.opened_at)}
    marks = (str(incident.details.get("emergency", "")), "" if run is None else run.emergency)
    facts[MARK] = "; ".join(dict.fromkeys(filter(None, marks)))
    details = _of_incident(incident, around) | {"recovered_at": utc_text(at), "lasted": lasted}
    details["emergency"] = facts[MARK]
    if run is not None:
        details["run_id"] = run.id
    return _text(f"{over} after {lasted}", head, facts, details, around, None if run is None else run.id)


def still_failing(incident: Incident, now: datetime, around: Around) -> Text:
    """An incident is not over yet."""
    lasted = rough_text(now - incident.opened_at)
    name = subject_text(incident.subject)
    step = incident.details.get("next_step") or f"maintd status {quote(incident.subject)}"
    if incident.last_run_id and incident.last_run_id != incident.run_id:
        step = f"maintd show {incident.last_run_id}"
    facts = {
        MARK: incident.details.get("emergency", ""),
        "why": incident.why,
        "since": utc_minute(incident.opened_at),
        "hint": incident.details.get("hint", ""),
        "type": step,
    }
    details = _of_incident(incident, around) | {"reminder": incident.reminders + 1, "next_step": step}
    title = f"{name} is still {_WORDS[incident.kind]} after {lasted}"
    if incident.kind is NoticeKind.CALENDAR_REFUSED:
        title = f"the calendar is still refused on {name} after {lasted}"
    elif incident.kind is NoticeKind.MAINTD:
        title = f"{name} still has a {_WORDS[incident.kind]} after {lasted}"
    return _text(title, f"{title}.", facts, details, around, incident.last_run_id)


def why_of(run: RunSummary) -> tuple[str, str, str]:
    """Why a run needs attention, a hint, and what to type."""
    if run.state is RunState.SKIPPED:
        reason = f"{run.skip_reason}: {run.reason}" if run.reason else str(run.skip_reason)
        return reason, "", f"maintd trigger {quote(run.entry)}"
    why, hint, command = run_reason(run)
    return why[:LONGEST_WHY], hint, f"maintd {command} {run.id}"


# --- messages of several notices ---


def message_of(notices: Sequence[Notice]) -> tuple[str, str]:
    """Title and body of the message that has these notices, oldest first."""
    shown = _without_openings_of_recovered(notices)
    if len(shown) == 1:
        return shown[0].title, shown[0].body
    worst_first = sorted(shown, key=lambda notice: _urgency(notice.kind))
    counts = Counter(_WORDS.get(notice.kind, str(notice.kind)) for notice in worst_first)  # keeps the order
    summary = ", ".join(f"{count:,} {word}" for word, count in counts.items())
    names = list(dict.fromkeys(str(notice.details.get("entry") or "maintd") for notice in worst_first))
    listed = ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
    title = _clipped(f"{summary}: {listed}")
    if len(shown) <= WHOLE:
        return title, "\n\n".join(f"{notice.title}\n{notice.body}" for notice in shown)
    lines = [f"{utc_minute(notice.created_at)}  {notice.title}" for notice in shown[:MOST_LINES]]
    if len(shown) > MOST_LINES:
        lines.append(f"and {plural(len(shown) - MOST_LINES, 'more notice')}; list them with: maintd notices")
    return title, "\n".join([f"{plural(len(shown), 'notice')}: {summary}.", "", *lines, "", "type    maintd status"])


def payload_of(key: str, notices: Sequence[Notice]) -> dict[str, Any]:
    """The JSON that a webhook gets. `id` stays the same when a message is sent again."""
    title, body = message_of(notices)
    return {
        "version": 1,
        "id": key,
        "title": title,
        "body": body,
        "critical": any(notice.critical for notice in notices),
        "notices": [
            {
                "id": notice.id,
                "key": notice.key,
                "kind": notice.kind.value,
                "critical": notice.critical,
                "title": notice.title,
                "body": notice.body,
                "created_at": utc_text(notice.created_at),
                "incident": notice.incident_id,
                **notice.details,
            }
            for notice in notices
        ],
    }


def _urgency(kind: NoticeKind) -> int:
    if kind is NoticeKind.RECOVERED:
        return len(_URGENCY) + 1
    return _URGENCY.index(kind) if kind in _URGENCY else len(_URGENCY)


def _without_openings_of_recovered(notices: Sequence[Notice]) -> list[Notice]:
    """What began and ended within one message is shown once, by its end."""
    over = {notice.incident_id for notice in notices if notice.kind is NoticeKind.RECOVERED}
    return [
        notice
        for notice in notices
        if notice.kind is NoticeKind.RECOVERED or notice.incident_id is None or notice.incident_id not in over
    ]


# --- parts ---


def _text(
    title: str, head: str, facts: Mapping[str, str], details: dict[str, Any], around: Around, run_id: int | None = None
) -> Text:
    page = f"{around.page}/runs/{run_id}" if around.page and run_id is not None else around.page
    rows = {**facts, "page": page}
    lines = [f"{name:7} {_indented(text)}" for name, text in rows.items() if text]
    others = [run for run in around.running if run.id != run_id]
    if others:
        listed = [f"{run.entry} (run {run.id})" for run in others[:MOST_RUNNING]]
        more = len(others) - MOST_RUNNING
        lines += ["", f"running now: {', '.join(listed)}{f' and {more} more' if more > 0 else ''}"]
    details = details | {"page": page or None}
    return Text(_clipped(mask_text(title)), mask_text("\n".join([head, "", *lines])), details)


def _indented(text: str) -> str:
    return text.replace("\n", "\n" + " " * 8)


def _clipped(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_TITLE else f"{line[: LONGEST_TITLE - 1]}…"


def _named(run: RunSummary) -> str:
    return run.entry if run.title.lower().replace(" ", "-") == run.entry else f"{run.title} ({run.entry})"


def _since(since: datetime, last: LastRuns, now: datetime) -> str:
    text = utc_minute(since)
    return f"{text}, {plural(last.failures_in_a_row, 'failure')} in a row" if last.failures_in_a_row > 1 else text


def _details(run: RunSummary, why: str, hint: str, next_step: str, since: datetime, around: Around) -> dict[str, Any]:
    return {
        "entry": run.entry,
        "entry_title": run.title,
        "run_id": run.id,
        "state": run.state.value,
        "why": mask_text(why),
        "emergency": mask_text(run.emergency),
        "hint": hint,
        "next_step": next_step,
        "since": utc_text(since),
        "node": run.node,
        "checks": _checks(run),
        "running": [{"entry": other.entry, "run_id": other.id} for other in around.running if other.id != run.id],
    }


SENT_OF_CHECK = {"name", "observed", "expected", "unit", "hint", "optional"}


def _checks(run: RunSummary) -> list[dict[str, Any]]:
    """The checks that were not ok, of the last attempt of each step."""
    if not isinstance(run, Run):
        return []
    found = [
        {"step": step.name, **check.model_dump(mode="json", include=SENT_OF_CHECK)} | {"status": check.status.value}
        for step in run.steps
        for check in (step.attempts[-1].checks if step.attempts else ())
        if check.status is not CheckStatus.OK
    ]
    return found[:MOST_CHECKS]


def _of_incident(incident: Incident, around: Around) -> dict[str, Any]:
    entry = None if incident.subject.startswith(OWN) else incident.subject
    known = {key: incident.details[key] for key in KEPT if key in incident.details}
    return known | {
        "entry": entry,
        "run_id": incident.last_run_id,
        "about": incident.kind.value,
        "why": incident.why,
        "since": utc_text(incident.opened_at),
        "node": around.node,
    }
