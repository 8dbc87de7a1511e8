"""What persons decided about accesses: checked by the next review, and recorded by the step after the gate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from maintd.checks.access.table import MOST, Access, digest_of, from_note, rows_of, to_csv
from maintd.checks.hints import name_first, printable
from maintd.errors import TargetError, UsageError
from maintd.job.context import Context
from maintd.model.evidence import CheckStatus
from maintd.model.run import DecisionKind, StepState
from maintd.reports.document import Cell, Section, Table, columns
from maintd.reports.formatting import instant

JOB = "access_sign_off"
_SHOWN_COLUMNS = 6  # in the report, whose run is known
_CHUNK = 40  # rows of one handed value: below 16 KiB, also of long names
_RULE = "CIS Controls 8.1, 5.1: accounts are reviewed on a recurring schedule"
_CHANGES = "CIS Docker Benchmark 1.6.0, 1.1.2; CIS Controls 8.1, 6.8"
_REVOKED = "CIS Controls 8.1, 6.2: access that is no longer needed is revoked"


def report_earlier(ctx: Context, accesses: Sequence[Access], hosts: Mapping[str, str], within: timedelta) -> set[str]:
    """Compare with what was decided and listed earlier; return the ids that are new since the last review.

    hosts: the places of hosts that could be read, each with what was not read of its groups and sudo rules, empty for
    nothing: what is missing from such a place is not known to be gone. within: how long a person has for a decision.
    """
    now = ctx.now()
    decided: dict[str, tuple[datetime, bool]] = {}
    for point in ctx.series_of(JOB, "access_decision"):
        decided[point.labels.get("id", "")] = (point.at, point.value > 0)
    listed: dict[str, list[datetime]] = {}
    for point in ctx.series("access_listed"):
        listed.setdefault(point.labels.get("id", ""), []).append(point.at)
    reviews = sorted({at for times in listed.values() for at in times})
    last = reviews[-1] if reviews else None
    for each in accesses:
        # a revoke of the name is of all its rules, a keep may have been of a narrower one
        decision = decided.get(each.id) or decided.get(each.id_by_name)
        if decision is not None and not decision[1]:
            ctx.fail(
                f"{each.place}: {each.kind} {each.title} is revoked, as decided",
                f"still there, {decision[0]:%Y-%m-%d} decided to revoke it",
                expected="gone",
                hint="remove it; or sign it off as keep in this review",
                rule=_REVOKED,
            )
    open_names = []
    for each in accesses:
        # the last review may be of the version that listed names only
        one = each.id_by_name if last in listed.get(each.id_by_name, ()) else each.id
        due = [at for at in listed.get(one, ()) if at <= now - within]
        at = decided[one][0] if one in decided else None
        if due and (at is None or at < due[-1]):
            open_names.append(f"{each.place} {each.kind} {each.title}, listed {due[-1]:%Y-%m-%d}")
    ctx.check(
        "sign-off: accesses that were not reviewed in time",
        name_first(open_names) or "none",
        equals="none",
        severity=CheckStatus.WARN,
        hint="decide about all rows of this review: maintd gates" if open_names else "",
        rule=_RULE,
    )
    new = {each.id for each in accesses if last is not None and last not in listed.get(each.id, ())}
    _report_groups(ctx, accesses, hosts, last)
    for each in accesses:
        labels = {"id": each.id, "kind": each.kind, "place": each.place, "name": printable(each.name)[:100]}
        labels |= {"rule": each.rule} if each.rule else {}
        ctx.measure("access_listed", 1, **labels)
    return new


def _report_groups(ctx: Context, accesses: Sequence[Access], hosts: Mapping[str, str], last: datetime | None) -> None:
    """The difference of groups and sudo rules from the last review."""
    if last is None:
        return
    kinds = ("group member", "sudo rule")
    earlier = [
        labels
        for labels in (point.labels for point in ctx.series("access_listed") if point.at == last)
        if labels.get("kind") in kinds
    ]
    for place, unread in hosts.items():
        of_place = [labels for labels in earlier if labels["place"] == place]
        only_names = any(labels["kind"] == "sudo rule" and "rule" not in labels for labels in of_place)
        before = {(labels["kind"], labels["name"], labels.get("rule", "")) for labels in of_place}
        now = {
            (each.kind, printable(each.name)[:100], each.rule)
            for each in accesses
            if each.kind in kinds and each.place == place
        }
        added, gone = now - before, before - now
        if only_names:
            added = {each for each in now if each[:2] not in {one[:2] for one in before}}
            gone = {each for each in before if each[:2] not in {one[:2] for one in now}}
        if unread:
            gone = set()  # what is missing may be in the part that was not read
        changes = [f"+{_subject(*each)}" for each in sorted(added)] + [f"-{_subject(*each)}" for each in sorted(gone)]
        name = f"{place}: groups and sudo rules since the last review"
        if unread and not changes:
            hint = "see the checks of this host that are unknown"
            ctx.unknown(name, f"partial: {unread}", expected="the same", hint=hint, rule=_CHANGES)
            continue
        if only_names and not changes:
            cause = f"partial: the review of {last:%Y-%m-%d} has kept only names of sudo rules, and these are the same"
            hint = "check the sudo rules of this table; the next review compares them"
            ctx.unknown(name, cause, expected="the same", hint=hint, rule=_CHANGES)
            continue
        ctx.check(
            name,
            name_first(changes) or "the same",
            equals="the same",
            severity=CheckStatus.WARN,
            hint="find out who did this; members of docker have the rights of root" if changes else "",
            rule=_CHANGES,
        )


def _subject(kind: str, name: str, rule: str) -> str:
    return f"{name}: {rule} ({kind})" if rule else f"{name} ({kind})"


def show_table(ctx: Context, accesses: Sequence[Access], new: set[str]) -> Section:
    """Save the table, hand it to the gate and the step after it, and return it as a section of the report."""
    rows = rows_of(accesses, ctx.run_id)
    if len(rows) > MOST:
        ctx.unknown("sign-off: all accesses", f"partial: {len(rows)} are more than {MOST}", expected=f"at most {MOST}")
        rows = rows[:MOST]
    digest = digest_of(rows)
    ctx.save("access-review.csv", to_csv(rows), "text/csv; charset=utf-8")
    ctx.hand_over("access_table", {"digest": digest, "rows": len(rows)})
    for start in range(0, len(rows), _CHUNK):
        ctx.hand_over(f"access_rows_{start // _CHUNK}", [list(row) for row in rows[start : start + _CHUNK]])
    cells = tuple(
        (*(Cell(text) for text in row[:_SHOWN_COLUMNS]), Cell("new" if row[0] in new else "")) for row in rows
    )
    titles = columns("Id", "Kind", "Place", "Name", "Rights", "Last used", "New")
    table = Table(f"To be signed off: table {digest}", titles, cells, "Nothing was found.")
    how = (
        "Save access-review.csv of this run, write keep or revoke into the column decision, then: maintd approve RUN "
        "--decisions access-review.csv. It is refused if the table is not the one of the run."
    )
    return Section("Sign-off", tables=(table,), notes=(how,))


def handed_rows(ctx: Context) -> tuple[str, list[tuple[str, ...]]] | None:
    """The digest and rows that the review of this run has handed over; None: it has not."""
    about = ctx.handed("access_table")
    if not isinstance(about, dict):
        return None
    rows: list[tuple[str, ...]] = []
    number = 0
    while len(rows) < about["rows"]:
        part = ctx.handed(f"access_rows_{number}")
        if not part:
            return None
        rows += [tuple(row) for row in part]
        number += 1
    return str(about["digest"]), rows


def record(ctx: Context, gate: str) -> None:
    """Check what was decided at the gate, and keep it as evidence."""
    name = "sign-off: decided"
    found = handed_rows(ctx)
    if found is None:
        if ctx.outcome_of(gate) == StepState.SKIPPED:
            hint = "see why in the step access_review of this run"
            raise TargetError("the review of this run had nothing to review", hint, cause="not_configured")
        ctx.unknown(name, "not_found: the review of this run has handed over no table", expected="every row")
        return
    digest, rows = found
    decision = ctx.gate_decisions.get(gate)
    again = "request a new table: maintd trigger access-review"
    if digest_of(rows) != digest:
        ctx.fail(name, "the table was changed in the store", expected="every row", hint=again, rule=_RULE)
        return
    if decision is None or decision.kind is not DecisionKind.APPROVED:
        what = "no decision" if decision is None else f"{decision.kind.value.replace('_', ' ')} by {decision.by}"
        ctx.fail(name, f"nothing was signed off: {what}", expected="every row", hint=again, rule=_RULE)
        return
    try:
        made = from_note(decision.note, digest, [row[0] for row in rows])
    except UsageError as error:
        ctx.fail(name, f"not usable: {error.message}", expected="every row", hint=again, rule=_RULE)
        return
    subject = {row[0]: row for row in rows}
    for one, word in made.by_id.items():
        kind, place, title = subject[one][1:4]
        labels = {"id": one, "kind": kind, "place": place, "name": title[:100]}
        ctx.measure("access_decision", word == "keep", **labels)
    ctx.check(
        name,
        len(made.by_id),
        at_least=len(rows),
        severity=CheckStatus.WARN,
        hint=f"{len(made.undecided)} of {len(rows)} rows are undecided; {again}" if made.undecided else "",
        rule=_RULE,
    )
    revoked = [subject[one] for one, word in made.by_id.items() if word == "revoke"]
    ctx.log(f"signed off by {decision.by}, {instant(decision.at)}: {len(revoked)} of {len(rows)} to be revoked")
    ctx.save("access-sign-off.csv", to_csv(rows, made.by_id), "text/csv; charset=utf-8")
    evidence = {
        "table": digest,
        "reviewer": decision.by,
        "origin": decision.origin,
        "at": decision.at.isoformat(),
        "note": decision.note,
        "rows": len(rows),
        "keep": sorted(one for one, word in made.by_id.items() if word == "keep"),
        "revoke": [{"id": row[0], "kind": row[1], "place": row[2], "name": row[3]} for row in revoked],
        "undecided": list(made.undecided),
    }
    ctx.save("access-sign-off.json", json.dumps(evidence, indent=1), "application/json")
