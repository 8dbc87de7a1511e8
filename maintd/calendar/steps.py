"""The steps of an entry: `vacuum`, `{vacuum: {full: true}}`, or `{job: vacuum, params: {…}, timeout: 10m}`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from maintd.calendar.policies import MAX_RETRIES, read_locks, read_positive
from maintd.calendar.value_readers import NodeReader, kind, overlaid, unknown
from maintd.config.yaml_tree import MappingNode, Node, ScalarNode, key_at, value_of
from maintd.model.entry import LockMode, OnFailure, StepPlan
from maintd.model.job import BrokenJob, JobDescription

if TYPE_CHECKING:
    from maintd.job.description import ParamProblem

Jobs = Mapping[str, JobDescription | BrokenJob]
ValidateAll = Callable[[Sequence[tuple[str, Mapping[str, Any]]]], "list[list[ParamProblem]]"]

STEP_KEYS = ("job", "params", "timeout", "retries", "on_failure", "always", "locks")

_GATES = ("gate", "approve", "approval")
_NOT_SUPPORTED = "gates and approvals are not supported; remove it, and trigger the entry manually"


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
        read = [self._step(scope, item, locks, always) for item in scope.items(node)]
        return [step for step in read if step is not None]

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
            **options,
        )

    def _step(self, scope: NodeReader, node: Node, locks: Mapping[str, LockMode], always: bool) -> StepPlan | None:
        if isinstance(node, ScalarNode):
            return self.one(scope, node, None, locks, always=always)
        if not isinstance(node, MappingNode) or not node.items:
            scope.error(node, f"a step must be the name of a job or a mapping, not {kind(node)}")
            return None
        keys = [key for key, _ in node.items]
        gate = next((key for key in keys if key.text in _GATES), None)
        if gate is not None:
            scope.error(gate, f'"{gate.text}": {_NOT_SUPPORTED}')
            return None
        if len(keys) == 1 and keys[0].text != "job":
            return self.one(scope, keys[0], node.items[0][1], locks, always=always)
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
        if "always" in fields:
            options["always"] = within.flag(fields["always"], "always") or always
        if "locks" in fields:
            locks = _merge_locks(locks, read_locks(within, fields["locks"]))
        step = self.one(scope, fields["job"], fields.get("params"), locks, **options)
        if step is not None and step.retries and not step.repeatable:
            within.warn(fields["retries"], f'retries has no effect: job "{step.job}" is not repeatable')
        return step

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


def with_unique_names(steps: Sequence[StepPlan]) -> tuple[StepPlan, ...]:
    """The steps, each with a name of its own: the second step of the job vacuum is vacuum-2."""
    counts: dict[str, int] = {}
    found = []
    for step in steps:
        counts[step.job] = count = counts.get(step.job, 0) + 1
        found.append(step if count == 1 else step.model_copy(update={"name": f"{step.job}-{count}"}))
    return tuple(found)


def _merge_locks(*locks: Mapping[str, LockMode]) -> dict[str, LockMode]:
    """The union of locks; a lock is exclusive if one of the mappings has it as exclusive."""
    found: dict[str, LockMode] = {}
    for each in locks:
        for name, mode in each.items():
            found[name] = "exclusive" if "exclusive" in (mode, found.get(name)) else "shared"
    return found
