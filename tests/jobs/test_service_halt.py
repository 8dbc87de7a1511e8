"""Services that are halted and unhalted, with a fault at each boundary: never unhalted unless verified."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from support.databases import database
from support.halting import TradingService, trading_service
from support.job_runs import JOBS, JobResult, run_job
from support.servers.base import free_port
from support.servers.postgres import PostgresServer
from support.servers.redis import RedisServer
from support.servers.tls import authority, tls_front

from maintd.job.attempt_info import UnfinishedRun
from maintd.model.evidence import ChangeState, CheckStatus
from maintd.model.target import HaltTarget

pytestmark = pytest.mark.server

ROOT = JOBS.parent
QUICK = {"within": "2s"}
VERIFIED = {"verified_by": ["stability_check"], "pause": "0s", **QUICK}
GOOD = {"stability_check": "succeeded"}


@pytest.fixture
def service(redis_server: RedisServer) -> Iterator[TradingService]:
    with trading_service(redis_server) as found:
        yield found


def halt(service: TradingService, handed: dict[str, Any] | None = None, **attempt: Any) -> JobResult:
    return run_job("service_halt", QUICK, service.targets(), handed=handed or {}, **attempt)


def unhalt(
    service: TradingService, handed: dict[str, Any], outcomes: dict[str, str] | None = None, **attempt: Any
) -> JobResult:
    outcomes = GOOD if outcomes is None else outcomes
    params = {**VERIFIED, **attempt.pop("params", {})}
    return run_job("service_unhalt", params, service.targets(), handed=handed, outcomes=outcomes, **attempt)


def watch(service: TradingService, handed: dict[str, Any], *, held: bool = False, **attempt: Any) -> JobResult:
    unfinished = (UnfinishedRun(7, "planned-maintenance", held, handed),)
    return run_job("window_watch", QUICK, service.targets(), unfinished=unfinished, **attempt)


def record(service: TradingService, result: JobResult) -> dict[str, Any]:
    found: dict[str, Any] = result.handed["halts"][service.name]
    return found


def states(result: JobResult) -> list[tuple[str, str]]:
    return [(change.action, change.state.value) for change in result.changes]


# --- halt -------------------------------------------------------------------------------------------------------------


def test_a_halt_initialises_the_day_first_sends_its_reason_and_is_seen_in_both_sources(service: TradingService) -> None:
    result = halt(service)

    assert (result.outcome, states(result)) == ("succeeded", [("halt", "done")]), result.text()
    assert service.day()["startEquity"] == "1000", "halted before the first request of the day, it would be missing"
    assert service.halted
    assert service.reasons == ["maintd, run 1: maintenance"]
    assert record(service, result)["was"] == "running"


def test_what_the_service_was_is_handed_over_before_the_request_is_sent(service: TradingService) -> None:
    order: list[str] = []
    run_job(
        "service_halt",
        QUICK,
        service.targets(),
        at_report=lambda item: order.append(f"{item.type} {len(service.requests)}"),
    )
    assert order.index("handed 0") < order.index("change 0") < order.index("change 1")


def test_a_service_that_was_halted_before_is_not_halted_again_and_left_halted_at_the_end(
    service: TradingService,
) -> None:
    service.set(halted=True)

    halted = halt(service)
    left = unhalt(service, halted.handed)

    assert (halted.outcome, halted.changes, record(service, halted)["was"]) == ("succeeded", [], "halted")
    assert (left.outcome, left.changes, service.halted) == ("warned", [], True)
    assert "halted before this run" in left.check(f"{service.name}: left as it was").hint


@pytest.mark.parametrize("fault", ["error after", "hang after", "half"])
def test_an_error_after_the_effect_is_read_back_and_recorded_as_done(service: TradingService, fault: str) -> None:
    service.fault = fault

    result = halt(service)

    assert (result.outcome, states(result), service.requests) == ("succeeded", [("halt", "done")], ["/admin/halt"])
    assert result.changes[0].details["answer"], "what it answered is in the record"


@pytest.mark.parametrize(
    ("fault", "state"),
    [("error before", "failed"), ("hang before", "uncertain"), ("nothing", "failed"), ("denied", "refused")],
)
def test_a_halt_without_an_effect_fails_with_what_is_known_of_it(
    service: TradingService, fault: str, state: str
) -> None:
    service.fault = fault

    result = halt(service)

    assert (result.outcome, states(result), service.halted) == ("failed", [("halt", state)], False), result.text()


@pytest.mark.parametrize("fault", ["hang", "half", "error"])
def test_a_service_whose_state_cannot_be_read_is_not_touched(service: TradingService, fault: str) -> None:
    service.reads = fault

    result = halt(service)

    assert (result.outcome, result.changes, service.requests) == ("failed", [], []), result.text()
    assert "halts" not in result.handed


def test_a_dead_service_is_not_halted_and_the_check_has_the_cause(service: TradingService) -> None:
    targets = service.targets(url=f"http://127.0.0.1:{free_port()}")

    result = run_job("service_halt", QUICK, targets)

    assert result.outcome == "failed"
    assert "refused" in str(result.check(f"{service.name}: halted").observed)


def test_a_service_over_tls_is_halted_only_if_its_certificate_is_trusted(
    service: TradingService, tmp_path: Path
) -> None:
    trusted = authority(tmp_path)
    with tls_front(int(service.url.rpartition(":")[2]), trusted) as port:
        url = f"https://127.0.0.1:{port}"
        untrusted = run_job("service_halt", QUICK, service.targets(url=url))
        halted_untrusted = service.halted
        result = run_job("service_halt", QUICK, service.targets(url=url, ca_file=str(trusted.ca_file)))

    check = untrusted.check(f"{service.name}: halted")
    assert (check.status, str(check.observed).partition(":")[0]) == (CheckStatus.FAIL, "tls"), untrusted.text()
    assert not halted_untrusted
    assert (result.outcome, service.halted) == ("succeeded", True), result.text()


def test_sources_that_disagree_are_not_a_state(service: TradingService) -> None:
    confirm = {**service.target()["confirm"], "halted": "0", "running": "1"}

    result = run_job("service_halt", QUICK, service.targets(confirm=confirm))

    assert (result.outcome, service.requests) == ("failed", []), result.text()


def test_one_service_that_fails_does_not_keep_another_from_being_halted(
    service: TradingService, redis_server: RedisServer
) -> None:
    service.reads = "error"
    with trading_service(redis_server) as other:
        targets = service.targets()
        targets["halts"][other.name] = other.target()

        result = run_job("service_halt", QUICK, targets)

        assert (result.outcome, other.halted) == ("failed", True)
        assert result.handed["halts"].keys() == {other.name}


def test_a_second_attempt_and_a_resumed_run_know_that_they_halted_it(service: TradingService) -> None:
    first = halt(service)
    interrupted = {"halts": {service.name: {**record(service, first), "state": "halting"}}}

    again = halt(service, interrupted, run_id=9)

    assert (again.outcome, again.changes) == ("succeeded", [])
    assert {key: record(service, again)[key] for key in ("was", "state", "run")} == {
        "was": "running",
        "state": "halted",
        "run": 1,
    }


def test_a_dry_run_reads_and_changes_nothing(service: TradingService) -> None:
    result = halt(service, dry_run=True)
    assert (states(result), service.requests, result.handed) == ([("halt", "planned")], [], {})


def test_a_postgres_query_and_another_url_are_second_sources(
    service: TradingService, postgres_server: PostgresServer
) -> None:
    with database(postgres_server) as db:
        db.run("CREATE TABLE pnl_days (halted boolean)", "INSERT INTO pnl_days VALUES (false)")
        for confirm in (
            {"postgres": "main", "query": "SELECT halted FROM pnl_days"},
            {"path": f"{service.url}/pnl/status", "field": "halted"},
        ):
            targets = service.targets(confirm=confirm) | {"postgres": {"main": {"dsn": db.url}}}
            result = run_job("service_halt", {"within": "0s"}, targets)
            by_database = "postgres" in confirm
            # The service does not write the table: its own word is not enough.
            assert result.outcome == ("failed" if by_database else "succeeded"), result.text()
            assert service.halted
            service.set(halted=False)


def test_the_user_of_the_deploy_folder_can_read_the_flag_with_the_selector_that_is_named_there(
    service: TradingService,
) -> None:
    selector = re.search(r"selector `\((%R~pnl.*?)\)`", (ROOT / "deploy/redis.acl.md").read_text())
    rules = re.search(r"^user maintd_ro on >change-me (.*)$", (ROOT / "deploy/redis.acl").read_text(), re.MULTILINE)
    assert selector is not None
    assert rules is not None
    with closing(service.client()) as client:
        client.execute_command("ACL", "SETUSER", "halt-ro", "on", ">secret", *rules[1].split())
        targets = service.targets()
        targets["redis"]["main"] |= {"username": "halt-ro", "password": "secret"}
        without = run_job("service_halt", QUICK, targets)
        client.execute_command("ACL", "SETUSER", "halt-ro", f"({selector[1]})")
        granted = run_job("service_halt", QUICK, targets)
        client.execute_command("ACL", "DELUSER", "halt-ro")

    assert (without.outcome, granted.outcome) == ("failed", "succeeded"), granted.text()
    assert "hget" in str(without.check(f"{service.name}: halted").observed)


def test_doctor_reads_the_state_without_a_request_that_changes_it(service: TradingService) -> None:
    step = {"entry": "window", "step": "service_halt", "job": "service_halt", "path": str(JOBS / "service_halt.py")}
    params = {"calendar": {"steps": [{**step, "params": "{}"}], "store": None}}
    name = f"halts {service.name}: read whether it is halted"

    good = run_job("doctor", params, service.targets())
    bad = run_job("doctor", params, {**service.targets(), "redis": {"other": {"url": "redis://127.0.0.1:1/0"}}})

    assert (good.check(name).status, service.requests) == (CheckStatus.OK, []), good.text()
    assert "there is no redis target main" in str(bad.check(name).observed)


def test_an_empty_table_is_no_state(service: TradingService, postgres_server: PostgresServer) -> None:
    with database(postgres_server) as db:
        db.run("CREATE TABLE pnl_days (halted boolean)")
        confirm = {"postgres": "main", "query": "SELECT halted FROM pnl_days"}
        targets = service.targets(confirm=confirm) | {"postgres": {"main": {"dsn": db.url}}}
        result = run_job("service_halt", QUICK, targets)
    assert (result.outcome, service.requests) == ("failed", [])
    assert "no row" in str(result.check(f"{service.name}: halted").observed)


@pytest.mark.parametrize(
    "source",
    [
        {"field": "halted"},
        {"path": "/status", "redis": "main", "field": "halted", "key": "x"},
        {"redis": "main", "field": "halted"},
        {"postgres": "main"},
        {"path": "/status", "field": "halted", "halted": 1, "running": 1},
    ],
)
def test_a_source_that_cannot_be_read_is_refused_by_the_calendar(source: dict[str, Any]) -> None:
    request = {"path": "/x"}
    good = {"path": "/s", "field": "halted"}
    with pytest.raises(ValidationError):
        HaltTarget.model_validate(
            {"url": "http://x", "look": good, "confirm": source, "halt": request, "unhalt": request}
        )


def test_the_token_is_not_sent_to_another_server_that_is_a_source(service: TradingService) -> None:
    seen: list[str | None] = []

    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("X-Admin-Token"))
            body = json.dumps({"halted": service.halted}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            pass

    with serving(Other) as url:
        result = run_job("service_halt", QUICK, service.targets(confirm={"path": f"{url}/state", "field": "halted"}))
    assert result.outcome == "succeeded", result.text()
    assert set(seen) == {None}


@contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


# --- unhalt -----------------------------------------------------------------------------------------------------------


def test_a_service_that_this_run_halted_and_verified_is_unhalted_and_seen_to_run(service: TradingService) -> None:
    halted = halt(service)

    result = unhalt(service, halted.handed)

    assert (result.outcome, states(result), service.halted) == ("succeeded", [("unhalt", "done")], False)
    assert record(service, result)["state"] == "unhalted"


@pytest.mark.parametrize("outcome", ["failed", "unknown", "skipped", "lost", None])
def test_without_a_verification_that_succeeded_it_stays_halted_and_that_is_the_reason(
    service: TradingService, outcome: str | None
) -> None:
    halted = halt(service)

    result = unhalt(service, halted.handed, {} if outcome is None else {"stability_check": outcome})

    assert (result.outcome, result.changes, service.halted) == ("failed", [], True)
    assert "stays halted" in str(result.check(f"{service.name}: unhalted").observed)


@pytest.mark.parametrize("fault", ["error after", "hang after", "half"])
def test_an_error_after_an_unhalt_is_read_back_and_recorded_as_done(service: TradingService, fault: str) -> None:
    halted = halt(service)
    service.fault = fault

    result = unhalt(service, halted.handed)

    assert (result.outcome, states(result), service.halted) == ("succeeded", [("unhalt", "done")], False)


@pytest.mark.parametrize(
    ("fault", "state"),
    [("error before", "failed"), ("hang before", "uncertain"), ("nothing", "failed"), ("denied", "refused")],
)
def test_an_unhalt_without_an_effect_fails_and_the_service_is_still_watched(
    service: TradingService, fault: str, state: str
) -> None:
    halted = halt(service)
    service.fault = fault

    result = unhalt(service, halted.handed)

    assert (result.outcome, states(result), service.halted) == ("failed", [("unhalt", state)], True), result.text()
    assert record(service, result)["state"] == "halted"


@pytest.mark.parametrize("fault", ["hang", "half", "error"])
def test_a_service_whose_state_cannot_be_read_stays_halted(service: TradingService, fault: str) -> None:
    halted = halt(service)
    service.reads = fault

    result = unhalt(service, halted.handed)

    assert (result.outcome, result.changes, service.halted) == ("failed", [], True)


def test_a_service_that_this_run_did_not_halt_is_left_as_it_is(service: TradingService) -> None:
    running = unhalt(service, {})
    service.set(halted=True)
    halted = unhalt(service, {})
    service.reads = "hang"
    dead = unhalt(service, {})

    assert (running.outcome, halted.outcome, dead.outcome) == ("succeeded", "warned", "warned")
    assert (service.requests, service.halted) == ([], True)


def test_a_service_that_another_client_has_unhalted_is_reported(service: TradingService) -> None:
    halted = halt(service)
    service.set(halted=False)

    result = unhalt(service, halted.handed)

    assert (result.outcome, result.changes) == ("warned", [])


def test_an_undo_of_a_halt_that_was_interrupted_before_its_effect_finds_nothing_to_do(service: TradingService) -> None:
    interrupted = {"halts": {service.name: {"was": "running", "state": "halting", "run": 1}}}

    result = unhalt(service, interrupted, {"service_halt": "failed", "stability_check": "skipped"})

    assert (result.outcome, result.changes) == ("succeeded", [])


def test_before_anything_was_changed_an_undo_needs_no_verification(service: TradingService) -> None:
    halted = halt(service)
    params = {"unchanged_before": ["services_restart"]}
    outcomes = {"backup": "failed", "services_restart": "skipped", "stability_check": "skipped"}

    result = unhalt(service, halted.handed, outcomes, params=params)

    assert (result.outcome, service.halted) == ("succeeded", False), result.text()


@pytest.mark.parametrize("started", ["failed", "lost", "succeeded", None])
def test_once_something_may_have_been_changed_an_undo_needs_a_verification(
    service: TradingService, started: str | None
) -> None:
    halted = halt(service)
    outcomes = {"stability_check": "skipped"} | ({} if started is None else {"services_restart": started})

    result = unhalt(service, halted.handed, outcomes, params={"unchanged_before": ["services_restart"]})

    assert (result.outcome, service.halted) == ("failed", True)


def test_a_resumed_run_does_not_take_steps_of_the_earlier_one_for_not_started(service: TradingService) -> None:
    halted = halt(service)
    params = {"unchanged_before": ["services_restart"]}
    outcomes = {"services_restart": "skipped", "stability_check": "skipped"}

    resumed = unhalt(service, halted.handed, outcomes, params=params, run_id=2)
    assert (resumed.outcome, service.halted) == ("failed", True)

    undone = unhalt(service, halted.handed, outcomes, params=params, run_id=3, undoes_run=1)
    assert (undone.outcome, service.halted) == ("succeeded", False), "the steps of the run that it undoes are known"


def test_a_service_that_another_run_needs_halted_stays_halted(service: TradingService) -> None:
    halted = halt(service)
    needed = {"halts": {service.name: {"was": "halted", "state": "left", "run": 8}}}

    result = unhalt(service, halted.handed, unfinished=(UnfinishedRun(8, "other-window", False, needed),))

    assert (result.outcome, service.halted) == ("failed", True)
    assert "run 8" in str(result.check(f"{service.name}: unhalted").observed)


def test_a_verification_must_be_named() -> None:
    result = run_job("service_unhalt", {"verified_by": []}, {})
    assert isinstance(result.error, ValidationError)


# --- watch ------------------------------------------------------------------------------------------------------------


def test_a_flag_that_ends_at_midnight_is_set_again_and_that_is_a_warning(service: TradingService) -> None:
    halted = halt(service)
    service.pass_midnight()

    result = watch(service, halted.handed)

    assert (result.outcome, states(result), service.halted) == ("warned", [("halt", "done")], True), result.text()
    assert service.day()["startEquity"] == "1000", "the new day is initialised before it is halted"
    assert watch(service, halted.handed).outcome == "succeeded"


def test_midnight_within_the_run_is_noticed_by_the_same_job_as_a_later_step(service: TradingService) -> None:
    halted = halt(service)
    service.pass_midnight()

    again = halt(service, halted.handed)

    assert (again.outcome, service.halted, record(service, again)["was"]) == ("succeeded", True, "running")


def test_a_service_that_was_halted_before_is_kept_halted_over_midnight_and_left_so(service: TradingService) -> None:
    service.set(halted=True)
    before = halt(service)
    service.pass_midnight()

    watched = watch(service, before.handed)
    assert (watched.outcome, service.halted) == ("warned", True)

    left = unhalt(service, before.handed)
    assert (left.outcome, service.halted) == ("warned", True)


def test_a_lost_run_that_is_held_keeps_its_services_halted(service: TradingService) -> None:
    halted = halt(service)
    service.pass_midnight()
    assert (watch(service, halted.handed, held=True).outcome, service.halted) == ("warned", True)


@pytest.mark.parametrize("state", ["unhalting", "unhalted", "halting"])
def test_a_service_that_its_run_unhalts_or_is_about_to_halt_is_not_watched(service: TradingService, state: str) -> None:
    handed = {"halts": {service.name: {"was": "running", "state": state, "run": 7}}}
    assert (watch(service, handed).outcome, service.requests) == ("succeeded", [])


def test_a_watch_that_comes_late_does_not_act_on_what_it_knew(service: TradingService) -> None:
    halted = halt(service)
    service.set(halted=False)
    requests = len(service.requests)

    result = watch(service, halted.handed, read_at=datetime.now(UTC) - timedelta(minutes=1))

    assert (result.outcome, len(service.requests)) == ("unknown", requests)


def test_a_watch_of_a_dead_service_is_no_success(service: TradingService) -> None:
    halted = halt(service)
    service.reads = "error"
    assert watch(service, halted.handed).outcome == "failed"


def test_a_watch_without_a_store_knows_nothing() -> None:
    result = run_job("window_watch", QUICK, {})
    assert result.error is not None


def test_what_a_run_handed_over_in_another_form_is_no_record(service: TradingService) -> None:
    for value in (None, 3, [], {"x": 1}, {"x": {}}, {service.name: {}}):
        assert watch(service, {"halts": value, "silences": value}).check("unfinished runs with values").status is (
            CheckStatus.OK
        )


def test_a_change_of_an_unanswered_request_is_uncertain_not_done(service: TradingService) -> None:
    service.fault = "hang before"
    assert [change.state for change in halt(service).changes] == [ChangeState.UNCERTAIN]
