"""Procedures with mistakes are refused at load: each with its line, what is wrong, and what to write instead."""

from __future__ import annotations

import pytest
from support.calendars import problems, read


def one(text: str) -> str:
    """The one problem of a text."""
    found = problems(text)
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        ("{}", "the gate asks nothing"),
        ("{ask: ' '}", "the gate asks nothing"),
        ("{checklist: []}", "the gate asks nothing"),
        ("{ask: x, timeout: 0s}", "timeout must be longer than zero"),
        ("{ask: x, remind: 0s}", "remind must be longer than zero"),
        (
            "{ask: x, timeout: 1h, remind: 2h}",
            "remind 2h never reminds: the run ends at its timeout of 1h; make remind",
        ),
        ("{ask: x, timeout: 1h, remind: 1h}", "remind 1h never reminds"),
        (
            "{ask: x, remind: 30h}",
            "the run ends at its timeout of 1d by default; make remind shorter, or timeout longer",
        ),
        ("{checklist: ['']}", "an item of the checklist is empty; write what is to be checked, or remove it"),
        ("{checklist: [a, '  ']}", "an item of the checklist is empty"),
        ("{checklist: [~]}", "an item of the checklist is empty"),
        ("{checklist: [{item: '', proof: {step: look}}]}", "an item of the checklist is empty"),
        ("{checklist: [{item: a, proof: {}}]}", "a proof is one of {entry: NAME, within: 26h}"),
        ("{checklist: [{item: a, proof: {check: look}}]}", 'proof: check is "STEP/CHECK NAME"'),
        ("{checklist: [{item: a, proof: {step: lok}}]}", 'unknown step "lok"; did you mean "look"?'),
        ("{checklist: [{item: a, proof: {step: backup}}]}", 'unknown step "backup"; steps before this gate: look'),
        ("{checklist: [{item: a, proof: {step: gate}}]}", 'step "gate" is a gate, and proves nothing'),
        (
            "{checklist: [{item: a, proof: {step: vacuum}}]}",
            'step "vacuum" runs after this gate; move it before the gate',
        ),
        ("{checklist: [{item: a, proof: {check: vacuum/x}}]}", 'step "vacuum" runs after this gate'),
        ("{checklist: [{item: a, proof: {step: undo-look}}]}", 'step "undo-look" runs after this gate'),
        ("{checklist: [{item: a, proof: {step: look-2}}]}", 'step "look-2" runs after this gate'),
        (
            "{checklist: [{item: a, proof: {entry: b, within: 1h}}]}",
            'unknown entry "b"; name an entry of this calendar',
        ),
        ("{checklist: [{item: a, proof: {entry: a, within: 1h}}]}", "an entry cannot prove itself"),
        ("{checklist: [{item: a, proof: {entry: a, within: 0s}}]}", "within must be longer than zero"),
        ("{ask: x, approve: {role: viewer}}", "a viewer may not act"),
    ],
)
def test_a_gate_that_could_never_be_passed_is_refused_with_its_line(gate: str, expected: str) -> None:
    text = f"""
        timezone: UTC
        entries:
          a:
            steps:
            - {{job: look, undo: look}}
            - gate: {gate}
            - vacuum
            always: [look]
    """

    found = one(text)

    assert found.startswith("schedules.yaml:6:") and 'entry "a": gate: ' in found and expected in found, found


def gated(name: str, proof: str, more: str = "") -> str:
    checklist = f"[{{item: Proved, proof: {{entry: {proof}, within: 1h}}}}]"
    return f"  {name}: {{{more}steps: [gate: {{checklist: {checklist}}}, look]}}\n"


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (gated("a", "b") + gated("b", "a"), '"a" needs "b" (a proof), "b" needs "a" (a proof); remove one'),
        (gated("a", "b") + gated("b", "a"), '3:15: entry "a": gate: "Proved": proof: a cycle, none of them can'),
        (gated("a", "b") + gated("b", "c") + gated("c", "a"), '"b" needs "c" (a proof), "c" needs "a" (a proof)'),
        (gated("a", "b") + "  b: {after: {entry: a, within: 1h}, job: look}\n", '"b" needs "a" (after); remove one'),
        (gated("x", "a") + gated("a", "b") + gated("b", "a"), '4:15: entry "a": gate: '),
    ],
)
def test_entries_that_prove_each_other_are_refused_once(entries: str, expected: str) -> None:
    found = one(f"timezone: UTC\nentries:\n{entries}")

    assert expected in found, found


def test_a_chain_of_proofs_without_a_cycle_is_valid() -> None:
    entries = gated("a", "b") + gated("b", "c") + gated("d", "c") + "  c: {job: look}\n"

    assert problems(f"timezone: UTC\nentries:\n{entries}") == []


def test_a_reminder_after_the_end_of_the_window_is_a_warning() -> None:
    found = read("""
        entries:
          a:
            window: {lasts: 1h, rollback_by: 15m}
            steps: [gate: {ask: x, remind: 45m}, look]
    """).warnings

    expected = "remind 45m never reminds: the window leaves 45m for work; make remind shorter"
    assert [text for text in found if "remind" in text] == [f'schedules.yaml:5:13: entry "a": gate: {expected}']


def test_a_proof_of_a_disabled_entry_is_a_warning() -> None:
    found = read(f"timezone: UTC\nentries:\n{gated('a', 'b')}  b: {{job: look, enabled: false}}\n").warnings

    assert [text for text in found if "proof" in text] == [
        'schedules.yaml:3:15: entry "a": gate: "Proved": proof: entry "b" is disabled, so it is not started'
    ]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("window: {lasts: 1h, rollback_by: 1h}\n    job: look", "rollback_by 1h leaves no time for work"),
        ("window: {rollback_by: 1h}\n    job: look", "a window has an end; write lasts: 2h"),
        ("window: {lasts: 1h, rehearsal: drll}\n    job: look", 'window: rehearsal: unknown entry "drll"'),
        ("on_failure: undo\n    job: look", "undo has nothing to undo; give a step an undo"),
        ("on_failure: {run: b}\n    job: look", 'unknown entry "b"; name an entry of this calendar'),
        ("on_failure: {run: a}\n    job: look", "the entry cannot run itself"),
        ("steps: [{job: look, undo: lok}]", 'unknown job "lok"; did you mean "look"?'),
        ("steps: [look]\n    always: [{job: look, undo: look}]", "a step of `always` cannot be undone"),
        ("steps: [look]\n    always: [gate: {ask: x}]", "what always runs cannot wait for a person"),
    ],
)
def test_a_window_an_undo_or_a_follow_up_that_cannot_work_is_refused(lines: str, expected: str) -> None:
    found = one(f"timezone: UTC\nentries:\n  a:\n    {lines}\n")

    assert 'entry "a"' in found and expected in found, found
