"""Params for one run, assigned to the steps of its entry. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maintd.errors import UsageError, nearest
from maintd.model.entry import Entry, StepPlan
from maintd.model.job import JobDescription
from maintd.secret_params import Reference, without_secrets


def with_params(entry: Entry, given: Mapping[str, Any], jobs: Mapping[str, JobDescription]) -> tuple[StepPlan, ...]:
    """The steps of an entry, with `given` overriding their params.

    A key is `step.param`, or `param` if the entry has one step. Raises UsageError naming every unknown key with a
    similar name.
    """
    steps = {step.name: step for step in entry.steps}
    problems: list[str] = []
    overrides: dict[str, dict[str, Any]] = {name: {} for name in steps}
    for key, value in given.items():
        name, param, problem = _place(entry, steps, key)
        problem = problem or _unknown_param(jobs.get(steps[name].job), steps[name], param)
        if problem:
            problems.append(problem)
        else:
            overrides[name][param] = value
    if problems:
        raise UsageError("\n".join(problems))
    return tuple(_with(step, own) if (own := overrides[step.name]) else step for step in entry.steps)


def _with(step: StepPlan, params: Mapping[str, Any]) -> StepPlan:
    overlaid = {name: place for name, place in step.overlaid.items() if name not in params}
    return step.model_copy(update={"params": {**step.params, **params}, "overlaid": overlaid})


def plan_with_params(
    entry: Entry, given: Mapping[str, Any], jobs: Mapping[str, JobDescription], reference: Reference
) -> tuple[tuple[StepPlan, ...], dict[str, Any]]:
    """The steps as `with_params`, and the given params, both with the secrets in them replaced by references."""
    steps = []
    for step in with_params(entry, given, jobs):
        job = jobs.get(step.job)
        if job is not None and step.params:
            step = step.model_copy(update={"params": without_secrets(step.params, job.params_schema, reference)})
        steps.append(step)
    by_name = {step.name: step for step in steps}
    places = {key: _place(entry, by_name, key) for key in given}
    return tuple(steps), {key: by_name[name].params[param] for key, (name, param, _) in places.items()}


def _place(entry: Entry, steps: Mapping[str, StepPlan], key: str) -> tuple[str, str, str]:
    """(step, param, "") for a key, or ("", "", problem)."""
    step, dot, param = key.partition(".")
    if dot and step in steps:
        return step, param, ""
    if len(steps) == 1 and not dot:
        return next(iter(steps)), key, ""
    if not dot:
        example = f"{next(iter(steps))}.{key}"
        return "", "", f'"{key}": {entry.name} has {len(steps)} steps; name one, for example "{example}"'
    near = nearest(step, steps)
    meant = f'; did you mean "{near}.{param}"?' if near else f"; its steps are {', '.join(steps)}"
    return "", "", f'"{key}": {entry.name} has no step "{step}"{meant}'


def _unknown_param(job: JobDescription | None, step: StepPlan, param: str) -> str:
    known = [] if job is None else [item.name for item in job.params]
    if job is None or param in known:
        return ""
    near = nearest(param, known)
    if near:
        return f'job "{step.job}" has no param "{param}"; did you mean "{near}"?'
    return f'job "{step.job}" has no param "{param}"; ' + (f"it has {', '.join(known)}" if known else "it has none")
