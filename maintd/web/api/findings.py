"""Findings: list, show, acknowledge; and the summary of a period."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from maintd.model.finding import FindingDetail, FindingList, ListedFinding
from maintd.model.responses import Summary
from maintd.operations.findings import (
    acknowledge,
    acknowledgements,
    command_to_acknowledge,
    find_finding,
    findings_of_run,
    list_findings,
    listed_finding,
    withdraw,
)
from maintd.operations.lookup import find_run, require_in_scope
from maintd.operations.period import period
from maintd.store.findings import MOST
from maintd.web.dependencies import RunId, ServiceDep, caller, parse_since
from maintd.web.etags import NO_TIME, model_etag
from maintd.web.schemas import AcknowledgeBody, WithdrawBody, json_response

router = APIRouter(prefix="/api/v1")


@router.get("/findings", response_model=FindingList)
def get_findings(
    service: ServiceDep,
    request: Request,
    area: str | None = None,
    since: str | None = None,
    gone: bool = False,
    acknowledged: bool = False,
) -> Response:
    """List open findings, the worst first; with `gone` also those that are gone. `area` is an entry or a job."""
    by = caller(request)
    at = parse_since(since, service.store.now()) if since else None
    if area:
        require_in_scope(service, by, area)
    found = list_findings(service, area=area or None, since=at, gone=gone, acknowledged=acknowledged)
    shown = tuple(finding for finding in found if by.covers(finding.entry))
    return json_response(FindingList(findings=shown, limited=len(found) >= MOST))


@router.get("/findings/{key}", response_model=FindingDetail)
def get_finding(service: ServiceDep, request: Request, key: str) -> Response:
    """Show a finding with its acknowledgements. The first digits of a key are enough if no other begins with them."""
    finding = find_finding(service.store, key)
    caller(request).require(finding.entry)
    listed = listed_finding(finding, service.store.now())
    fields = {name: getattr(listed, name) for name in ListedFinding.model_fields}
    history = tuple(acknowledgements(service, finding.key))
    next_step = command_to_acknowledge(finding, caller(request)) if listed.state == "open" else ""
    return json_response(FindingDetail(**fields, acknowledgements=history, next_step=next_step))


@router.post("/findings/{key}/acknowledge", response_model=ListedFinding)
def acknowledge_finding(service: ServiceDep, request: Request, key: str, body: AcknowledgeBody) -> Response:
    """Acknowledge a finding for at most 90 days: it needs no attention then, unless it becomes worse or returns."""
    by = caller(request, body.by)
    finding = find_finding(service.store, key)
    by.require(finding.entry)
    done = acknowledge(service, finding.key, why=body.why, until=body.until, caller=by)
    return json_response(done)


@router.post("/findings/{key}/withdraw", response_model=ListedFinding)
def withdraw_acknowledgement(
    service: ServiceDep, request: Request, key: str, body: WithdrawBody | None = None
) -> Response:
    """Withdraw the acknowledgement of a finding."""
    body = body or WithdrawBody()
    by = caller(request, body.by)
    finding = find_finding(service.store, key)
    by.require(finding.entry)
    return json_response(withdraw(service, finding.key, by=by.name, why=body.why, origin=by.origin))


@router.get("/runs/{run_id}/findings", response_model=FindingList)
def get_findings_of_run(service: ServiceDep, request: Request, run_id: RunId) -> Response:
    """List the findings that a run reported, as they are now."""
    caller(request).require(find_run(service, run_id).entry)
    return json_response(FindingList(findings=tuple(findings_of_run(service, run_id))))


@router.get("/summary", response_model=Summary)
def get_summary(service: ServiceDep, since: str = "1d", until: str | None = None) -> Response:
    """Count the runs of a period by how they ended, and list its findings: new, old and gone."""
    now = service.store.now()
    end = parse_since(until, now) if until else None
    found = period(service, parse_since(since, now), end)
    # Of a period that ends now, both ends move with each request.
    findings = found.findings.model_copy(update={"since": NO_TIME})
    same = found.model_copy(update={"since": NO_TIME, "until": NO_TIME, "findings": findings})
    return json_response(found, headers=model_etag(same))
