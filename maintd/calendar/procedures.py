"""What makes a procedure of an entry: gates with checklists and proofs, undo, and windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from maintd.calendar.policies import read_positive
from maintd.calendar.value_readers import NodeReader, kind
from maintd.config.yaml_tree import MappingNode, Node, ScalarNode
from maintd.model.access import Role
from maintd.model.entry import Approval, ChecklistItem, Gate, OnFailure, Proof, StepPlan, Window
from maintd.schedule.time_of_day import time_of_day_problem
from maintd.units import format_duration

GATE_KEYS = ("checklist", "approve", "ask", "timeout", "remind", "decisions")
WINDOW_KEYS = ("lasts", "rollback_by", "announce", "not_across", "rehearsal")

MAX_ITEMS = 100
"""Items of one checklist."""

_PROOF_KEYS = ("entry", "within", "step", "check")


def read_gate(scope: NodeReader, node: Node) -> Gate | None:
    """A gate as `{checklist: […], approve: {role: …}, ask: …, timeout: …}`; None if there is an error."""
    before = len(scope.problems.errors)
    if not isinstance(node, MappingNode):
        scope.error(node, f'a gate must be a mapping, not {kind(node)}; for example gate: {{ask: "Is it done?"}}')
        return None
    fields = {key: value for key, (_, value) in scope.fields(node, "a gate", GATE_KEYS).items()}
    found: dict[str, object] = {}
    if "ask" in fields:
        found["ask"] = scope.text(fields["ask"], "ask")
    if "decisions" in fields:
        found["decisions"] = scope.text(fields["decisions"], "decisions")
    if "checklist" in fields:
        found["checklist"] = _checklist(scope, fields["checklist"])
    if "approve" in fields:
        found["approve"] = _approval(scope, fields["approve"])
    for key in ("timeout", "remind"):
        if key in fields:
            found[key] = read_positive(scope, fields[key], key)
    timeout, remind = found.get("timeout"), found.get("remind")
    limit = timeout if isinstance(timeout, timedelta) else Gate().timeout
    if isinstance(remind, timedelta) and remind >= limit:
        default = "" if "timeout" in fields else " by default"
        scope.error(
            fields["remind"],
            f"remind {format_duration(remind)} never reminds: the run ends at its timeout of {format_duration(limit)}"
            f"{default}; make remind shorter, or timeout longer",
        )
    if not found.get("ask") and not found.get("checklist") and len(scope.problems.errors) == before:
        scope.error(node, "the gate asks nothing; give it a checklist, or ask: with what the person is to decide")
    if len(scope.problems.errors) > before:
        return None
    return Gate.model_validate(found)


def _checklist(scope: NodeReader, node: Node) -> tuple[ChecklistItem, ...]:
    items = scope.items(node)
    if len(items) > MAX_ITEMS:
        scope.error(node, f"a checklist has at most {MAX_ITEMS} items, not {len(items)}")
        return ()
    read = [_item(scope, item) for item in items]
    return tuple(item for item in read if item is not None)


def _item(scope: NodeReader, node: Node) -> ChecklistItem | None:
    if isinstance(node, ScalarNode):
        text = _item_text(scope, node)
        return None if text is None else ChecklistItem(text=text)
    fields = scope.fields(node, "an item of a checklist", ("item", "proof"))
    if "item" not in fields:
        scope.error(node, "an item of a checklist is a text, or {item: TEXT, proof: {entry: NAME, within: 26h}}")
        return None
    text = _item_text(scope, fields["item"][1])
    proof = _proof(scope, fields["proof"][1]) if "proof" in fields else None
    return None if text is None or ("proof" in fields and proof is None) else ChecklistItem(text=text, proof=proof)


def _item_text(scope: NodeReader, node: Node) -> str | None:
    text = "" if isinstance(node, ScalarNode) and node.empty else scope.text(node, "an item of the checklist")
    if text == "":
        scope.error(node, "an item of the checklist is empty; write what is to be checked, or remove it")
    return text or None


def _proof(scope: NodeReader, node: Node) -> Proof | None:
    fields = {key: value for key, (_, value) in scope.fields(node, "a proof", _PROOF_KEYS).items()}
    kinds = [key for key in ("entry", "step", "check") if key in fields]
    if len(kinds) != 1 or ("within" in fields) != (kinds == ["entry"]):
        scope.error(
            node,
            "a proof is one of {entry: NAME, within: 26h}, {step: NAME} and {check: STEP/CHECK NAME}",
        )
        return None
    if kinds == ["entry"]:
        within = read_positive(scope, fields["within"], "within")
        entry = scope.text(fields["entry"], "proof: entry")
        return None if entry is None or within is None else Proof(entry=entry, within=within)
    text = scope.text(fields[kinds[0]], f"proof: {kinds[0]}")
    if text is None:
        return None
    if kinds == ["check"] and not all(text.partition("/")):
        scope.error(fields["check"], 'proof: check is "STEP/CHECK NAME", for example "backup_verify/backups found"')
        return None
    return Proof(**{kinds[0]: text})


def _approval(scope: NodeReader, node: Node) -> Approval | None:
    fields = scope.fields(node, "approve", ("role", "not_requester"))
    role: Role | None = Role.OPERATOR
    if "role" in fields:
        role = scope.choice(fields["role"][1], "role", Role)
        if role is Role.VIEWER:
            scope.error(
                fields["role"][1], "a viewer may not act, so the gate could not be passed; write operator or more"
            )
            return None
    strict = scope.flag(fields["not_requester"][1], "not_requester") if "not_requester" in fields else False
    return None if role is None or strict is None else Approval(role=role, not_requester=strict)


def read_window(scope: NodeReader, node: Node) -> Window | None:
    """`window: {lasts: 2h, rollback_by: 30m, announce: [24h, 1h], not_across: "00:00 UTC"}`."""
    within = scope.within("window")
    fields = {key: value for key, (_, value) in within.fields(node, "window", WINDOW_KEYS).items()}
    before = len(scope.problems.errors)
    if "lasts" not in fields:
        within.error(node, "a window has an end; write lasts: 2h")
        return None
    lasts = read_positive(within, fields["lasts"], "lasts")
    rollback = within.duration(fields["rollback_by"], "rollback_by") if "rollback_by" in fields else timedelta(0)
    announce = (
        [read_positive(within, item, "announce") for item in within.items(fields["announce"])]
        if "announce" in fields
        else []
    )
    not_across = within.text(fields["not_across"], "not_across") if "not_across" in fields else ""
    if not_across:
        problem = time_of_day_problem(not_across)
        if problem:
            within.error(fields["not_across"], problem)
    rehearsal = within.text(fields["rehearsal"], "rehearsal") if "rehearsal" in fields else ""
    if lasts is not None and rollback is not None and rollback >= lasts:
        within.error(
            fields["rollback_by"],
            f"rollback_by {format_duration(rollback)} leaves no time for work in a window of {format_duration(lasts)}; "
            "make the window longer, or rollback_by shorter",
        )
    if len(scope.problems.errors) > before or lasts is None or rollback is None:
        return None
    return Window(
        lasts=lasts,
        rollback_by=rollback,
        announce=tuple(sorted((each for each in announce if each is not None), reverse=True)),
        not_across=not_across or "",
        rehearsal=rehearsal or "",
    )


def read_on_failure(scope: NodeReader, node: Node) -> tuple[OnFailure | None, str]:
    """`on_failure: stop | continue | undo`, or a mapping `{run: ENTRY, undo: true}`; the second value is the entry."""
    if not isinstance(node, MappingNode):
        return scope.choice(node, "on_failure", OnFailure), ""
    fields = scope.fields(node, "on_failure", ("run", "undo"))
    name = scope.text(fields["run"][1], "on_failure: run") if "run" in fields else ""
    undo = scope.flag(fields["undo"][1], "undo") if "undo" in fields else False
    if not name and not undo:
        scope.error(node, "on_failure is stop, continue, undo, or a mapping as {run: ENTRY}")
    return (OnFailure.UNDO if undo else OnFailure.STOP), name or ""


def with_undo(steps: Sequence[StepPlan], undo: Mapping[str, StepPlan]) -> tuple[StepPlan, ...]:
    """The steps in the order of a plan: those in order, the undo steps in reverse order, the `always` steps.

    `undo` has the undo steps by the name of the step that they undo.
    """
    main = [step for step in steps if not step.always]
    undoing = [
        undo[step.name].model_copy(update={"name": f"undo-{step.name}", "undoes": step.name})
        for step in reversed(main)
        if step.name in undo
    ]
    return (*main, *undoing, *(step for step in steps if step.always))
