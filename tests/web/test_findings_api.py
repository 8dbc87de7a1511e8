"""Findings in the API: with tokens, roles and entries."""

from __future__ import annotations

from datetime import timedelta

from support.web_services import Client, Harness, check, run_with

from maintd.model.access import Role
from maintd.model.evidence import CheckStatus
from maintd.model.run import RunState
from maintd.operations.review import review_ends
from maintd.operations.tokens import create_token
from maintd.units import utc_text

FAIL = CheckStatus.FAIL


def bearer(served: Harness, role: Role = Role.OPERATOR, *entries: str) -> dict[str, str]:
    token = create_token(served.store, f"{role}{len(entries)}", role, entries=entries, by="ada").token
    return {"Authorization": f"Bearer {token}"}


def failed(served: Harness, entry: str = "nightly-vacuum") -> int:
    run_id = run_with(served.store, entry, -30, RunState.FAILED, items=(check("disk", FAIL), check("load")))
    review_ends(served.store)
    return run_id


def body(served: Harness, **fields: str) -> dict[str, str]:
    return {"why": "a disk is ordered", "until": utc_text(served.store.now() + timedelta(days=7)), **fields}


def test_findings_are_listed_and_acknowledged_with_a_token(served: Harness, page: Client) -> None:
    run_id = failed(served)
    listed = page.get("/api/v1/findings").json
    key = listed["findings"][0]["key"]
    operator = bearer(served)

    done = page.post(f"/api/v1/findings/{key}/acknowledge", body(served, by="ada"), **operator)
    detail = page.get(f"/api/v1/findings/{key[:6]}").json
    of_run = page.get(f"/api/v1/runs/{run_id}/findings").json["findings"]
    acknowledged = page.get("/api/v1/findings?acknowledged=true").json["findings"]

    assert [(one["entry"], one["check"], one["state"]) for one in listed["findings"]] == [
        ("nightly-vacuum", "disk", "open")
    ]
    assert listed["limited"] is False
    assert (done.status, done.json["state"], done.json["acknowledgement"]["by"]) == (
        200,
        "acknowledged",
        "ada (as operator0)",
    )
    assert [one["why"] for one in detail["acknowledgements"]] == ["a disk is ordered"]
    assert [one["key"] for one in of_run] == [one["key"] for one in acknowledged] == [key]
    event = served.store.audit.recent(1)[0]
    assert (event.kind, event.subject, event.by) == ("finding_acknowledged", "nightly-vacuum", "ada (as operator0)")
    assert (event.why, event.origin) == ("a disk is ordered", "token from 127.0.0.1")

    withdrawn = page.post(f"/api/v1/findings/{key}/withdraw", {"why": "not ordered"}, **operator)
    again = page.post(f"/api/v1/findings/{key}/withdraw", **operator)
    assert (withdrawn.status, withdrawn.json["state"]) == (200, "open")
    assert (again.status, again.json["error"]["code"]) == (403, "refused")


def test_a_viewer_and_a_token_for_other_entries_cannot_acknowledge(served: Harness, page: Client) -> None:
    failed(served)
    key = page.get("/api/v1/findings").json["findings"][0]["key"]
    other = bearer(served, Role.OPERATOR, "backup-*")

    answers = [
        page.post(f"/api/v1/findings/{key}/acknowledge", body(served), **headers).status
        for headers in ({}, bearer(served, Role.VIEWER), other)
    ]

    assert answers == [401, 403, 403]
    assert page.get("/api/v1/findings", **other).json["findings"] == []
    assert page.get(f"/api/v1/findings/{key}", **other).status == 403


def test_wrong_requests_are_refused_with_the_reason(served: Harness, page: Client) -> None:
    failed(served)
    key = page.get("/api/v1/findings").json["findings"][0]["key"]
    operator = bearer(served)
    late = utc_text(served.store.now() + timedelta(days=91))

    def post(path: str, **fields: str) -> int:
        return page.post(f"/api/v1/findings/{path}/acknowledge", body(served, **fields), **operator).status

    assert post(key, until=late) == 400
    assert post(key, why=" ") == 400
    assert post(key, by="root") == 400
    assert post("abc") == 400
    assert post("abcdef012345") == 404
    assert page.get("/api/v1/findings?area=nothing").status == 404
    assert page.get("/api/v1/findings?since=yesterday").status == 400
    assert page.get("/api/v1/runs/99/findings").status == 404


def test_the_summary_counts_runs_and_lists_findings(served: Harness, page: Client) -> None:
    failed(served)
    run_with(served.store, "nightly-vacuum", -20, RunState.SUCCEEDED)
    run_with(served.store, "probe", -10, RunState.WARNED)
    review_ends(served.store)

    answer = page.get("/api/v1/summary?since=2020-01-01T00:00Z&until=2100-01-01T00:00Z").json
    empty = page.get("/api/v1/summary?since=2100-01-01T00:00Z")

    counts = {name: answer[name] for name in ("ran", "ok", "warned", "failed", "missed", "unfinished")}
    assert counts == {"ran": 3, "ok": 1, "warned": 1, "failed": 1, "missed": 0, "unfinished": 0}
    assert [one["check"] for one in answer["findings"]["new"]] == ["disk"]
    assert answer["findings"]["old"] == answer["findings"]["gone"] == []
    assert empty.status == 400


def test_pages_and_metrics_show_findings_and_who_acknowledged_them(served: Harness, page: Client) -> None:
    failed(served)
    key = page.get("/api/v1/findings").json["findings"][0]["key"]
    before = [page.get(path).text for path in ("/", "/entries/nightly-vacuum")]
    counted = page.get("/metrics").text

    page.post(f"/api/v1/findings/{key}/acknowledge", body(served, by="ada"), **bearer(served))
    after = [page.get(path).text for path in ("/", "/entries/nightly-vacuum")]

    assert all(f"<code>maintd ack {key}</code>" in text for text in before)
    assert all("by ada (as operator0) until" in text and "a disk is ordered" in text for text in after)
    assert 'maintd_findings_open{acknowledged="false",entry="nightly-vacuum",status="fail"} 1.0' in counted
    metrics = page.get("/metrics").text
    assert 'maintd_findings_open{acknowledged="true",entry="nightly-vacuum",status="fail"} 1.0' in metrics


def test_an_acknowledgement_needs_a_person_and_the_name_of_a_token_is_none(served: Harness, page: Client) -> None:
    failed(served)
    key = page.get("/api/v1/findings").json["findings"][0]["key"]
    own = create_token(served.store, "laptop", Role.OPERATOR, person="bob").token
    path = f"/api/v1/findings/{key}/acknowledge"

    program = bearer(served, Role.ADMIN)
    by_program = [page.post(path, body(served, by=by), **program) for by in ("", "admin0", "root")]
    by_bob = page.post(path, body(served, by="root"), Authorization=f"Bearer {own}")

    assert [answer.status for answer in by_program] == [400] * 3
    assert by_program[0].json["error"]["message"] == 'an acknowledgement needs a person\'s name, not "admin0"'
    assert by_bob.json["acknowledgement"]["by"] == "root (as bob)"
    (event,) = served.store.audit.recent(1)
    assert (event.kind, event.by, event.origin) == (
        "finding_acknowledged",
        "root (as bob)",
        "token laptop from 127.0.0.1",
    )


def test_the_next_step_asks_for_a_name_where_the_reader_has_none_of_a_person(served: Harness, page: Client) -> None:
    failed(served)
    key = page.get("/api/v1/findings").json["findings"][0]["key"]
    person = create_token(served.store, "of-ada", Role.OPERATOR, person="ada", by="root").token

    by_program = page.get(f"/api/v1/findings/{key}", **bearer(served)).json["next_step"]
    by_person = page.get(f"/api/v1/findings/{key}", Authorization=f"Bearer {person}").json["next_step"]
    anonymous = page.get(f"/api/v1/findings/{key}").json["next_step"]

    assert by_program == f"maintd ack {key} --why REASON --until 7d --by NAME"
    assert by_person == anonymous == f"maintd ack {key} --why REASON --until 7d"
