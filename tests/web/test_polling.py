"""What a client polls and pages through: ETags, HEAD, entries, series, the text of a log, search in a log."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from support.web_services import FULL, Client, Harness, at, line, run_with, running_run

from maintd.model.access import Role
from maintd.model.evidence import Measure
from maintd.model.run_updates import AttemptReported
from maintd.operations.tokens import create_token
from maintd.web.access import RIGHTS
from maintd.web.api import runs as runs_module

POLLED = (
    *("/api/v1/status", "/api/v1/entries", "/api/v1/entries/probe", "/api/v1/runs", "/api/v1/findings"),
    *("/api/v1/summary", "/api/v1/summary?since=7d"),
)


@pytest.mark.parametrize("path", POLLED)
def test_a_polling_client_gets_304_until_something_changed(served: Harness, page: Client, path: str) -> None:
    run_with(served.store, "probe", 0, items=FULL)
    served.clock.advance(timedelta(minutes=5))
    first = page.get(path)
    served.clock.advance(timedelta(seconds=1))

    same = page.get(path, If_None_Match=f'"other", {first.headers["etag"]}')
    served.store.run_events.review(lambda conn, events: None)
    run_with(served.store, "probe", 1)
    changed = page.get(path, If_None_Match=first.headers["etag"])

    assert (same.status, same.body, same.headers["etag"]) == (304, b"", first.headers["etag"])
    assert changed.status == (304 if path.endswith("findings") else 200)


def test_every_list_answers_304_while_nothing_changed(served: Harness, control: Client) -> None:
    run_with(served.store, "probe", 0, items=FULL)
    served.clock.advance(timedelta(minutes=5))
    lists = [path for method, path in RIGHTS if method == "GET" and path.startswith("/api/v1") and "{" not in path]
    polled = [path for path in lists if path not in ("/api/v1/events/stream", "/api/v1/series")]
    assert len(polled) > 15
    found = {}
    for path in polled:
        first = control.get(path)
        served.clock.advance(timedelta(seconds=1))

        same = control.get(path, If_None_Match=first.headers.get("etag", ""))

        found[path] = (first.status, same.status)
    assert found == dict.fromkeys(polled, (200, 304))


@pytest.mark.parametrize(("method", "path"), [key for key in RIGHTS if key[1].startswith("/api/v1")])
def test_an_unknown_query_parameter_is_refused(control: Client, method: str, path: str) -> None:
    target = path.replace("{run_id}", "1").replace("{name}", "probe").replace("{step}", "0").replace("{attempt}", "1")

    answer = control.ask(method, f"{target}?colour=red", b"{}" if method == "POST" else None)

    assert (answer.status, answer.json["error"]["code"]) == (400, "usage")
    assert answer.json["error"]["message"] == 'unknown query parameter "colour"'
    assert answer.json["error"]["hint"].startswith(("it takes ", "did you mean "))


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("/api/v1/runs?stat=failed", 'did you mean "state"?'),
        ("/api/v1/runs?state=failed&limt=3", 'did you mean "limit"?'),
        ("/api/v1/summary?from=7d", "it takes since, until"),
        ("/api/v1/version?verbose=1", "it takes none"),
    ],
)
def test_an_unknown_query_parameter_is_refused_with_a_suggestion(page: Client, target: str, hint: str) -> None:
    assert page.get(target).json["error"]["hint"] == hint


def test_a_probe_may_have_parameters_of_its_own(page: Client) -> None:
    assert page.get("/healthz?from=balancer").status == page.get("/healthz").status


def test_head_answers_as_get_does_without_a_body(served: Harness, page: Client) -> None:
    run_id = run_with(served.store, "probe", 0, items=FULL)
    for method, path in RIGHTS:
        target = path.replace("{run_id}", str(run_id)).replace("{name}", "probe")
        if method != "GET" or "{" in target or path.endswith("/events/stream"):
            continue

        head, got = page.ask("HEAD", target, None), page.get(target)

        assert (head.status, head.body) == (got.status, b""), target
        assert head.headers.get("content-type") == got.headers.get("content-type"), target
        assert head.headers.get("etag") == got.headers.get("etag"), target


def test_the_entries_are_listed_without_those_that_a_token_is_not_for(served: Harness, page: Client) -> None:
    own = create_token(served.store, "ci", Role.VIEWER, entries=("pro*",), by="ada").token

    assert [entry["entry"] for entry in page.get("/api/v1/entries").json["entries"]][:2] == [
        "nightly-vacuum",
        "weekly-cleanup",
    ]
    of_token = page.get("/api/v1/entries", Authorization=f"Bearer {own}").json["entries"]
    assert [entry["entry"] for entry in of_token] == ["probe"]


# --- series ---


def measured(served: Harness, minutes: float, value: float, entry: str = "probe") -> int:
    return run_with(
        served.store, entry, minutes, items=(Measure(name="size", value=value, unit="B", labels={"table": "orders"}),)
    )


def test_a_series_is_read_page_by_page_oldest_first(served: Harness, page: Client) -> None:
    runs = [measured(served, minutes, float(minutes)) for minutes in range(5)]
    measured(served, 10, 99.0, "nightly-vacuum")

    first = page.get("/api/v1/series?name=size&entry=probe&limit=3").json
    measured(served, 11, 11.0)
    rest = page.get(f"/api/v1/series?name=size&entry=probe&after={first['next_after']}").json

    points = [*first["points"], *rest["points"]]
    assert [point["value"] for point in points] == [0.0, 1.0, 2.0, 3.0, 4.0, 11.0]
    assert [point["run_id"] for point in points[:5]] == runs
    assert rest["next_after"] is None
    one = points[0]
    assert (one["unit"], one["labels"], one["entry"], one["at"]) == (
        "B",
        {"table": "orders"},
        "probe",
        "2026-03-02T12:02:00Z",
    )


def test_a_series_can_begin_at_a_time(served: Harness, page: Client) -> None:
    for minutes in range(5):
        measured(served, minutes, float(minutes))

    found = page.get(f"/api/v1/series?name=size&job=vacuum&since={at(3):%Y-%m-%dT%H:%M}Z").json["points"]
    all_entries = page.get("/api/v1/series?name=size").json["points"]

    assert [point["value"] for point in found] == [3.0, 4.0]
    assert len(all_entries) == 5
    assert page.get("/api/v1/series?name=size&entry=prob").json["error"]["hint"] == 'did you mean "probe"?'
    assert page.get("/api/v1/series").status == 400


# --- logs ---


def lines_of(answer: Any) -> list[str]:
    return [found["text"] for found in answer.json["lines"]]


def test_a_search_finds_text_whatever_its_case(served: Harness, page: Client) -> None:
    texts = ["Connected", "could not LOCK Straße", "100% done", "lock released"]
    run_id = run_with(served.store, "probe", 0, items=tuple(line(seq, text) for seq, text in enumerate(texts, 1)))

    found = page.get(f"/api/v1/runs/{run_id}/log?search=lock")

    assert lines_of(found) == ["could not LOCK Straße", "lock released"]
    assert (found.json["searched"], found.json["more"], found.json["final"]) == (4, False, True)
    assert lines_of(page.get(f"/api/v1/runs/{run_id}/log?search=STRASSE")) == ["could not LOCK Straße"]
    assert lines_of(page.get(f"/api/v1/runs/{run_id}/log?search=0%25")) == ["100% done"]


def test_a_search_shows_how_far_it_came_and_continues(
    served: Harness, page: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_module, "SEARCHED_LINES", 10)
    monkeypatch.setattr(runs_module, "SEARCH_PAGE", 5)
    items = tuple(line(seq, "needle" if seq in (3, 4, 14) else "hay") for seq in range(1, 18))
    run_id = run_with(served.store, "probe", 0, items=items)
    path = f"/api/v1/runs/{run_id}/log?search=needle"

    first = page.get(path).json
    rest = page.get(f"{path}&after={first['cursor']}").json
    one = page.get(f"{path}&limit=1").json

    assert ([found["seq"] for found in first["lines"]], first["cursor"], first["searched"]) == ([3, 4], "0.1.10", 10)
    assert (first["more"], first["final"]) == (True, False)
    assert ([found["seq"] for found in rest["lines"]], rest["more"], rest["final"]) == ([14], False, True)
    assert (one["cursor"], one["more"], one["searched"]) == ("0.1.3", True, 3)


def test_a_page_of_a_running_log_is_not_final_and_has_no_more(served: Harness, page: Client) -> None:
    run = running_run(served.store, "probe", 0, line(1, "one"), line(2, "two"))

    whole = page.get(f"/api/v1/runs/{run[0]}/log").json
    part = page.get(f"/api/v1/runs/{run[0]}/log?limit=1").json

    assert (whole["final"], whole["more"], whole["searched"]) == (False, False, None)
    assert (part["final"], part["more"], part["cursor"]) == (False, True, "0.1.1")


def test_a_log_is_downloaded_whole(served: Harness, page: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_module, "TEXT_LINES", 100)
    run = running_run(served.store, "probe", 0, line(1, "one"), line(2, "two ü", "stderr"))
    more = tuple(line(seq, f"line {seq}") for seq in range(3, 500))
    assert served.store.runs.apply(*run, 4, [AttemptReported(step=0, attempt=1, items=more)])

    answer = page.get(f"/api/v1/runs/{run[0]}/log.txt")

    lines = answer.text.splitlines()
    assert lines[:2] == ["2026-03-02T12:00:00Z vacuum log one", "2026-03-02T12:00:00Z vacuum stderr two ü"]
    assert lines[-1].endswith("line 499")
    assert len(lines) == 499
    assert answer.headers["content-disposition"] == f'attachment; filename="run-{run[0]}.log"'
    assert page.get("/api/v1/runs/4711/log.txt").status == 404
