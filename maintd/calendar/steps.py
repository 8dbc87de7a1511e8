"""The steps of an entry: `vacuum`, `{vacuum: {full: true}}`, or `{job: vacuum, params: {…}, timeout: 10m}`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from maintd.calendar.policies import MAX_RETRIES, read_locks, read_positive
from maintd.calendar.procedures import read_gate
from maintd.calendar.value_readers import NodeReader, kind, overlaid, unknown
from maintd.config.yaml_tree import MappingNode, Node, ScalarNode, key_at, value_of
from maintd.model.entry import LockMode, OnFailure, StepPlan, When
from maintd.model.job import BrokenJob, JobDescription

if TYPE_CHECKING:
    from maintd.job.description import ParamProblem

Jobs = Mapping[str, JobDescription | BrokenJob]
ValidateAll = Callable[[Sequence[tuple[str, Mapping[str, Any]]]], "list[list[ParamProblem]]"]

STEP_KEYS = ("job", "params", "timeout", "retries", "on_failure", "always", "when", "undo", "locks", "required")

GATE = "gate"
"""The name of a step that is a gate."""


@dataclass
class ParamsToValidate:
    """Params with known names, collected so that one process validates them all."""

    found: list[tuple[NodeReader, Node | None, str, dict[str, Any]]] = field(default_factory=list)

    def validate(self, validate_all: ValidateAll) -> None:
        """Add an error for each invalid param."""
        distinct: dict[str, tuple[str, dict[str, Any]]] = {
            repr((job, sorted(params.items()))): (job, params) for _, _, job, params in self.found
        }
        answers = dict(zip(distinct, validate_all(list(distinct.values())), strict=True)) if distinct else {}
        for scope, node, job, params in self.found:
            for location, message in answers[repr((job, sorted(params.items())))]:
                name = ".".join(str(part) for part in location)
                about = f'param "{name}": {message}' if name else message
                if node is not None:
                    scope.error(key_at(node, location), about)


@dataclass(frozen=True)
class StepReader:
    """Reads the steps of every entry of a calendar."""

    jobs: Jobs
    params: ParamsToValidate

    def steps(self, scope: NodeReader, node: Node, locks: Mapping[str, LockMode], *, always: bool) -> list[StepPlan]:
        """The valid steps of a list, named after their jobs; see `with_unique_names`."""
        return [step for step, _ in self.steps_with_undo(scope, node, locks, always=always)]

    def steps_with_undo(
        self, scope: NodeReader, node: Node, locks: Mapping[str, LockMode], *, always: bool
    ) -> list[tuple[StepPlan, StepPlan | None]]:
        """Like `steps`, each with the step that undoes it."""
        read = [self._step(scope, item, locks, always) for item in scope.items(node)]
        return [found for found in read if found is not None]

    def one(
        self, scope: NodeReader, job: Node, params: Node | None, locks: Mapping[str, LockMode], **options: Any
    ) -> StepPlan | None:
        """A step that runs a job with params; None if there is an error."""
        name = scope.text(job, "job")
        if name is None:
            return None
        within = scope.within(f'step "{name}"')
        known = self.jobs.get(name)
        if known is None:
            scope.error(job, unknown("job", name, sorted(self.jobs), "run: maintd jobs"))
            return None
        values = self._params(within, job, params, known)
        own = {} if isinstance(known, BrokenJob) else known.locks
        return StepPlan(
            name=name,
            job=name,
            params=values,
            overlaid=overlaid(params.items) if isinstance(params, MappingNode) else {},
            locks=_merge_locks(own, locks),
            mutates=True if isinstance(known, BrokenJob) else known.mutates,
            repeatable=False if isinstance(known, BrokenJob) else known.repeatable,
            only_in_window=not isinstance(known, BrokenJob) and known.only_in_window,
            watches=() if isinstance(known, BrokenJob) else known.watches,
            **options,
        )

    def _step(
        self, scope: NodeReader, node: Node, locks: Mapping[str, LockMode], always: bool
    ) -> tuple[StepPlan, StepPlan | None] | None:
        if isinstance(node, ScalarNode):
            return _alone(self.one(scope, node, None, locks, always=always))
        if not isinstance(node, MappingNode) or not node.items:
            scope.error(node, f"a step must be the name of a job or a mapping, not {kind(node)}")
            return None
        keys = [key for key, _ in node.items]
        if any(key.text == GATE for key in keys):
            return _alone(_gate(scope, node, always))
        if len(keys) == 1 and keys[0].text != "job":
            return _alone(self.one(scope, keys[0], node.items[0][1], locks, always=always))
        if not any(key.text == "job" for key in keys):
            name = next((key.text for key in keys if key.text in self.jobs), keys[0].text)
            scope.error(
                node, f"a step with options must name its job; for example {{job: {name}, params: {{…}}, timeout: 10m}}"
            )
            return None
        fields = {key: value for key, (_, value) in scope.fields(node, "a step", STEP_KEYS).items()}
        if "job" not in fields:
            return None
        within = scope.within(f'step "{value_of(fields["job"])}"')
        options: dict[str, Any] = {"always": always}
        if "timeout" in fields:
            options["timeout"] = read_positive(within, fields["timeout"], "timeout")
        if "retries" in fields:
            options["retries"] = within.number(fields["retries"], "retries", 0, MAX_RETRIES)
        if "on_failure" in fields:
            options["on_failure"] = within.choice(fields["on_failure"], "on_failure", OnFailure)
            if options["on_failure"] is OnFailure.UNDO:
                within.error(fields["on_failure"], "on_failure: undo is for the whole entry; write it there")
        if "always" in fields:
            options["always"] = within.flag(fields["always"], "always") or always
        if "required" in fields:
            options["required"] = within.flag(fields["required"], "required") or False
        if "when" in fields:
            options["when"] = within.choice(fields["when"], "when", When) or When.ALWAYS
            if not options["always"]:
                within.error(
                    fields["when"], "when is for steps of `always`; a step of `steps` runs after the one before"
                )
        if "locks" in fields:
            locks = _merge_locks(locks, read_locks(within, fields["locks"]))
        undo = None
        if "undo" in fields:
            if options["always"]:
                within.error(fields["undo"], "a step of `always` cannot be undone; move it to `steps`")
            undo = self._undo(within, fields["undo"], locks)
        step = self.one(scope, fields["job"], fields.get("params"), locks, **options)
        if step is not None and step.retries and not step.repeatable:
            within.warn(fields["retries"], f'retries has no effect: job "{step.job}" is not repeatable')
        return None if step is None else (step, undo)

    def _undo(self, scope: NodeReader, node: Node, locks: Mapping[str, LockMode]) -> StepPlan | None:
        """`undo: JOB`, or `undo: {job: JOB, params: {…}, timeout: 5m}`."""
        if isinstance(node, ScalarNode):
            return self.one(scope, node, None, locks)
        fields = {key: value for key, (_, value) in scope.fields(node, "undo", ("job", "params", "timeout")).items()}
        if "job" not in fields:
            scope.error(node, "undo names the job that undoes the step, as undo: {job: service_unhalt}")
            return None
        timeout = read_positive(scope, fields["timeout"], "timeout") if "timeout" in fields else None
        return self.one(scope, fields["job"], fields.get("params"), locks, timeout=timeout)

    def _params(
        self, scope: NodeReader, job: Node, node: Node | None, known: JobDescription | BrokenJob
    ) -> dict[str, Any]:
        pairs = [] if node is None else scope.pairs(node, "params", "param")
        values = {key.text: value_of(value) for key, value in pairs}
        if isinstance(known, BrokenJob):
            return values
        names = [param.name for param in known.params]
        wrong = False
        for key, _ in pairs:
            if key.text not in names:
                wrong = True
                otherwise = f"run: maintd jobs show {known.name}" if names else f'job "{known.name}" has no params'
                scope.error(key, unknown("param", key.text, names, otherwise))
        for param in known.params:
            if param.required and param.name not in values:
                wrong = True
                about = f": {param.description}" if param.description else ""
                scope.error(node or job, f'param "{param.name}" is required ({param.type}{about})')
        if not wrong:
            self.params.found.append((scope, node or job, known.name, values))
        return values


def _alone(step: StepPlan | None) -> tuple[StepPlan, None] | None:
    return None if step is None else (step, None)


def _gate(scope: NodeReader, node: MappingNode, always: bool) -> StepPlan | None:
    """`gate: {…}`. It changes nothing itself."""
    fields = scope.fields(node, "a step with a gate", (GATE,))
    if always:
        scope.error(node, "a gate is a step of `steps`; what always runs cannot wait for a person")
        return None
    gate = read_gate(scope.within("gate"), fields[GATE][1]) if GATE in fields else None
    return None if gate is None else StepPlan(name=GATE, job="", gate=gate, mutates=False, repeatable=True)


def with_unique_names(steps: Sequence[StepPlan]) -> tuple[StepPlan, ...]:
    """The steps, each with a name of its own: the second step of the job vacuum is vacuum-2."""
    counts: dict[str, int] = {}
    found = []
    for step in steps:
        counts[step.name] = count = counts.get(step.name, 0) + 1
        found.append(step if count == 1 else step.model_copy(update={"name": f"{step.name}-{count}"}))
    return tuple(found)


def _merge_locks(*locks: Mapping[str, LockMode]) -> dict[str, LockMode]:
    """The union of locks; a lock is exclusive if one of the mappings has it as exclusive."""
    found: dict[str, LockMode] = {}
    for each in locks:
        for name, mode in each.items():
            found[name] = "exclusive" if "exclusive" in (mode, found.get(name)) else "shared"
    return found
