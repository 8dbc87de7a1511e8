"""Hostile input: no request causes a 5xx response, and every text is escaped."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.servers.postgres import PostgresServer
from support.web_services import (
    HOSTILE,
    JOBS,
    Client,
    Harness,
    artifact,
    check,
    entry,
    harness,
    job,
    line,
    on_socket,
    run_with,
    running_run,
)

from maintd.model.evidence import Change, CheckStatus, Measure, Phase
from maintd.model.run import RunState
from maintd.operations import Health
from maintd.web.server import web_server

QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("name", "params", "at", "why", "by", "dry_run", "idempotency_key", "until")
BODIES = VALUES | st.dictionaries(st.sampled_from(FIELDS), VALUES | st.just("vacuum"), max_size=6)


def assert_no_server_error(status: int) -> None:
    assert status < 500, status


@QUICK
@given(body=BODIES, path=st.sampled_from(["/api/v1/runs", "/api/v1/runs/1/cancel", "/api/v1/entries/probe/pause"]))
def test_no_json_body_causes_a_server_error(control: Client, body: object, path: str) -> None:
    assert_no_server_error(control.ask("POST", path, json.dumps(body).encode()).status)


@QUICK
@given(params=st.dictionaries(st.sampled_from(["keep", "tables", "vacuum.keep", "x"]), VALUES, max_size=3))
def test_no_params_cause_a_server_error(control: Client, params: dict[str, object]) -> None:
    answer = control.post("/api/v1/runs", {"name": "vacuum", "params": params})

    assert_no_server_error(answer.status)
    if answer.status == 201:
        assert control.get(f"/api/v1/runs/{answer.json['id']}").status == 200
        assert control.get(f"/runs/{answer.json['id']}").status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"name": "vacuum", "params": {"tables": ' + b"[" * 900 + b"]" * 900 + b"}}",
        b'{"name": "vacuum", "params": {"keep": "\\ud800"}}',
        b'{"name": "\\ud800"}',
        b'{"name": "vacuum", "why": "\\u0000"}',
        b'{"name": "vacuum", "params": {"keep": NaN}}',
        b'{"name": "vacuum", "params": {"keep": ' + b"9" * 5000 + b"}}",
        b'{"name": "vacuum", "params": {"keep": ' + b"9" * 4000 + b"}}",
        b'{"name": "vacuum", "at": 1e400}',
        b'{"name": "vacuum", "at": 99999999999999999999}',
        b'{"name": "vacuum", "idempotency_key": "' + b"k" * 300 + b'"}',
    ],
)
def test_no_raw_body_causes_a_server_error(control: Client, body: bytes) -> None:
    answer = control.ask("POST", "/api/v1/runs", body)

    assert_no_server_error(answer.status)
    assert control.get("/api/v1/runs").status == 200


NUMBERS = st.sampled_from(["0", "-1", "x", "1.5", "9" * 18, "9" * 19, "9" * 40, "%00", "", "1e3", "０", "../1"])


@QUICK
@given(run=NUMBERS, other=NUMBERS, text=st.text(max_size=12))
def test_no_url_causes_a_server_error(page: Client, run: str, other: str, text: str) -> None:
    some, number, more = quote(text, safe=""), quote(run, safe="%"), quote(other, safe="%")
    for path in (
        f"/api/v1/runs/{number}",
        f"/api/v1/runs/{number}/log?after={more}.{number}.{more}&step={some}&attempt={more}&limit={number}",
        f"/api/v1/runs/{number}/artifacts/{some}/{more}/{some}",
        f"/api/v1/runs?before={number}&limit={more}&entry={some}&job={some}&state={some}&since={some}",
        f"/api/v1/entries/{some}",
        f"/api/v1/due?days={number}",
        f"/text/status?width={number}&colour={some}",
        f"/runs?before={number}&entry={some}&since={more}",
        f"/runs/{number}?after={some}&tail={more}",
        f"/entries/{some}",
        f"/jobs/{some}",
        f"/static/{some}",
    ):
        assert_no_server_error(page.get(path).status)


@pytest.mark.server
def test_postgres_accepts_the_same_hostile_input_as_sqlite(state_dir: Path, postgres_server: PostgresServer) -> None:
    url = postgres_server.create(f"web{os.urandom(6).hex()}")
    nul, lone, huge = "%00", "%ED%A0%80", "9" * 18
    with harness(state_dir, store_url=url) as served, web_server(served.service()):
        client = on_socket(served.settings.socket_path)
        served.use(*served.calendar.entries)
        asked = client.post("/api/v1/runs", {"name": "vacuum", "why": "a\0b", "params": {"tables": ["\0"]}})
        run = asked.json["id"]

        for text in (nul, lone, huge, "x" * 5000, quote(HOSTILE)):
            for path in (
                f"/api/v1/runs?entry={text}&job={text}",
                f"/api/v1/runs?before={huge}&limit=1000",
                f"/api/v1/runs/{huge}",
                f"/api/v1/runs/{run}/log?after=999999.999999.{huge}&attempt=1000000",
                f"/api/v1/runs/{run}/log?step={text}",
                f"/api/v1/entries/{text}",
                f"/entries/{text}",
                f"/runs/{run}",
            ):
                assert_no_server_error(client.get(path).status)

        assert asked.status == 201
        assert client.get("/api/v1/status").status == 200
        assert "maintd_store_up 1.0" in client.get("/metrics").text


@pytest.fixture
def hostile(served: Harness) -> Iterator[tuple[Harness, int, int]]:
    """An operator service in which every free text is hostile, with an ended and a running run."""
    # Names are limited by the calendar; every other text is free.
    served.use(
        entry("probe", "vacuum", title=HOSTILE, runbook=HOSTILE),
        broken={"probe-2": HOSTILE},
        warnings=(HOSTILE,),
    )
    served.jobs = {**JOBS, "vacuum": job("vacuum", summary=HOSTILE, doc=HOSTILE, runbook=HOSTILE, needs=(HOSTILE,))}
    served.health = Health(alive=True, ready=True, problems=(HOSTILE,))
    items = (
        Phase(name=HOSTILE),
        check(HOSTILE, CheckStatus.FAIL, HOSTILE, hint=HOSTILE, unit=HOSTILE, expected=HOSTILE),
        *(Measure(name=HOSTILE, value=1.5, unit=HOSTILE, labels={HOSTILE: HOSTILE}) for _ in range(2)),
        Change(action=HOSTILE, target=HOSTILE, details={HOSTILE: HOSTILE}),
        line(1, HOSTILE, "stderr"),
        artifact(served.folder, "a b.txt", b"x", HOSTILE, path="x").model_copy(update={"name": HOSTILE}),
    )
    ended = run_with(
        served.store,
        "probe",
        0,
        RunState.FAILED,
        items=items,
        reason=HOSTILE,
        requested_by=HOSTILE,
        why=HOSTILE,
        params={HOSTILE: HOSTILE},
    )
    run_with(served.store, "probe", 5, RunState.FAILED, items=items, reason=HOSTILE)
    served.store.entries.pause("probe", why=HOSTILE, by=HOSTILE, until=None, now=served.clock.now())
    live, _ = running_run(served.store, "probe", 10, *items)
    yield served, ended, live


def test_hostile_text_is_escaped_on_every_page(hostile: tuple[Harness, int, int], page: Client) -> None:
    _, ended, live = hostile
    paths = ["/", "/runs", f"/runs/{ended}", f"/runs/{live}", "/entries/probe", "/jobs", "/jobs/vacuum", "/due"]
    paths += [f"/entries/{quote(HOSTILE, safe='')}", f"/runs?entry={quote(HOSTILE)}&state={quote(HOSTILE)}"]

    for path in paths:
        text = page.get(path).text
        assert "alert(" in text, f"{path} does not show the text"
        assert "<img" not in text, path
        assert "<script>" not in text, path
        assert "alert('x')" not in text, path  # quotes are escaped too, or the text could end an attribute


def test_pages_have_no_inline_script_or_style(hostile: tuple[Harness, int, int], page: Client) -> None:
    _, ended, live = hostile

    for path in ("/", "/runs", f"/runs/{ended}", f"/runs/{live}", "/entries/probe", "/jobs", "/jobs/vacuum", "/due"):
        text = page.get(path).text
        assert " style=" not in text, path
        assert "<style" not in text, path
        assert "javascript:" not in text, path
        assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", text)), path


def test_hostile_text_stays_one_sample_in_the_metrics(hostile: tuple[Harness, int, int], page: Client) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    text = page.get("/metrics").text

    measures = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert [sample.labels["name"] for sample in measures if sample.name == "maintd_measure"] == [HOSTILE]
