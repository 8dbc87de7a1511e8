"""Requests generated from the OpenAPI document, with a token of each role and without one."""

from __future__ import annotations

import socket
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode, Response
from schemathesis.checks import CheckFunction, not_a_server_error
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

EXAMPLES = {GenerationMode.POSITIVE: 2, GenerationMode.NEGATIVE: 3}
"""Generated requests of each operation. Each is sent with every role and without a token: 1000 in all."""

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
@pytest.mark.parametrize("mode", GenerationMode)
def test_generated_requests_find_no_violation_and_no_right_beyond_the_table(
    tokens: dict[Role | None, str], served_port: int, mode: GenerationMode
) -> None:
    """Valid requests, and invalid ones: wrong types and formats, missing and unknown fields, values beyond limits."""
    sent: Counter[tuple[Role | None, bool]] = Counter()
    statuses: Counter[int] = Counter()
    tested: set[str] = set()
    operations = [result.ok() for result in schemathesis.openapi.from_dict(openapi_schema()).get_all_operations()]
    with requests.Session() as session:

        def check_case(case: Case) -> None:
            case.headers = {key: value for key, value in (case.headers or {}).items() if key.lower() != "authorization"}
            for role, token in tokens.items():
                right = RIGHTS[case.method.upper(), case.operation.path]
                may = right is Right.PROBE or (role or Role.VIEWER).has(right)
                response = answer(case, session, served_port, token)
                case.validate_response(response, checks=checks_of(case, response))
                require_refusal(case, response, role, may)
                sent[role, may] += 1
                statuses[response.status_code] += 1

        for operation in operations:
            if mode is GenerationMode.POSITIVE or has_input(operation.definition.raw):
                generated = given(case=operation.as_strategy(generation_mode=mode))(check_case)
                with suppress(Unsatisfiable):  # every text is valid, for example
                    settings(QUICK, max_examples=EXAMPLES[mode])(generated)()
                    tested.add(operation.label)

    assert all(sent[role, True] > 10 for role in tokens)
    assert all((sent[role, False] > 0) == (role is not Role.ADMIN) for role in tokens)
    if mode is GenerationMode.POSITIVE:
        assert tested == {operation.label for operation in operations}
        assert statuses[200] > 20
    else:
        assert len(tested) > 20
        assert statuses[400] > 50


def checks_of(case: Case, response: Response) -> list[CheckFunction]:
    """All checks; for a stream without that of the schema, which is of the text, not of each event."""
    stream = case.operation.path.endswith("/stream") and response.status_code == 200
    return [check for check in CHECKED if not (stream and check is response_schema_conformance)]


def has_input(operation: dict[str, Any]) -> bool:
    """Whether a request of it can be invalid."""
    return bool(operation.get("parameters") or operation.get("requestBody"))


def answer(case: Case, session: requests.Session, port: int, token: str) -> Response:
    """The answer to a request; of a stream that is followed, the first event or comment."""
    sent = case.as_transport_kwargs(base_url=f"http://127.0.0.1:{port}")
    headers = {**(sent.pop("headers", None) or {}), **({"Authorization": f"Bearer {token}"} if token else {})}
    if not case.operation.path.endswith("/stream"):
        return Response.from_requests(session.request(**sent, headers=headers, timeout=60), verify=False)
    with requests.request(**sent, headers=headers, timeout=60, stream=True) as found:
        if found.status_code == 200:
            body = b""
            while not body.endswith(b"\n\n"):
                body += found.raw.read1(65_536)
            assert body.startswith((b": ", b"event: ")), body
            found._content = body
        return Response.from_requests(found, verify=False)


def require_refusal(case: Case, response: Response, role: Role | None, may: bool) -> None:
    """Fail unless a role that may not send a request is refused, and one that may is not."""
    code = response.json()["error"]["code"] if response.status_code in (401, 403) else ""
    refused = code in ("unauthorized", "forbidden")
    # What is no HTTP, no path of this API or too long is refused before the right is looked at.
    no_request = response.status_code in (400, 404, 405, 413, 414)
    assert refused is not may or (no_request and not refused), (role, case.method, case.path, response.text)


QUICK = settings(
    deadline=None,
    database=None,
    derandomize=True,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
