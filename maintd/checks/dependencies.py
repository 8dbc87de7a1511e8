"""Which target depends on which, by `depends_on`: a failure that follows from another is reported below its cause."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from maintd.checks.probes import Probe
from maintd.model.evidence import Check
from maintd.model.target import Target, Targets

CONTAINER = "container"
"""`depends_on: [container postgres]`: a service of the compose project of any Docker target."""


class Dependencies:
    """The dependencies of a set of targets, and what has failed so far.

    Usage: `order` the probes, and then, for each probe, `cause` while it is reported and `note` afterwards.
    """

    def __init__(self, targets: Targets) -> None:
        self._targets = targets
        self._failed: dict[str, list[str]] = {}  # names of failed checks by subject

    def order(self, probes: Sequence[Probe]) -> list[Probe]:
        """Each probe after those that it depends on; otherwise in the given order. Cycles are broken anywhere."""
        by_subject = {probe.subject: probe for probe in probes}
        ordered: dict[str, Probe] = {}
        open_now: set[str] = set()

        def add(probe: Probe) -> None:
            if probe.subject in ordered or probe.subject in open_now:
                return
            open_now.add(probe.subject)
            for subject in self._subjects(probe):
                if subject in by_subject:
                    add(by_subject[subject])
            ordered[probe.subject] = probe

        for probe in probes:
            add(probe)
        return list(ordered.values())

    def missing(self, probe: Probe) -> list[str]:
        """The names in `depends_on` for which there is no target."""
        return [text for text in _of(self._target(probe)).values() if not self._resolve(text)]

    def note(self, probe: Probe, failed: Sequence[Check]) -> None:
        """Note which checks of a probe failed."""
        self._failed[probe.subject] = [check.name for check in failed]

    def cause(self, probe: Probe, check: Check) -> str:
        """The failed check that a check of this probe follows from; empty if it follows from none.

        A dependency of a field of the body explains the check of that field, and the checks of the service as a whole.
        """
        field = check.name.removeprefix(f"{probe.subject}: ")
        named = _of(self._target(probe))
        chosen = [named[field]] if field in named else list(named.values())
        if field not in named and self._is_field(probe, field):
            return ""  # the target that this field is about has no dependency
        return next(
            (name for text in chosen for subject in self._resolve(text) if (name := self._down(text, subject))), ""
        )

    def _is_field(self, probe: Probe, field: str) -> bool:
        target = self._target(probe)
        return isinstance(target.depends_on, Mapping) and field in getattr(target, "expect", {})

    def _down(self, text: str, subject: str) -> str:
        """The check by which a dependency is down: a container that fails, or a target that does not answer."""
        kind, _, name = text.partition(" ")
        for check in self._failed.get(subject, ()):
            if check.startswith(f"{subject}: {name} ") if kind == CONTAINER else check == f"{subject}: answers":
                return check
        return ""

    def _target(self, probe: Probe) -> Target:
        return self._targets.of(probe.kind)[probe.name]

    def _subjects(self, probe: Probe) -> list[str]:
        return [subject for text in _of(self._target(probe)).values() for subject in self._resolve(text)]

    def _resolve(self, text: str) -> list[str]:
        kind, _, name = text.partition(" ")
        if kind == CONTAINER:
            return [f"docker {engine}" for engine in self._targets.docker]
        known = self._targets.of(kind) if kind in Targets.model_fields else {}
        if not name:
            name = "main" if "main" in known else next(iter(known), "")
        return [f"{kind} {name}"] if name in known else []


def _of(target: Target) -> dict[str, str]:
    """The dependencies by field of the body; those of the target as a whole by their own text."""
    named = target.depends_on
    return dict(named) if isinstance(named, Mapping) else {text: text for text in named}
