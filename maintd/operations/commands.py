"""The commands of an operator: trigger, cancel, pause, unpause, reload.

Each writes rows and an audit event, then wakes the daemon.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from shlex import quote
from typing import Any

from maintd.errors import (
    DaemonUnavailableError,
    ForbiddenError,
    RefusedError,
    StoreUnavailableError,
    UnknownNameError,
    UsageError,
)
from maintd.model.base import Model
from maintd.model.entry import Entry, Pause, StepPlan
from maintd.model.job import BrokenJob, JobDescription
from maintd.model.run import NewRun, Run, RunState, RunSummary, SkipReason, Trigger
from maintd.operations.diagnosis import decisions_text
from maintd.operations.freezes import in_emergency, known_freezes, refuse_frozen
from maintd.operations.lookup import find_entry, find_run
from maintd.operations.params import plan_with_params, with_params
from maintd.operations.service import OperatorService, ReloadResult
from maintd.operations.windows import refuse_across, refuse_without_window
from maintd.present import utc_minute
from maintd.secret_params import discard, keep_in
from maintd.store.announcements import withdraw_announcements
from maintd.units import Instant

LATEST_START = timedelta(days=366)
"""A run may be requested at most this far ahead; more is a typing error."""

PAST_TOLERANCE = timedelta(minutes=1)
"""A start time this little in the past means now: clocks differ, and typing takes time."""


MAX_AUDIT_TEXT = 2000
"""Characters of an audit event about a reload, which can change every entry."""


class TriggerRequest(Model):
    """A request for a run. `name` is that of an entry or a job; `params` as in `params.with_params`."""

    name: str
    params: dict[str, Any] = {}
    at: Instant | None = None
    why: str = ""
    by: str = ""
    origin: str = ""  # where it came from, for the audit log
    dry_run: bool = False
    emergency: bool = False  # also during a freeze; `why` is then required
    idempotency_key: str | None = None
    as_admin: bool = True  # params that name programs may be given


def trigger(service: OperatorService, request: TriggerRequest) -> tuple[RunSummary, bool]:
    """Queue a run. Returns the run and whether it is new: a run of the entry with the same key is returned instead.

    A paused entry can be triggered; the reason of the run mentions the pause. Raises UnknownNameError, UsageError for
    wrong params or start times, RefusedError if the entry is disabled, frozen, held, not
    possible at that time, or one of its jobs is broken or confined to a window that there is not.
    """
    entry = find_entry(service, request.name)
    _refuse_disabled(service, entry)
    _refuse_held(service, entry.name)
    now = service.store.now()
    not_before = now if request.at is None else _start(request.at, now)
    refuse_without_window(entry)
    refuse_across(entry, not_before)
    _refuse_freeze(service, request, entry, not_before)
    if not request.as_admin:
        _refuse_programs(service, entry, request.params)
    steps, params = _steps(service, entry, request.params)
    requested = NewRun(
        entry=entry.name,
        title=entry.title,
        trigger=Trigger.MANUAL,
        state=RunState.QUEUED,
        reason="; ".join(
            filter(
                None,
                (_pause_note(service, entry.name, now), _turn_note(service, entry.name), _idle_note(service, entry)),
            )
        ),
        not_before=not_before,
        plan=steps,
        policy=entry.policy,
        params=params,
        requested_by=request.by,
        why=request.why,
        dry_run=request.dry_run,
        idempotency_key=request.idempotency_key,
        emergency=_emergency(request),
        window_from=not_before if not_before > now and entry.policy.window is not None else None,
    )
    run_id, created = service.store.runs.add(requested, now)
    run = find_run(service, run_id)
    if not created:
        _discard_secrets(service, steps)  # the run that has the key has its own
    if not created and run.entry != entry.name:
        raise RefusedError(
            f'idempotency key "{request.idempotency_key}" belongs to run {run_id} of {run.entry}', "use another key"
        )
    if created:
        parts = (f"run {run_id}", "dry run" if requested.dry_run else "", requested.emergency, requested.reason)
        text = "; ".join(filter(None, parts))
        service.store.audit.add(
            "run_triggered",
            subject=entry.name,
            by=request.by,
            origin=request.origin,
            why=requested.why,
            text=text,
            at=now,
        )
        wake(service)
    return summary_of(run), created


def cancel(service: OperatorService, run_id: int, by: str, why: str, *, origin: str = "") -> RunSummary:
    """Cancel a queued run, or request the stop of a running one, which ends soon after. Returns the run as it is then.

    Raises UnknownNameError, and RefusedError if the run has ended.
    """
    run = find_run(service, run_id)
    if run.state.final:
        raise RefusedError(f"run {run_id} has already ended: {run.state}", f"see: maintd show {run_id}")
    now = service.store.now()
    state = service.store.runs.request_cancel(run_id, by or "an operator", why, now)
    if state is not None and state.final and state is not RunState.CANCELLED:
        raise RefusedError(f"run {run_id} has already ended: {state}", f"see: maintd show {run_id}")
    if state is not None and state.final:
        service.store.write(lambda conn: withdraw_announcements(conn, run, now))
        _discard_secrets(service, run.plan)  # it never started; an executor does this for one that did
    service.store.audit.add(
        "run_cancelled", subject=run.entry, by=by, origin=origin, why=why, text=f"run {run_id}", at=now
    )
    wake(service)
    return summary_of(find_run(service, run_id))


def pause(service: OperatorService, name: str, why: str, by: str, until: datetime | None, *, origin: str = "") -> Pause:
    """Pause an entry. Raises UnknownNameError, and UsageError if the reason is missing or the end is in the past."""
    entry = _scheduled(service, name)
    now = service.store.now()
    if not why.strip():
        raise UsageError(f"no reason given for pausing {name}", 'add for example --why "disk is being replaced"')
    if until is not None and until <= now:
        raise UsageError(f"the end of the pause, {utc_minute(until)}, is in the past", "give an end in the future")
    if entry.name not in service.store.entries.states([entry.name]):
        raise RefusedError(
            f'no daemon has loaded "{name}" yet', "run: maintd reload, or start the daemon with: maintd serve"
        )
    paused = service.store.entries.pause(name, why=why, by=by, origin=origin, until=until, now=now)
    wake(service)
    return paused


def unpause(service: OperatorService, name: str, by: str, *, origin: str = "", why: str = "") -> bool:
    """End the pause of an entry; False if it was not paused. Raises UnknownNameError."""
    _scheduled(service, name)
    done = service.store.entries.unpause(name, by=by, origin=origin, why=why, now=service.store.now())
    wake(service)
    return done


def reload(service: OperatorService, by: str, *, origin: str = "", why: str = "") -> ReloadResult:
    """Reload the calendar and the jobs. Raises DaemonUnavailableError without a daemon."""
    result = service.reload()
    text = "; ".join(result.changes or ("no changes",)) if result.ok else "refused: " + "; ".join(result.problems)
    with contextlib.suppress(StoreUnavailableError):  # the calendar is active already, and the daemon's log has it
        service.store.audit.add(
            "reload_requested", by=by, origin=origin, why=why, text=text[:MAX_AUDIT_TEXT], at=service.store.now()
        )
    return result


def _scheduled(service: OperatorService, name: str) -> Entry:
    entries = service.calendar().entries
    for entry in entries:
        if entry.name == name:
            return entry
    if name in service.jobs():
        raise UsageError(f'"{name}" is a job, not an entry of the calendar', "only entries can be paused")
    raise UnknownNameError("entry", name, [entry.name for entry in entries])


def _refuse_disabled(service: OperatorService, entry: Entry) -> None:
    calendar = service.calendar()
    if entry.name in calendar.broken:
        raise RefusedError(f'entry "{entry.name}" cannot run: {calendar.broken[entry.name]}', "run: maintd validate")
    if not entry.enabled:
        where = entry.overlaid.get("enabled", f"{calendar.path.name}:{entry.line}")
        raise RefusedError(f'entry "{entry.name}" is disabled in {where}', "remove `enabled: false` there")
    jobs = service.jobs()
    for step in entry.steps:
        if step.gate is not None:
            continue
        job = jobs.get(step.job)
        if job is None:
            raise RefusedError(f'step "{step.name}": job "{step.job}" no longer exists', "run: maintd validate")
        if isinstance(job, BrokenJob):
            raise RefusedError(
                f'step "{step.name}": job "{step.job}" is broken: {job.error}',
                "fix the module, then run: maintd reload",
            )


def _refuse_held(service: OperatorService, name: str) -> None:
    held = next((run for run in service.store.successors.held() if run.entry == name), None)
    if held is not None:
        raise RefusedError(
            f"run {held.id} of {name} was lost and is held: it is not decided what becomes of what it did",
            decisions_text(find_run(service, held.id)),
        )


def _steps(
    service: OperatorService, entry: Entry, given: Mapping[str, Any]
) -> tuple[tuple[StepPlan, ...], dict[str, Any]]:
    found = {step.job: service.jobs().get(step.job) for step in entry.steps}
    jobs = {name: job for name, job in found.items() if isinstance(job, JobDescription)}
    steps = with_params(entry, given, jobs)
    problems = [
        f"{step.name}.{'.'.join(map(str, problem.location))}: {problem.message}"
        for step, before in zip(steps, entry.steps, strict=True)
        # Params of the calendar were validated when it was loaded; a job triggered by its name has only defaults.
        if step.job and (step is not before or not step.params)
        for problem in service.validate(step.job, step.params)
    ]
    if problems:
        raise UsageError("\n".join(problems), f"see: maintd jobs show {steps[0].job}")
    return plan_with_params(entry, given, jobs, keep_in(service.settings.secrets_dir))


def _refuse_programs(service: OperatorService, entry: Entry, given: Mapping[str, Any]) -> None:
    """Raise ForbiddenError for params by which the caller would get the rights of maintd itself."""
    found = {step.job: service.jobs().get(step.job) for step in entry.steps}
    jobs = {name: job for name, job in found.items() if isinstance(job, JobDescription)}
    for step, before in zip(with_params(entry, given, jobs), entry.steps, strict=True):
        job = jobs.get(step.job)
        if step is not before and job is not None and job.admin_params:
            raise ForbiddenError(
                f'params of the job "{job.name}" name programs that run with the rights of maintd',
                "this needs the role admin, and a token for all entries; or write them into the calendar",
            )


def _discard_secrets(service: OperatorService, steps: Sequence[StepPlan]) -> None:
    for step in steps:
        discard(step.params, service.settings.secrets_dir)


def _refuse_freeze(service: OperatorService, request: TriggerRequest, entry: Entry, at: datetime) -> None:
    """Raise RefusedError for a run that would change something while its entry is frozen, but for an emergency."""
    if request.emergency and not request.why.strip():
        raise UsageError("an emergency needs a reason", 'add for example --why "the disk is full"')
    if not request.emergency and not request.dry_run:
        otherwise = in_emergency(f"maintd trigger {quote(request.name)}")
        refuse_frozen(known_freezes(service).active(at), entry.name, entry.steps, at, otherwise)


def _emergency(request: TriggerRequest) -> str:
    return f"triggered in an emergency by {request.by or 'an operator'}: {request.why}" if request.emergency else ""


def _start(at: datetime, now: datetime) -> datetime:
    if at < now - PAST_TOLERANCE:
        raise UsageError(f"{utc_minute(at)} is in the past", "give a time in the future, or none to start now")
    if at > now + LATEST_START:
        raise UsageError(f"{utc_minute(at)} is more than a year ahead", "add an entry to the calendar instead")
    return max(at, now)


def _pause_note(service: OperatorService, name: str, now: datetime) -> str:
    state = service.store.entries.states([name]).get(name)
    if state is None or state.pause is None or (state.pause.until is not None and state.pause.until <= now):
        return ""
    return f"triggered although the entry is paused by {state.pause.by}: {state.pause.why}"


def _turn_note(service: OperatorService, name: str) -> str:
    at_gate = next((run for run in service.store.runs.unfinished([name]) if run.state is RunState.WAITING), None)
    return "" if at_gate is None else f"begins when run {at_gate.id}, which waits at a gate, has ended"


def _idle_note(service: OperatorService, entry: Entry) -> str:
    """That nothing of the run will start: by the targets that are configured now, else by the end of its last run."""
    jobs, targets = service.jobs(), service.targets()
    missing = {
        step.name: job.kinds_missing(targets)
        for step in entry.steps
        if isinstance(job := jobs.get(step.job), JobDescription)
    }
    required = [step.name for step in entry.steps if step.required and missing.get(step.name)]
    if required or all(missing.get(step.name) for step in entry.steps):
        kinds = ", ".join(dict.fromkeys(kind for name in required or missing for kind in missing[name]))
        return f"nothing of it will run: no target is configured of: {kinds}"
    last = service.store.history.last_per_entry([entry.name])[entry.name].last_run
    if last is None or last.skip_reason is not SkipReason.NOT_CONFIGURED:
        return ""
    in_calendar = any(known.name == entry.name for known in service.calendar().entries)
    examine = f"; examine it: maintd doctor {quote(entry.name)}" if in_calendar else ""
    return f"its last run, {last.id}, was skipped as not configured{examine}"


def summary_of(run: Run) -> RunSummary:
    """The run without its steps."""
    return RunSummary.model_validate({name: getattr(run, name) for name in RunSummary.model_fields})


def wake(service: OperatorService) -> None:
    """Wake the daemon, if there is one."""
    # Without a daemon here, the next one or another node finds the rows.
    with contextlib.suppress(DaemonUnavailableError):
        service.wake()
