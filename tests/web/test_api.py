"""The API, over its real sockets."""

from __future__ import annotations

import http.client
import os
import pwd
from datetime import timedelta

import pytest
from support.stores import claim, queue
from support.web_services import FULL, HOSTILE, Client, Harness, artifact, at, check, line, run_with, running_run

from maintd.model.evidence import CheckStatus
from maintd.model.job import BrokenJob, JobDescription
from maintd.model.run import Run, RunState
from maintd.model.run_updates import AttemptReported, RunFinished
from maintd.model.status import StatusReport
from maintd.operations import Health, ReloadResult
from maintd.web.app import openapi_schema


def test_the_version_names_node_and_start_time(control: Client) -> None:
    answer = control.get("/api/v1/version").json

    assert (answer["api"], answer["node"], answer["started_at"]) == (1, "n1", "2026-03-02T10:00:00Z")


def test_the_status_is_the_model_that_the_command_line_parses(served: Harness, page: Client) -> None:
    run_with(served.store, "nightly-vacuum", 0, RunState.FAILED, items=FULL)

    report = StatusReport.model_validate_json(page.get("/api/v1/status").body)

    assert report.entries[0].why == "vacuum: dead tuples: 31.25 %, expected at most 20"
    assert report.page == f"http://{served.settings.listen}/"


def test_an_entry_has_its_last_ten_runs(served: Harness, page: Client) -> None:
    ids = [run_with(served.store, "probe", minute) for minute in range(12)]

    answer = page.get("/api/v1/entries/probe").json

    assert answer["entry"] == "probe"
    assert [run["id"] for run in answer["runs"]] == ids[:1:-1]


def test_a_run_has_all_its_evidence(served: Harness, page: Client) -> None:
    run_id = run_with(served.store, "nightly-vacuum", 0, RunState.FAILED, items=FULL)

    run = Run.model_validate_json(page.get(f"/api/v1/runs/{run_id}").body)

    attempt = run.steps[0].attempts[0]
    assert [found.name for found in attempt.checks][:2] == ["dead tuples", "age of the oldest transaction"]
    assert attempt.log_lines == 3


# --- history ---


def test_the_history_is_read_page_by_page_to_its_end(served: Harness, page: Client) -> None:
    ids = [run_with(served.store, "probe", minute) for minute in range(5)]

    seen, before = [], ""
    while True:
        answer = page.get(f"/api/v1/runs?limit=2{before}").json
        seen += [run["id"] for run in answer["runs"]]
        if answer["next_before"] is None:
            break
        before = f"&before={answer['next_before']}"

    assert seen == ids[::-1]


def test_the_history_is_filtered_by_entry_job_state_and_time(served: Harness, page: Client) -> None:
    good = run_with(served.store, "probe", 0)
    bad = run_with(served.store, "probe", 10, RunState.FAILED)
    other = run_with(served.store, "nightly-vacuum", 20, RunState.LOST)
    served.clock.advance(timedelta(minutes=30))

    def ids(query: str) -> list[int]:
        return [run["id"] for run in page.get(f"/api/v1/runs?{query}").json["runs"]]

    assert ids("entry=probe") == [bad, good]
    assert ids("state=failed,lost") == [other, bad]
    assert ids("state=failed&state=lost") == [other, bad]
    assert ids("job=vacuum&since=12m") == [other]
    assert ids("since=2026-03-02T12:05:00Z") == [other, bad]
    assert ids("entry=&state=") == [other, bad, good]


def test_a_filter_by_an_unknown_name_is_an_error_with_a_suggestion(page: Client) -> None:
    assert page.get("/api/v1/runs?entry=probe").json == {"runs": [], "next_before": None}
    answer = page.get("/api/v1/runs?entry=prob")
    assert (answer.status, answer.json["error"]["hint"]) == (404, 'did you mean "probe"?')
    assert page.get("/api/v1/runs?job=vacum").status == 404


@pytest.mark.parametrize(
    ("query", "hint"),
    [
        ("state=faild", 'did you mean "failed"?'),
        ("since=yesterday", "write for example 2026-03-01T00:00Z or 7d"),
        ("since=2026-03-01", "write for example 2026-03-01T00:00Z or 7d"),
        ("since=0001-01-01T00:00:00%2B23:00", "write for example 2026-03-01T00:00Z or 7d"),
    ],
)
def test_an_invalid_filter_is_an_error_with_an_example(page: Client, query: str, hint: str) -> None:
    answer = page.get(f"/api/v1/runs?{query}")

    assert (answer.status, answer.json["error"]["code"], answer.json["error"]["hint"]) == (400, "usage", hint)


# --- logs ---


def test_a_log_is_followed_by_its_cursor_until_it_is_final(served: Harness, page: Client) -> None:
    run_id, fence = running_run(served.store, "probe", 0, line(1, "one"), line(2, "two"))

    first = page.get(f"/api/v1/runs/{run_id}/log?limit=1").json
    second = page.get(f"/api/v1/runs/{run_id}/log?after={first['cursor']}").json
    none = page.get(f"/api/v1/runs/{run_id}/log?after={second['cursor']}").json
    served.store.runs.apply(
        run_id,
        fence,
        4,
        [
            AttemptReported(step=0, attempt=1, items=(line(3, "three"),)),
            RunFinished(state=RunState.SUCCEEDED, at=at(1)),
        ],
    )
    last = page.get(f"/api/v1/runs/{run_id}/log?after={none['cursor']}").json

    assert [page["lines"][0]["text"] for page in (first, second, last)] == ["one", "two", "three"]
    assert (first["cursor"], second["cursor"]) == ("0.1.1", "0.1.2")
    assert (none["lines"], none["cursor"], none["final"]) == ([], "0.1.2", False)
    assert last["final"]


def test_a_log_can_be_narrowed_to_a_step_by_name_or_index(served: Harness, page: Client) -> None:
    run_id, _ = running_run(served.store, "weekly-cleanup", 0, line(1, "one"))

    assert page.get(f"/api/v1/runs/{run_id}/log?step=vacuum").json["lines"][0]["step"] == "vacuum"
    assert page.get(f"/api/v1/runs/{run_id}/log?step=0&attempt=1").json["lines"]
    answer = page.get(f"/api/v1/runs/{run_id}/log?step=vacum")
    assert (answer.status, answer.json["error"]["hint"]) == (404, 'did you mean "vacuum"?')


@pytest.mark.parametrize("cursor", ["x", "0.1", "0.1.2.3", "-1.1.1", "0.1." + "9" * 30, "０.1.1", "0.1.1%00"])
def test_an_invalid_cursor_is_refused(served: Harness, page: Client, cursor: str) -> None:
    run_id, _ = running_run(served.store, "probe", 0)
    quoted = cursor.encode().replace("０".encode(), b"%EF%BC%90").decode()

    assert page.get(f"/api/v1/runs/{run_id}/log?after={quoted}").status == 400


# --- trigger, cancel, pause, reload ---


def test_an_idempotency_key_triggers_one_run(served: Harness, control: Client) -> None:
    body = {"name": "vacuum", "params": {"keep": 5}, "why": "full", "by": "ada", "idempotency_key": "k"}

    first = control.post("/api/v1/runs", body)
    again = control.post("/api/v1/runs", body)

    assert (first.status, again.status) == (201, 200)
    assert first.json["id"] == again.json["id"]
    requested_by = f"ada (as {pwd.getpwuid(os.getuid()).pw_name})"
    assert (first.json["state"], first.json["requested_by"], first.json["why"]) == ("queued", requested_by, "full")
    assert served.woken == 1


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"name": "vacum"}, 404, "unknown_name"),
        ({"name": "off"}, 403, "refused"),
        ({"name": "vacuum", "params": {"kep": 1}}, 400, "usage"),
        ({"name": "vacuum", "at": "2020-01-01T00:00:00Z"}, 400, "usage"),
        ({"name": "vacuum", "at": "2026-03-03T00:00:00"}, 400, "usage"),
        ({"name": "vacuum", "at": "9999-12-31T23:59:59-23:00"}, 400, "usage"),
        ({"name": "vacuum", "nmae": 1}, 400, "usage"),
        ({"name": ""}, 400, "usage"),
        ({}, 400, "usage"),
        ([], 400, "usage"),
    ],
)
def test_all_errors_have_the_same_shape(served: Harness, control: Client, body: object, status: int, code: str) -> None:
    answer = control.post("/api/v1/runs", body)

    assert (answer.status, answer.json["error"]["code"]) == (status, code)
    assert set(answer.json["error"]) == {"code", "message", "hint"}
    assert served.store.history.runs() == []


def test_a_queued_run_is_cancelled_and_an_ended_run_is_refused(served: Harness, control: Client) -> None:
    run_id = queue(served.store, "probe")

    cancelled = control.post(f"/api/v1/runs/{run_id}/cancel", {"by": "ada", "why": "no"})
    again = control.post(f"/api/v1/runs/{run_id}/cancel")

    assert (cancelled.status, cancelled.json["state"]) == (200, "cancelled")
    assert (again.status, again.json["error"]["code"]) == (403, "refused")


def test_an_entry_is_paused_and_unpaused(served: Harness, control: Client) -> None:
    paused = control.post("/api/v1/entries/probe/pause", {"why": "noise", "by": "ada"}).json
    released = control.post("/api/v1/entries/probe/unpause", {"by": "bob"}).json
    again = control.post("/api/v1/entries/probe/unpause").json

    assert (paused["entry"], paused["why"], paused["until"]) == ("probe", "noise", None)
    assert (released, again) == ({"unpaused": True}, {"unpaused": False})
    kinds = [event["kind"] for event in control.get("/api/v1/events?limit=2").json["events"]]
    assert kinds == ["entry_unpaused", "entry_paused"]


def test_a_reload_reports_changes_or_problems(served: Harness, control: Client) -> None:
    good = control.post("/api/v1/reload").json
    served.reloaded = ReloadResult(ok=False, changes=(), problems=("schedules.yaml:3:1: no",))
    bad = control.post("/api/v1/reload").json

    assert good == {"ok": True, "changes": ["entry probe: every 15 minutes"], "problems": []}
    assert bad == {"ok": False, "changes": [], "problems": ["schedules.yaml:3:1: no"]}


# --- due times, jobs, health, status, settings ---


def test_due_times_are_in_order_and_the_range_is_limited(page: Client) -> None:
    found = page.get("/api/v1/due?days=1").json["due"]

    assert [item["due_at"] for item in found] == sorted(item["due_at"] for item in found)
    assert {"entry", "due_at", "local", "jobs"} <= found[0].keys()
    assert page.get("/api/v1/due?days=0").status == 400
    assert page.get("/api/v1/due?days=1e9").status == 400


def test_broken_jobs_are_listed_with_their_error(page: Client) -> None:
    jobs = page.get("/api/v1/jobs").json["jobs"]

    assert JobDescription.model_validate(jobs[0]).name == "vacuum"
    assert BrokenJob.model_validate(page.get("/api/v1/jobs/wrecked").json).error.endswith("invalid syntax")
    assert page.get("/api/v1/jobs/vacum").json["error"]["hint"] == 'did you mean "vacuum"?'


def test_liveness_and_readiness_differ(served: Harness, page: Client) -> None:
    assert (page.get("/healthz").status, page.get("/readyz").status) == (200, 200)

    served.health = Health(alive=True, ready=False, problems=("the clock jumped",))
    assert (page.get("/healthz").status, page.get("/readyz").status) == (200, 503)

    served.health = Health(alive=False, ready=False, problems=("stalled",))
    answer = page.get("/healthz")
    assert (answer.status, answer.json) == (503, {"ok": False, "problems": ["stalled"]})


def test_an_unreachable_store_is_503_and_the_daemon_stays_alive(served: Harness, page: Client) -> None:
    file = served.folder / "maintd.db"
    served.store.close()
    file.write_bytes(b"no database " * 1000)
    for rest in served.folder.glob("maintd.db-*"):
        rest.unlink()

    runs, ready, status = page.get("/api/v1/runs"), page.get("/readyz"), page.get("/api/v1/status")

    assert (runs.status, ready.status, status.status) == (503, 503, 200)
    assert runs.headers["retry-after"] == "5"
    assert page.get("/healthz").status == 200
    assert page.get("/").status == 200
    assert page.get("/runs").status == 503


def test_the_status_text_has_the_exit_code_in_a_header(served: Harness, control: Client) -> None:
    good = control.get("/text/status?width=60")
    served.jobs.pop("wrecked")
    served.use(*served.calendar.entries[:4], broken={})
    well = control.get("/text/status")
    run_with(served.store, "probe", 0, RunState.FAILED, items=(check("lag", CheckStatus.FAIL),))
    bad = control.get("/text/status?colour=1")

    assert good.headers["content-type"] == "text/plain; charset=utf-8"
    assert [answer.headers["x-exit-code"] for answer in (good, well, bad)] == ["1", "0", "1"]
    assert "\x1b[" in bad.text
    assert "\x1b[" not in well.text


def test_settings_are_redacted(unserved: Harness) -> None:
    from maintd.model.target import Targets
    from maintd.web.redaction import redacted_settings

    targets = Targets.model_validate(
        {
            "postgres": {
                "a": {"dsn": "postgresql://op:geheim@db/x", "password": "geheim"},
                "b": {"dsn": "host=db user=op password='geh eim' dbname=x"},
                "c": {"dsn": "host=db password = geheim dbname=x"},
                "d": {"dsn": "postgresql://db/x?sslpassword=geheim"},
            },
            "redis": {"r": {"url": "redis://:geheim@r:6379/0"}},
            "http": {
                "h": {"url": "https://h/?token=geheim&x=1", "headers": {"Authorization": "geheim"}},
                "i": {"url": "https://geheim@h/?api_key=geheim&access_token=geheim&sig=geheim"},
                "j": {"url": "HTTPS://op:a/geheim@b@h/x"},
            },
        }
    )
    service = unserved.service()
    object.__setattr__(service, "targets", lambda: targets)

    shown = str(redacted_settings(service))

    assert "geheim" not in shown
    assert "geh eim" not in shown
    assert "host=db user=op password=*** dbname=x" in shown
    assert "postgresql://op:***@db/x" in shown


def test_every_endpoint_has_a_description() -> None:
    paths = openapi_schema()["paths"]

    assert len(paths) >= 20
    for path, methods in paths.items():
        for method, operation in methods.items():
            assert operation.get("description"), f"{method} {path} has no description"


def test_every_endpoint_documents_the_errors_that_it_returns() -> None:
    for path, methods in openapi_schema()["paths"].items():
        for operation in methods.values():
            content = operation["responses"]["401"]["content"]["application/json"]
            assert content["schema"] == {"$ref": "#/components/schemas/ErrorResponse"}, path
            assert "422" not in operation["responses"], path  # FastAPI's own, which maintd never returns


# --- artifacts ---


def test_artifacts_cannot_execute_in_the_browser(served: Harness, page: Client) -> None:
    kinds = {
        "report.html": ("text/html", "inline"),
        "report.md": ("text/markdown", "inline"),
        "figures.csv": ("text/csv", "inline"),
        "chart.png": ("image/png", "inline"),
        "logo.svg": ("image/svg+xml", "attachment"),
        "page.xhtml": ("application/xhtml+xml", "attachment"),
        "dump.bin": ("", "attachment"),
        "odd.html": ("text/HTML; charset=x", "inline"),
    }
    items = [artifact(served.folder, name, HOSTILE.encode(), kind) for name, (kind, _) in kinds.items()]
    run_id = run_with(served.store, "nightly-vacuum", 0, items=tuple(items))

    for name, (_, disposition) in kinds.items():
        answer = page.get(f"/api/v1/runs/{run_id}/artifacts/vacuum/1/{name}")
        assert answer.body == HOSTILE.encode()
        assert answer.headers["content-disposition"].startswith(disposition), name
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("sandbox;" if "html" in name and disposition == "inline" else "default-src 'none'")
        if disposition == "attachment":
            assert answer.headers["content-type"].startswith("application/octet-stream")


def test_an_artifact_outside_the_folder_is_refused_and_a_missing_one_404(served: Harness, page: Client) -> None:
    (served.folder / "secret").write_text("secret")
    inside = artifact(served.folder, "gone.txt", b"x", "text/plain")
    (served.folder / "artifacts" / inside.path).unlink()
    (served.folder / "artifacts" / "link.txt").symlink_to(served.folder / "secret")
    outside = [
        inside.model_copy(update={"name": "up.txt", "path": "../secret"}),
        inside.model_copy(update={"name": "root.txt", "path": "/etc/hostname"}),
        inside.model_copy(update={"name": "link.txt", "path": "link.txt"}),
    ]
    run_id = run_with(served.store, "nightly-vacuum", 0, items=(inside, *outside))

    def status(name: str) -> int:
        return page.get(f"/api/v1/runs/{run_id}/artifacts/vacuum/1/{name}").status

    assert [status(item.name) for item in outside] == [403, 403, 403]
    assert status("gone.txt") == 404
    assert status("gnoe.txt") == 404
    assert status("..%2F..%2Fsecret") == 404


def test_a_head_request_has_no_body(served: Harness, page: Client, port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/api/v1/version")
    first = connection.getresponse()
    first.read()
    connection.request("GET", "/healthz")  # the connection is kept alive

    assert connection.getresponse().status == 200
    connection.close()


def test_a_running_run_has_its_phase_and_progress(served: Harness, page: Client) -> None:
    run_id, _ = running_run(served.store, "nightly-vacuum", 0, *FULL[:2])

    attempt = page.get(f"/api/v1/runs/{run_id}").json["steps"][0]["attempts"][0]

    assert attempt["phase"] == "vacuum the largest table"
    assert (attempt["progress"]["done"], attempt["progress"]["total"]) == (3, 12)


def test_a_claimed_run_is_the_active_run_of_its_entry(served: Harness, page: Client) -> None:
    run = claim(served.store, queue(served.store, "probe"))

    assert page.get("/api/v1/entries/probe").json["active_run"]["id"] == run.id
