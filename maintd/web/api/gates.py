"""Gates: list what waits; tick, approve and reject."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from maintd.model.access import Caller
from maintd.model.gate import GateList, WaitingGate
from maintd.model.run import RunSummary
from maintd.operations import OperatorService, find_run
from maintd.operations.gates import approve, gate_of_run, reject, tick, waiting_gates
from maintd.web.dependencies import RunId, ServiceDep, caller
from maintd.web.schemas import ApproveBody, RejectBody, TickBody, json_response

router = APIRouter(prefix="/api/v1")


@router.get("/gates", response_model=GateList)
def get_gates(service: ServiceDep, request: Request) -> Response:
    """List the gates where runs wait; the one whose time is over first is the first."""
    covers = caller(request).covers
    return json_response(GateList(gates=tuple(gate for gate in waiting_gates(service) if covers(gate.entry))))


@router.get("/runs/{run_id}/gate", response_model=WaitingGate)
def get_gate(service: ServiceDep, request: Request, run_id: RunId) -> Response:
    """Show the gate where a run waits, with its checklist as it is now."""
    _caller_for(service, request, run_id)
    return json_response(gate_of_run(service, run_id))


@router.post("/runs/{run_id}/gate/tick", response_model=WaitingGate)
def tick_items(service: ServiceDep, request: Request, run_id: RunId, body: TickBody) -> Response:
    """Tick items of the checklist; the run goes on waiting."""
    by = _caller_for(service, request, run_id, body.by)
    return json_response(tick(service, run_id, body.items, by, gate=body.gate, note=body.note))


@router.post("/runs/{run_id}/gate/approve", response_model=RunSummary)
def approve_gate(service: ServiceDep, request: Request, run_id: RunId, body: ApproveBody | None = None) -> Response:
    """Pass the gate where a run waits, if its checklist is complete. `gate` names the one that is meant."""
    body = body or ApproveBody()
    by = _caller_for(service, request, run_id, body.by)
    options = {"gate": body.gate, "note": body.note, "why": body.why}
    return json_response(approve(service, run_id, by, emergency=body.emergency, **options))


@router.post("/runs/{run_id}/gate/reject", response_model=RunSummary)
def reject_gate(service: ServiceDep, request: Request, run_id: RunId, body: RejectBody) -> Response:
    """Reject at the gate where a run waits: it fails, after undo and its `always` steps."""
    by = _caller_for(service, request, run_id, body.by)
    return json_response(reject(service, run_id, by, why=body.why, gate=body.gate))


def _caller_for(service: OperatorService, request: Request, run_id: int, claimed: str = "") -> Caller:
    """The caller, if their token is for the run's entry. Raises UnknownNameError, ForbiddenError."""
    found = caller(request, claimed)
    found.require(find_run(service, run_id).entry)
    return found
