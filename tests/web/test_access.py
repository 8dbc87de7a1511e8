"""Who may do what over TCP: the table of rights, tokens, entries, hosts, other sites, proxies."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from support.servers.base import free_port, wait_for
from support.stores import manual_run
from support.web_services import Client, Harness, harness, line, on_port, on_socket, run_with

from maintd.errors import RefusedError, SettingsError
from maintd.model.access import LEAST_ROLES, Caller, Right, Role
from maintd.model.entry import Approval, ChecklistItem, Gate, StepPlan
from maintd.model.run import RunState
from maintd.model.run_updates import RunWaiting
from maintd.operations.tokens import create_token, revoke_token
from maintd.units import utc_text
from maintd.web.access import BY_ENTRY, RIGHTS, find_route, require_right
from maintd.web.app import create_app, openapi_schema
from maintd.web.refusals import BURST
from maintd.web.server import web_server
from maintd.web.throttle import FORGOTTEN_AFTER, FREE_FAILURES, LONGEST_DELAY, MAX_ADDRESSES, Throttle, network_of

WRONG = "maintd_" + "A" * 43


def token(served: Harness, role: Role = Role.OPERATOR, *entries: str, name: str = "ci") -> str:
    return create_token(served.store, name, role, entries=entries, by="ada").token


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


@contextmanager
def listening(unserved: Harness, port: int, host: str = "127.0.0.1", **changed: Any) -> Iterator[Client]:
    unserved.settings = unserved.settings.model_copy(update={"listen": f"{host}:{port}", **changed})
    with web_server(unserved.service()):
        yield on_port(port)


# --- the table ---


def routes_of(router: APIRouter | Any) -> set[tuple[str, str]]:
    """Every (method, path) of an app, of included routers too."""
    found = set()
    for route in router.routes:
        if isinstance(route, APIRoute):
            found |= {(method, route.path) for method in route.methods - {"HEAD"}}
        else:
            found |= routes_of(route.original_router)
    return found


def test_every_route_has_a_right_and_every_right_a_route(unserved: Harness) -> None:
    app = create_app(unserved.service())

    assert routes_of(app) == set(RIGHTS)
    assert {(method, route.path) for route in app.state.routes for method in route.methods - {"HEAD"}} == set(RIGHTS)
    assert set(RIGHTS) >= BY_ENTRY


def test_the_openapi_document_states_the_right_of_each_operation() -> None:
    schema = openapi_schema()
    stated = {
        (method.upper(), path): operation
        for path, operations in schema["paths"].items()
        for method, operation in operations.items()
    }

    assert {key: operation["x-right"] for key, operation in stated.items()} == {key: RIGHTS[key] for key in stated}
    assert stated["POST", "/api/v1/runs"]["x-roles"] == ["operator", "approver", "admin"]
    assert stated["POST", "/api/v1/runs"]["security"] == [{"token": []}]
    assert stated["GET", "/api/v1/status"]["security"] == [{"token": []}, {}]
    assert stated["GET", "/healthz"]["security"] == []
    assert set(schema["components"]["securitySchemes"]) == {"token"}


def test_a_route_without_a_right_is_refused_to_an_administrator() -> None:
    with pytest.raises(RefusedError, match="has no right in the table of rights"):
        require_right(Caller("ada", Role.ADMIN), ("POST", "/api/v1/forgotten"))


def test_the_right_is_that_of_the_route_that_answers(unserved: Harness) -> None:
    known = create_app(unserved.service()).state.routes

    def asked(method: str, path: str) -> tuple[str, str] | None:
        return find_route(known, {"type": "http", "method": method, "path": path, "headers": [], "root_path": ""})

    assert asked("HEAD", "/api/v1/status") == ("GET", "/api/v1/status")
    assert asked("POST", "/api/v1/runs/7/cancel") == ("POST", "/api/v1/runs/{run_id}/cancel")
    assert asked("DELETE", "/api/v1/runs") is None
    assert asked("POST", "/api/v1/runs/") is None
    assert asked("POST", "//api/v1/runs") is None


def test_only_reading_routes_are_free_of_an_acting_right() -> None:
    acting = {right for right in Right if right not in (Right.READ, Right.PROBE)}

    assert {key for key, right in RIGHTS.items() if key[0] != "GET" and right not in acting} == set()


BODIES: dict[str, Any] = {
    "/api/v1/runs": {"name": "vacuum"},
    "/api/v1/entries/{name}/pause": {"why": "restoring"},
    "/api/v1/tokens": {"name": "other", "role": "viewer"},
}


@pytest.mark.parametrize("role", [None, *Role])
def test_a_role_can_use_exactly_the_routes_of_its_rights(served: Harness, page: Client, role: Role | None) -> None:
    run_id = run_with(served.store, "probe", 0)
    headers = {} if role is None else bearer(token(served, role))
    for (method, path), right in RIGHTS.items():
        target = path.replace("{run_id}", str(run_id)).replace("{name}", "probe")
        target = target.replace("{step}", "probe").replace("{attempt}", "1")
        if path.startswith("/api/v1/tokens/"):
            target = target.replace("probe", "missing")

        # A stream of events has no end.
        answer = page.ask("HEAD" if path.endswith("/events/stream") else method, target, _body(path), **headers)

        allowed = right is Right.PROBE or (role or Role.VIEWER).has(right)
        code = answer.json["error"]["code"] if answer.body and answer.status in (401, 403) else "forbidden"
        refused = answer.status in (401, 403) and code in ("unauthorized", "forbidden")
        assert refused is not allowed, (method, target, answer.status, answer.text[:200])


def _body(path: str) -> bytes | None:
    import json

    return json.dumps(BODIES[path]).encode() if path in BODIES else None


# --- tokens ---


def test_a_token_triggers_a_run_with_params_and_a_reason(served: Harness, page: Client) -> None:
    body = {"name": "vacuum", "params": {"keep": 5}, "why": "full", "dry_run": True, "idempotency_key": "k"}

    first = page.post("/api/v1/runs", body, **bearer(token(served)))
    again = page.post("/api/v1/runs", body | {"by": "ada"}, **bearer(token(served, name="ci2")))

    assert (first.status, again.status) == (201, 200)
    assert (first.json["requested_by"], first.json["why"], first.json["dry_run"]) == ("ci", "full", True)
    event = served.store.audit.recent(3)[-2]
    assert (event.kind, event.subject, event.by, event.origin, event.why) == (
        "run_triggered",
        "vacuum",
        "ci",
        "token from 127.0.0.1",
        "full",
    )


def test_a_token_cancels_pauses_and_unpauses(served: Harness, page: Client) -> None:
    headers = bearer(token(served))
    run_id = page.post("/api/v1/runs", {"name": "vacuum", "at": "2026-03-03T00:00:00Z"}, **headers).json["id"]

    cancelled = page.post(f"/api/v1/runs/{run_id}/cancel", {"why": "wrong day", "by": "ada"}, **headers)
    paused = page.post("/api/v1/entries/probe/pause", {"why": "noise"}, **headers)
    unpaused = page.post("/api/v1/entries/probe/unpause", None, **headers)

    assert cancelled.json["state"] == "cancelled"
    assert (paused.json["by"], unpaused.json) == ("ci", {"unpaused": True})
    events = served.store.audit.recent(3)
    assert [(event.kind, event.by, event.why) for event in events] == [
        ("entry_unpaused", "ci", ""),
        ("entry_paused", "ci", "noise"),
        ("run_cancelled", "ada (as ci)", "wrong day"),
    ]
    assert {event.origin for event in events} == {"token from 127.0.0.1"}


def test_a_token_decides_at_a_gate_with_its_own_role_and_name(served: Harness, page: Client) -> None:
    gate = Gate(ask="Start?", checklist=(ChecklistItem(text="Desk informed"),), approve=Approval(role=Role.APPROVER))
    plan, now = (StepPlan(name="gate", job="", gate=gate),), served.store.now()
    run_id, _ = served.store.runs.add(manual_run("nightly-vacuum", not_before=now, plan=plan), now)
    claimed = served.store.runs.claim(run_id, "n1", "n1-1", now + timedelta(minutes=1), now)
    assert claimed is not None
    waits = RunWaiting(step=0, at=now, until=now + timedelta(hours=1))
    assert served.store.runs.apply(run_id, claimed.fence, 1, [waits])
    target = f"/api/v1/runs/{run_id}/gate"
    persons = create_token(served.store, "lead", Role.APPROVER, entries=(), by="ada", person="lee").token
    ops, lead = bearer(token(served)), bearer(persons)

    refused = page.post(f"{target}/approve", None, **ops)
    ticked = page.post(f"{target}/tick", {"items": [1], "by": "kim"}, **lead)
    passed = page.post(f"{target}/approve", {"note": "go"}, **lead)
    late = page.post(f"{target}/reject", {"why": "no"}, **lead)

    assert (refused.status, refused.json["error"]["code"]) == (403, "forbidden")
    assert (ticked.json["items"][0]["by"], passed.json["state"]) == ("kim (as lee)", "queued")
    assert (late.status, late.json["error"]["code"]) == (403, "refused")
    run = served.store.history.run(run_id)
    assert run is not None
    assert [(one.kind, one.by, one.origin) for one in run.decisions] == [
        ("ticked", "kim (as lee)", "token lead from 127.0.0.1"),
        ("approved", "lee", "token lead from 127.0.0.1"),
    ]


def test_a_reload_is_an_audit_event(served: Harness, page: Client) -> None:
    as_approver = bearer(token(served, Role.APPROVER))
    done = page.post("/api/v1/reload", None, **as_approver)
    explained = page.post("/api/v1/reload", {"why": "a new disk", "by": "kim"}, **as_approver)

    assert done.json["ok"] and explained.json["ok"]
    second, first = served.store.audit.recent(2)
    assert (first.kind, first.by, first.text) == ("reload_requested", "ci", "entry probe: every 15 minutes")
    assert (second.kind, second.by, second.why) == ("reload_requested", "kim (as ci)", "a new disk")


def test_each_action_can_have_its_reason_in_its_audit_event(served: Harness, control: Client) -> None:
    soon = utc_text(served.store.now() + timedelta(hours=1))
    actions = [
        ("/api/v1/tokens", {"name": "ci", "role": "viewer"}, "token_created"),
        ("/api/v1/entries/probe/pause", {}, "entry_paused"),
        ("/api/v1/entries/probe/unpause", {}, "entry_unpaused"),
        ("/api/v1/mutes", {"entries": "probe", "until": soon}, "entry_muted"),
        ("/api/v1/mutes/end", {"entries": "probe"}, "entry_unmuted"),
        ("/api/v1/freezes", {"until": soon}, "entries_frozen"),
        ("/api/v1/freezes/end", {}, "entries_unfrozen"),
        ("/api/v1/tokens/ci/revoke", {}, "token_revoked"),
        ("/api/v1/reload", {}, "reload_requested"),
    ]
    for path, body, kind in actions:
        answer = control.post(path, {**body, "why": f"because of {kind}", "by": "kim"})

        event = served.store.audit.recent(1)[0]
        assert answer.status in (200, 201), answer.json
        assert (event.kind, event.why) == (kind, f"because of {kind}")


def test_an_admin_creates_and_revokes_tokens_over_the_network(served: Harness, page: Client) -> None:
    headers = bearer(token(served, Role.ADMIN))

    created = page.post("/api/v1/tokens", {"name": "dash", "role": "viewer", "entries": ["probe"]}, **headers)
    works = page.get("/api/v1/entries/probe", **bearer(created.json["token"]))
    revoked = page.post("/api/v1/tokens/dash/revoke", {"why": "leaked"}, **headers)
    after = page.get("/api/v1/entries/probe", **bearer(created.json["token"]))

    assert (created.status, works.status, revoked.json["state"], after.status) == (201, 200, "revoked", 401)
    listed = page.get("/api/v1/tokens", **headers)
    assert created.json["token"] not in listed.text
    assert [item["name"] for item in listed.json["tokens"]] == ["ci", "dash"]


def test_a_wrong_token_is_refused_even_where_none_is_needed(served: Harness, page: Client) -> None:
    answer = page.get("/api/v1/status", **bearer(WRONG))

    assert answer.status == 401
    assert answer.json["error"]["code"] == "unauthorized"
    assert answer.headers["www-authenticate"] == 'Bearer realm="maintd", error="invalid_token"'


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (WRONG, "the token is unknown"),
        ("expired", 'token "old" is expired'),
        ("revoked", 'token "lost" is revoked'),
        ("", "the token is unknown"),
        ("x" * 5000, "the token is unknown"),
        ("\xff\xfe", "the token is unknown"),
    ],
)
def test_a_token_that_is_not_valid_is_refused_and_logged(served: Harness, page: Client, sent: str, reason: str) -> None:
    if sent == "expired":
        sent = create_token(served.store, "old", Role.ADMIN, expires_at=served.clock.now() + timedelta(minutes=1)).token
        served.clock.advance(timedelta(minutes=2))
    elif sent == "revoked":
        sent = token(served, name="lost")
        revoke_token(served.store, "lost")

    with capture_logs() as logs:
        answer = page.post("/api/v1/runs", {"name": "vacuum"}, **bearer(sent))

    assert answer.status == 401
    assert answer.json["error"]["message"] == reason
    refused = [entry for entry in logs if entry["event"] == "token_refused"]
    assert [(entry["address"], entry["reason"]) for entry in refused] == [("127.0.0.1", reason)]
    assert sent == "" or sent not in str(logs)
    assert served.store.history.runs() == []


@pytest.mark.parametrize("header", ["Basic YTpi", "Bearer", "bearer x y", "maintd_x", ""])
def test_credentials_of_another_kind_are_refused(page: Client, header: str) -> None:
    assert page.get("/api/v1/status", Authorization=header).status == 401


def test_without_a_token_the_hint_is_how_to_get_one(page: Client) -> None:
    answer = page.post("/api/v1/runs", {"name": "vacuum"})

    assert answer.status == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="maintd"'
    assert answer.json["error"] == {
        "code": "unauthorized",
        "message": "to trigger, a request needs a token of the role operator, approver or admin",
        "hint": 'send it as "Authorization: Bearer TOKEN", commands with --token-file FILE; '
        "create one with: maintd token create --role operator NAME",
    }


def test_a_missing_right_is_named_with_the_roles_that_have_it(served: Harness, page: Client) -> None:
    answer = page.post("/api/v1/reload", None, **bearer(token(served, Role.OPERATOR)))

    assert answer.status == 403
    assert answer.headers["www-authenticate"] == 'Bearer realm="maintd", error="insufficient_scope"'
    assert answer.json["error"] == {
        "code": "forbidden",
        "message": '"ci" has the role operator, which lacks the right "reload"',
        "hint": "it needs approver or admin",
    }


def test_the_last_use_is_recorded(served: Harness, page: Client) -> None:
    headers = bearer(token(served))
    page.get("/api/v1/version", **headers)

    used = wait_for(lambda: served.store.tokens.all()[0].last_used_at, "the use is recorded")

    assert used == served.clock.now()
    assert served.store.tokens.all()[0].last_used_from == "127.0.0.1"


def test_the_body_of_a_request_without_the_right_is_not_read(page: Client) -> None:
    answer = page.ask("POST", "/api/v1/runs", b"{" * 1000)

    assert answer.status == 401


# --- what is slowed, and what is recorded ---


def test_wrong_tokens_are_answered_ever_more_slowly() -> None:
    throttle = Throttle()

    delays = [throttle.failed("10.0.0.7", now).delay for now in range(12)]

    assert delays[:FREE_FAILURES] == [0] * FREE_FAILURES
    assert delays == sorted(delays)
    assert delays[-1] == LONGEST_DELAY
    assert throttle.failed("10.0.0.8", 12).delay == 0
    assert throttle.failed("10.0.0.7", 11 + FORGOTTEN_AFTER + 1).number == 1


def test_failures_of_many_addresses_take_bounded_memory() -> None:
    throttle = Throttle()
    throttle.failed("10.0.0.7", 0)

    for number in range(MAX_ADDRESSES):
        throttle.failed(f"host-{number}", 1)

    assert len(throttle._failures) == MAX_ADDRESSES
    assert throttle.failed("10.0.0.7", 2).number == 1, "it was forgotten first"


def test_a_network_of_ipv6_counts_as_one_address() -> None:
    assert network_of("2001:db8:1:2:3::4") == network_of("2001:db8:1:2::9") == "2001:db8:1:2::/64"
    assert network_of("::ffff:10.0.0.7") == network_of("10.0.0.7")
    assert len(network_of("x" * 1000)) == 64


def test_a_stream_of_wrong_tokens_is_slowed_and_leaves_few_lines(served: Harness, page: Client) -> None:
    valid = bearer(token(served))
    with capture_logs() as logs:
        started = time.monotonic()
        for _ in range(FREE_FAILURES + 2):
            assert page.get("/api/v1/status", **bearer(WRONG)).status == 401
        took = time.monotonic() - started
        begun = time.monotonic()
        assert page.get("/api/v1/status", **valid).status == 200
        answered_in = time.monotonic() - begun

    assert took >= 1.5, "0.5 s and 1 s"
    assert answered_in < took, "a valid token is not slowed"
    assert [entry["failures"] for entry in logs if entry["event"] == "token_refused"] == [1, 2, 4]


def test_a_refused_action_is_an_audit_event(served: Harness, page: Client, control: Client) -> None:
    page.post("/api/v1/runs", {"name": "vacuum"})
    page.post("/api/v1/reload", None, **bearer(token(served, Role.VIEWER)))
    page.post("/api/v1/runs", {"name": "off"}, **bearer(token(served, name="ops")))
    control.post("/api/v1/runs", {"name": "off"})
    page.get("/api/v1/tokens", **bearer(token(served, name="third")))

    refused = [event for event in reversed(served.store.audit.recent()) if event.kind == "action_refused"]

    assert [(event.by, event.origin) for event in refused[:3]] == [
        ("", "127.0.0.1"),
        ("ci", "token from 127.0.0.1"),
        ("ops", "token from 127.0.0.1"),
    ]
    assert refused[0].text.startswith("POST /api/v1/runs: to trigger, a request needs a token")
    assert refused[2].text.startswith('POST /api/v1/runs: entry "off" is disabled')
    assert refused[3].origin.startswith("socket, uid ")
    assert refused[4].text.startswith("GET /api/v1/tokens: ")


def test_refused_actions_are_recorded_at_a_bounded_rate(served: Harness, page: Client) -> None:
    for _ in range(BURST + 5):
        page.post("/api/v1/reload")
    served.clock.advance(timedelta(seconds=11))
    page.post("/api/v1/reload")

    refused = [event for event in served.store.audit.recent(1000) if event.kind == "action_refused"]

    assert len(refused) == BURST + 1
    assert refused[0].text.endswith("(5 refused actions before it are not recorded)")


# --- tokens of persons and of programs ---


def test_a_person_acts_under_their_name_and_a_program_under_that_of_its_token(served: Harness, page: Client) -> None:
    own = create_token(served.store, "laptop", Role.OPERATOR, person="ada").token
    page.post("/api/v1/entries/probe/pause", {"why": "x"}, **bearer(own))
    page.post("/api/v1/entries/probe/pause", {"why": "x"}, **bearer(token(served, name="ci")))

    events = served.store.audit.recent()

    assert [(event.by, event.origin) for event in reversed(events) if event.kind == "entry_paused"] == [
        ("ada", "token laptop from 127.0.0.1"),
        ("ci", "token from 127.0.0.1"),
    ]


def test_the_token_of_a_program_creates_none_of_a_person(served: Harness, page: Client) -> None:
    program = bearer(token(served, Role.ADMIN, name="ci"))
    person = bearer(create_token(served.store, "laptop", Role.ADMIN, person="ada").token)
    wanted = {"name": "second", "role": "approver", "person": "bob"}

    refused = page.post("/api/v1/tokens", wanted, **program)
    created = page.post("/api/v1/tokens", wanted, **person)

    assert (refused.status, "cannot create the token of a person" in refused.text) == (403, True)
    assert (created.status, created.json["person"]) == (201, "bob")
    assert page.post("/api/v1/tokens", {"name": "third", "role": "viewer"}, **program).status == 201
    listed = page.get("/api/v1/tokens", **program).json["tokens"]
    assert {one["name"]: one["person"] for one in listed} == {"ci": "", "laptop": "ada", "second": "bob", "third": ""}


# --- tokens for some entries ---


@pytest.fixture
def limited(served: Harness) -> dict[str, str]:
    """Headers with the token of an operator of the entry `probe` and those that begin with `nightly-`."""
    return bearer(token(served, Role.OPERATOR, "nightly-*", "probe"))


def test_a_limited_token_acts_on_its_entries_only(served: Harness, page: Client, limited: dict[str, str]) -> None:
    other = run_with(served.store, "weekly-cleanup", 0)
    requests: list[tuple[str, Any]] = [
        ("/api/v1/runs", {"name": "weekly-cleanup"}),
        ("/api/v1/runs", {"name": "vacuum"}),
        ("/api/v1/entries/weekly-cleanup/pause", {"why": "x"}),
        ("/api/v1/entries/weekly-cleanup/unpause", None),
        (f"/api/v1/runs/{other}/cancel", None),
        ("/api/v1/reload", None),
    ]
    for path, body in requests:
        answer = page.post(path, body, **limited)
        assert (answer.status, answer.json["error"]["code"]) == (403, "forbidden"), path
    assert page.post("/api/v1/runs", {"name": "nightly-vacuum"}, **limited).status == 201
    assert page.post("/api/v1/entries/probe/pause", {"why": "x"}, **limited).status == 200


def test_a_limited_token_mutes_its_entries_only(served: Harness, page: Client, limited: dict[str, str]) -> None:
    body = {"why": "migration", "until": "2026-03-03T00:00:00Z"}
    asked = ("probe", "nightly-*", "nightly-vacuum", "*", "weekly-cleanup", "nightly-?", "prob[e]")

    statuses = [page.post("/api/v1/mutes", body | {"entries": pattern}, **limited).status for pattern in asked]
    page.post("/api/v1/mutes", body | {"entries": "weekly-*"}, **bearer(token(served, name="all")))

    assert statuses == [200, 200, 200, 403, 403, 403, 403]
    assert {mute["entries"] for mute in page.get("/api/v1/mutes", **limited).json["mutes"]} == set(asked[:3])
    assert page.post("/api/v1/mutes/end", {"entries": "weekly-*"}, **limited).status == 403
    assert page.post("/api/v1/mutes/end", {"entries": "probe"}, **limited).json == {"unmuted": True}


def test_a_limited_token_reads_its_entries_only(served: Harness, page: Client, limited: dict[str, str]) -> None:
    own = [run_with(served.store, "probe", 0, items=(line(1, "mine"),)), run_with(served.store, "nightly-vacuum", 10)]
    other = run_with(served.store, "weekly-cleanup", 20, items=(line(1, "theirs"),))

    status = page.get("/api/v1/status", **limited).json
    assert {entry["entry"] for entry in status["entries"]} == {"probe", "nightly-vacuum"}
    assert {due["entry"] for due in page.get("/api/v1/due", **limited).json["due"]} == {"probe", "nightly-vacuum"}
    assert [run["id"] for run in page.get("/api/v1/runs", **limited).json["runs"]] == own[::-1]
    first = page.get("/api/v1/runs?limit=1", **limited).json
    assert ([run["id"] for run in first["runs"]], first["next_before"]) == ([own[1]], own[1])
    assert page.get("/api/v1/runs?entry=weekly-cleanup", **limited).status == 403
    assert page.get("/api/v1/entries/weekly-cleanup", **limited).status == 403
    for path in (f"/api/v1/runs/{other}", f"/api/v1/runs/{other}/log", f"/api/v1/runs/{other}/artifacts/0/1/x"):
        assert page.get(path, **limited).status == 403, path
    assert page.get(f"/api/v1/runs/{own[0]}/log", **limited).json["lines"][0]["text"] == "mine"
    for path in ("/api/v1/events", "/api/v1/settings", "/metrics", "/", "/runs"):
        assert page.get(path, **limited).status == 403, path
    assert page.get("/healthz", **limited).status == 200


@pytest.mark.parametrize("area", ["weekly-cleanup", "wrecked", "nothing"])
def test_what_is_out_of_the_scope_of_a_limited_token_is_refused(
    served: Harness, page: Client, limited: dict[str, str], area: str
) -> None:
    for path in ("findings?area=", "runs?job=", "series?name=x&job="):
        answer = page.get(f"/api/v1/{path}{area}", **limited)
        assert (answer.status, answer.json["error"]["code"]) == (403, "forbidden"), path
        assert "is out of the scope of token" in answer.text
    assert "it is for: nightly-*, probe" in page.get(f"/api/v1/findings?area={area}", **limited).text


def test_a_limited_token_sees_of_a_job_what_its_entries_have(
    served: Harness, page: Client, limited: dict[str, str]
) -> None:
    for path in ("findings?area=probe", "findings?area=vacuum", "runs?job=vacuum", "series?name=x&job=vacuum"):
        assert page.get(f"/api/v1/{path}", **limited).status == 200, path


def test_no_answer_to_a_limited_token_names_another_entry(
    served: Harness, page: Client, limited: dict[str, str]
) -> None:
    run_with(served.store, "weekly-cleanup", 20, RunState.FAILED, items=(line(1, "theirs"),))
    for method, path in BY_ENTRY:
        if method == "GET" and "{" not in path and not path.endswith(("/openapi.json", "/stream")):
            assert "weekly-cleanup" not in page.get(path, **limited).text, path


# --- where it listens ---


def test_reading_without_a_token_can_be_closed(unserved: Harness, port: int) -> None:
    with listening(unserved, port, anonymous_read=False) as page:
        closed = [page.get(path).status for path in ("/", "/api/v1/status", "/metrics", "/nothing", "/api/v1/nothing")]

        assert closed == [401] * 5
        assert page.get("/healthz").status == page.get("/readyz").status == 200
        assert page.get("/api/v1/status", **bearer(token(unserved, Role.VIEWER))).status == 200
        assert on_socket(unserved.settings.socket_path).get("/api/v1/status").status == 200


def test_a_request_that_a_proxy_forwarded_is_not_local(page: Client) -> None:
    for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP"):
        assert page.get("/api/v1/status", **{name: "10.0.0.9"}).status == 401, name


def test_listening_beyond_loopback_without_a_token_is_refused(unserved: Harness, port: int) -> None:
    expired = create_token(unserved.store, "old", Role.ADMIN, expires_at=unserved.clock.now() + timedelta(minutes=1))
    unserved.clock.advance(timedelta(minutes=2))
    assert expired.token

    with pytest.raises(SettingsError) as refused, listening(unserved, port, "0.0.0.0"):
        pass

    assert f"other machines can reach MAINTD_LISTEN 0.0.0.0:{port}, and there is no valid token" in str(refused.value)
    assert "maintd token create --role viewer NAME" in str(refused.value)
    assert not unserved.settings.socket_path.exists()


def test_beyond_loopback_nothing_is_read_without_a_token(unserved: Harness, port: int) -> None:
    headers = bearer(token(unserved, Role.VIEWER))
    with listening(unserved, port, "0.0.0.0") as page:
        assert [page.get(path).status for path in ("/", "/api/v1/status", "/metrics")] == [401] * 3
        assert page.get("/api/v1/status", **headers).status == 200
        assert page.get("/readyz").json == {"ok": True, "problems": []}


def test_a_probe_without_a_token_shows_no_problems(unserved: Harness, port: int) -> None:
    unserved.health = unserved.health._replace(ready=False, problems=("the store is down: password of ada",))
    headers = bearer(token(unserved, Role.VIEWER))
    with listening(unserved, port, "0.0.0.0") as page:
        assert page.get("/readyz").json == {"ok": False, "problems": []}
        assert page.get("/readyz", **headers).json["problems"]


def test_a_store_that_cannot_be_read_is_no_wrong_token(served: Harness, page: Client) -> None:
    headers = bearer(token(served))
    store = sqlite3.connect(served.folder / "maintd.db")
    store.execute("ALTER TABLE tokens RENAME TO moved")
    store.commit()

    answer = page.get("/api/v1/status", **headers)
    store.close()

    assert answer.status == 503
    assert answer.json["error"]["code"].startswith("store")


# --- hosts and other sites ---


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("maintd.example", 200),
        ("MAINTD.example.:443", 200),
        ("evil.example", 403),
        ("127.0.0.1", 200),
        ("10.0.0.9", 403),
    ],
)
def test_host_names_can_be_allowed(unserved: Harness, port: int, host: str, status: int) -> None:
    with listening(unserved, port, allowed_hosts=("maintd.example",)):
        assert on_port(port, host).get("/api/v1/status").status == status


def test_beyond_loopback_an_address_or_an_allowed_name_is_needed(unserved: Harness, port: int) -> None:
    headers = bearer(token(unserved, Role.VIEWER))
    with listening(unserved, port, "0.0.0.0", allowed_hosts=("maintd.example",)):
        for host, status in (
            ("10.0.0.9", 200),
            ("[2001:db8::1]:80", 200),
            ("maintd.example", 200),
            ("evil.example", 403),
        ):
            assert on_port(port, host).get("/api/v1/version", **headers).status == status, host


def test_every_host_name_can_be_allowed(unserved: Harness, port: int) -> None:
    with listening(unserved, port, allowed_hosts=("*",)):
        assert on_port(port, "any.example").get("/api/v1/status").status == 200
        assert on_port(port, "any.example").get("/api/v1/status", Origin="http://evil.example").status == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
)
def test_an_action_for_another_site_is_refused_even_with_a_token(
    served: Harness, page: Client, headers: dict[str, str]
) -> None:
    answer = page.post("/api/v1/runs", {"name": "vacuum"}, **headers, **bearer(token(served)))

    assert (answer.status, answer.json["error"]["code"]) == (403, "refused")
    assert served.store.history.runs() == []


def test_a_page_behind_a_proxy_may_act_on_itself(unserved: Harness, port: int) -> None:
    with listening(unserved, port, allowed_hosts=("maintd.example",)) as page:
        headers = {"Origin": "https://maintd.example", **bearer(token(unserved))}
        assert page.post("/api/v1/runs", {"name": "vacuum"}, **headers).status == 201


# --- a proxy that names users ---

PROXY = {"trusted_proxies": ("127.0.0.0/8",), "proxy_roles": {"ops": Role.OPERATOR, "staff": Role.VIEWER}}


def test_a_trusted_proxy_names_user_and_groups(unserved: Harness, port: int) -> None:
    with listening(unserved, port, **PROXY) as page:
        headers = {
            "X-Forwarded-User": "ada",
            "X-Forwarded-Groups": "staff, ops",
            "X-Forwarded-For": "6.6.6.6, 10.0.0.9",
        }
        done = page.post("/api/v1/runs", {"name": "vacuum"}, **headers)

        assert (done.status, done.json["requested_by"]) == (201, "ada")
        assert unserved.store.audit.recent(1)[0].origin == "proxy 127.0.0.1 for 10.0.0.9"


def test_the_name_of_a_user_may_have_any_letters(unserved: Harness, port: int) -> None:
    with listening(unserved, port, **PROXY) as page:
        headers = {"X-Forwarded-User": "zoë".encode().decode("latin-1"), "X-Forwarded-Groups": "ops"}
        done = page.post("/api/v1/runs", {"name": "vacuum"}, **headers)

        assert done.json["requested_by"] == "zoë"


@pytest.mark.parametrize(
    ("headers", "reads", "acts"),
    [
        ({"X-Forwarded-User": "bob", "X-Forwarded-Groups": "staff"}, 200, 403),
        ({"X-Forwarded-User": "eve", "X-Forwarded-Groups": "guests"}, 403, 403),
        ({"X-Forwarded-User": "eve"}, 403, 403),
        ({"X-Forwarded-Groups": "ops"}, 401, 401),
        ({"X-Forwarded-User": " ", "X-Forwarded-Groups": "ops"}, 401, 401),
        ({"X-Forwarded-User": "x" * 300, "X-Forwarded-Groups": "ops"}, 401, 401),
        ({}, 401, 401),
    ],
)
def test_what_a_trusted_proxy_does_not_say_is_not_assumed(
    unserved: Harness, port: int, headers: dict[str, str], reads: int, acts: int
) -> None:
    with listening(unserved, port, **PROXY) as page:
        assert page.get("/api/v1/status", **headers).status == reads
        assert page.post("/api/v1/runs", {"name": "vacuum"}, **headers).status == acts


def test_every_user_can_have_a_role(unserved: Harness, port: int) -> None:
    with listening(unserved, port, trusted_proxies=("127.0.0.1",), proxy_roles={"*": Role.VIEWER}) as page:
        assert page.get("/api/v1/status", **{"X-Forwarded-User": "eve"}).status == 200


def test_the_names_of_the_headers_can_be_set(unserved: Harness, port: int) -> None:
    names = {"proxy_user_header": "Remote-User", "proxy_groups_header": "Remote-Groups"}
    with listening(unserved, port, **PROXY, **names) as page:
        assert page.get("/api/v1/status", **{"Remote-User": "ada", "Remote-Groups": "ops"}).status == 200
        assert page.get("/api/v1/status", **{"X-Forwarded-User": "ada", "X-Forwarded-Groups": "ops"}).status == 401


def test_headers_of_other_peers_are_ignored_and_logged(unserved: Harness, port: int) -> None:
    with (
        listening(unserved, port, trusted_proxies=("10.0.0.0/8",), proxy_roles={"ops": Role.ADMIN}) as page,
        capture_logs() as logs,
    ):
        headers = {"X-Forwarded-User": "ada", "X-Forwarded-Groups": "ops"}
        statuses = [page.post("/api/v1/runs", {"name": "vacuum"}, **headers).status for _ in range(5)]
        reads = page.get("/api/v1/status", **headers).status

    assert (statuses, reads) == ([401] * 5, 200)
    ignored = [entry for entry in logs if entry["event"] == "proxy_headers_ignored"]
    assert [(entry["address"], entry["requests"]) for entry in ignored] == [
        ("127.0.0.1", 1),
        ("127.0.0.1", 2),
        ("127.0.0.1", 4),
    ]


def test_a_token_can_be_sent_through_a_trusted_proxy(unserved: Harness, port: int) -> None:
    with listening(unserved, port, **PROXY) as page:
        done = page.post("/api/v1/runs", {"name": "vacuum"}, **bearer(token(unserved)))

        assert (done.status, done.json["requested_by"]) == (201, "ci")


def test_a_proxy_with_roles_is_enough_to_listen_beyond_loopback(unserved: Harness, port: int) -> None:
    with listening(unserved, port, "0.0.0.0", **PROXY) as page:
        assert page.get("/api/v1/status", **{"X-Forwarded-User": "a", "X-Forwarded-Groups": "ops"}).status == 200


def test_the_control_socket_needs_no_token_and_names_its_peer(served: Harness, control: Client) -> None:
    assert control.post("/api/v1/reload").status == 200

    event = served.store.audit.recent(1)[0]
    assert event.origin.startswith("socket, uid ")
    assert ", pid " in event.origin
    assert event.by


def test_the_table_of_roles_is_complete() -> None:
    assert set(LEAST_ROLES.values()) == set(Role)


def test_no_token_is_in_the_store(served: Harness, state_dir: Path) -> None:
    text = token(served)

    assert text.removeprefix("maintd_").encode() not in b"".join(
        path.read_bytes() for path in state_dir.glob("maintd.db*")
    )


HEADER_NAMES = ("Host", "Origin", "Sec-Fetch-Site", "X-Forwarded-User", "X-Forwarded-Groups", "X-Forwarded-For")
HEADER_VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=300)


@pytest.fixture(scope="module")
def behind_proxy() -> Iterator[Client]:
    """A server that trusts a proxy; only one group, which cannot be in a header, has a role."""
    with tempfile.TemporaryDirectory(prefix="maintd-web-") as folder, harness(Path(folder)) as unserved:
        roles = {"ops\n": Role.ADMIN}
        with listening(unserved, free_port(), trusted_proxies=("127.0.0.1",), proxy_roles=roles) as page:
            yield page


@settings(max_examples=60, deadline=None)
@given(headers=st.dictionaries(st.sampled_from(HEADER_NAMES), HEADER_VALUES, max_size=4))
def test_no_header_gives_a_right_or_an_error_of_the_server(behind_proxy: Client, headers: dict[str, str]) -> None:
    answer = behind_proxy.post("/api/v1/reload", None, **headers)

    assert answer.status in (400, 401, 403)
