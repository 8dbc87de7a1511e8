"""The order of a run's steps: which is next, what is undone, which `always` steps run. Pure.

A plan has the steps in order, then undo steps in reverse order, then `always` steps. Outcomes are by index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from maintd.executor.outcome import BAD, StepOutcome
from maintd.model.entry import StepPlan, When
from maintd.model.run import StepState

Outcomes = Mapping[int, StepOutcome]


def main_steps(plan: Sequence[StepPlan]) -> list[tuple[int, StepPlan]]:
    """The steps in order, gates included."""
    return [(index, step) for index, step in enumerate(plan) if not step.always and not step.undoes]


def always_steps(plan: Sequence[StepPlan]) -> list[tuple[int, StepPlan]]:
    """The steps at the end, in order."""
    return [(index, step) for index, step in enumerate(plan) if step.always]


def undo_steps(plan: Sequence[StepPlan]) -> list[tuple[int, StepPlan]]:
    """The undo steps, in the order in which they run."""
    return [(index, step) for index, step in enumerate(plan) if step.undoes]


def needs_undo(step: StepPlan, plan: Sequence[StepPlan], outcomes: Outcomes, left_by: int | None) -> bool:
    """Whether what this undo step undoes may have had an effect: its step was started, whatever its outcome.

    Or an earlier run, `left_by`, left it in effect, and this one did not come as far.
    """
    if left_by is not None:
        return True
    undone = next((index for index, other in enumerate(plan) if other.name == step.undoes), None)
    return undone is not None and _has_run(outcomes.get(undone))


def has_failed(plan: Sequence[StepPlan], outcomes: Outcomes) -> bool:
    """Whether a step did not end well: it failed, was stopped or rejected, or was not reached."""
    return any(
        index not in outcomes or outcomes[index].state in BAD or _is_unreached(outcomes[index])
        for index, _ in main_steps(plan)
    )


def when_not_met(step: StepPlan, index: int, plan: Sequence[StepPlan], outcomes: Outcomes) -> str:
    """Why an `always` step does not run after the steps before it; empty when it runs.

    `unknown` is no success. A step without its target counts as neither.
    """
    if step.when is When.ALWAYS:
        return ""
    earlier = [(other, outcomes.get(place)) for place, other in enumerate(plan[:index])]
    undone = next((other.name for other, outcome in earlier if other.undoes and _has_run(outcome)), "")
    counted = [
        (other.name, outcome)
        for other, outcome in earlier
        if not other.undoes and not (outcome is not None and outcome.not_configured)
    ]
    bad = next((name for name, outcome in counted if outcome is None or not outcome.state.is_success), "")
    succeeded = bool(counted) and not bad and not undone
    if step.when is When.SUCCEEDED and not succeeded:
        if undone:
            return f"it runs only after a success, and the run was undone ({undone})"
        return f'it runs only after a success, and "{bad}" did not succeed' if bad else "no step before it succeeded"
    if step.when is When.FAILED and succeeded:
        return "it runs only after a failure, and all steps before it succeeded"
    return ""


def _has_run(outcome: StepOutcome | None) -> bool:
    return outcome is not None and outcome.state not in (StepState.SKIPPED, StepState.PENDING)


def _is_unreached(outcome: StepOutcome) -> bool:
    return outcome.state is StepState.SKIPPED and not outcome.not_configured
