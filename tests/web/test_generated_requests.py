"""Requests generated from the OpenAPI document, with a token of each role and without one."""

from __future__ import annotations

import socket
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from support.web_services import FULL, harness, run_with

from maintd.model.access import Right, Role
from maintd.operations.tokens import create_token
from maintd.web.access import RIGHTS
from maintd.web.app import openapi_schema
from maintd.web.server import web_server

EXAMPLES = 1
"""Generated requests of each operation, for each role: about 200 in all."""

CHECKED = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)


@pytest.fixture(scope="module")
def tokens(served_port: int) -> Iterator[dict[Role | None, str]]:
    """A served store with some history; a token of each role, and none."""
    with (
        tempfile.TemporaryDirectory(prefix="maintd-api-") as folder,
        harness(Path(folder), listen=f"127.0.0.1:{served_port}") as built,
    ):
        run_with(built.store, "probe", 0, items=FULL)
        made = {role: create_token(built.store, f"the-{role}", role, by="ada").token for role in Role}
        with web_server(built.service()):
            yield {None: "", **made}


@pytest.fixture(scope="module")
def served_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.mark.slow
@pytest.mark.parametrize("role", [None, *Role])
def test_generated_requests_find_no_violation_and_no_right_beyond_the_table(
    tokens: dict[Role | None, str], served_port: int, role: Role | None
) -> None:
    headers = {"Authorization": f"Bearer {tokens[role]}"} if role else {}
    answered: Counter[bool] = Counter()
    with requests.Session() as session:

        def check_case(case: Case) -> None:
            right = RIGHTS[case.method.upper(), case.operation.path]
            may = right is Right.PROBE or (role or Role.VIEWER).has(right)
            own = {key: value for key, value in (case.headers or {}).items() if key.lower() != "authorization"}
            case.headers = own
            response = case.call(
                base_url=f"http://127.0.0.1:{served_port}", session=session, headers=headers, timeout=30
            )
            case.validate_response(response, checks=list(CHECKED))
            code = response.json()["error"]["code"] if response.status_code in (401, 403) else ""
            refused = code in ("unauthorized", "forbidden")
            # What is no HTTP, no path of this API or too long is refused before the right is looked at.
            no_request = response.status_code in (400, 404, 405, 413, 414)
            assert refused is not may or (no_request and not refused), (role, case.method, case.path, response.text)
            answered[may] += 1

        for result in schemathesis.openapi.from_dict(openapi_schema()).get_all_operations():
            operation = result.ok()
            if not operation.path.endswith("/stream"):  # no JSON, and some have no end
                generated = given(case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE))(check_case)
                QUICK(generated)()
    assert answered[True] > 10
    assert (answered[False] > 0) == (role is not Role.ADMIN)


QUICK = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
