"""`doctor` examines channels and monitors without sending: what could not be delivered is known before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from support.job_runs import JobResult, run_job
from support.receivers import smtp_server, webhook

from maintd.model.evidence import CheckStatus
from maintd.operations.examination import ESCAPED

OK, FAIL, UNKNOWN = CheckStatus.OK, CheckStatus.FAIL, CheckStatus.UNKNOWN


def examine(*channels: Mapping[str, Any]) -> JobResult:
    return run_job("doctor", {"calendar": {"steps": [], "store": None, "channels": list(channels)}}, {})


def outcome(result: JobResult, name: str = "mail") -> tuple[CheckStatus, str]:
    check = next(check for check in result.checks if check.name == f"channel {name}: deliverable")
    return check.status, str(check.observed)


def test_addresses_that_accept_connections_are_ok_and_get_nothing() -> None:
    with webhook() as hook, smtp_server() as mailbox:
        result = examine(
            {"name": "pager", "address": hook.url, "secret": "x" * 16},
            {"name": "mail", "address": mailbox.url, "apprise": True},
            {"name": "json", "address": hook.url.replace("http://", "json://"), "apprise": True},
        )

        assert [outcome(result, name)[0] for name in ("pager", "mail", "json")] == [OK, OK, OK]
        assert f"127.0.0.1:{mailbox.port}: connected after" in outcome(result)[1]
        assert (hook.posts, mailbox.mails) == ([], [])


@pytest.mark.parametrize(
    ("channel", "status", "text"),
    [
        ({"address": "https://maintd.invalid/x"}, FAIL, "unreachable: maintd.invalid:443: "),
        ({"address": "http://127.0.0.1:1/x"}, FAIL, "refused: 127.0.0.1:1: connection refused"),
        ({"address": "mailtos://x", "apprise": True}, UNKNOWN, "unknown: not_configured: apprise cannot parse the URL"),
        (
            {"address": "https://${NO_SUCH_NAME}/x"},
            UNKNOWN,
            "unknown: not_configured: ${NO_SUCH_NAME}: the environment",
        ),
        (
            {"address": "http://h/x", "secret": "${file:/no/such/file}"},
            UNKNOWN,
            "unknown: not_configured: ${file:/no/such",
        ),
    ],
)
def test_what_could_not_be_delivered_is_named(channel: Mapping[str, Any], status: CheckStatus, text: str) -> None:
    given = {name: value.replace("${", ESCAPED) if isinstance(value, str) else value for name, value in channel.items()}

    found = outcome(examine({"name": "mail", **given}))

    assert found[0] is status
    assert found[1].startswith(text)


def test_a_service_with_an_address_of_its_own_is_only_parsed() -> None:
    address = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"

    status, text = outcome(examine({"name": "mail", "address": address, "apprise": True}))

    assert status is OK
    assert text.startswith("the URL can be parsed")


def test_a_server_that_does_not_speak_tls_fails() -> None:
    with webhook() as hook:
        status, text = outcome(examine({"name": "mail", "address": hook.url.replace("http://", "https://")}))

    assert status is FAIL
    assert text.startswith(f"tls: 127.0.0.1:{hook.port}: ")
