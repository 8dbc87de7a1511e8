"""Real children that write the corpus of the pipe, and worse: the supervisor survives, and the run ends."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.nodes import Node, node

from fuzz.targets import kept
from maintd.executor.message_reader import MessageReader, redacted
from maintd.model.evidence import Check, CheckStatus
from maintd.model.run import RunState

WRITE = """
fd = ctx._send.__self__._report
os.set_blocking(fd, True)
data = Path(params.into).read_bytes()
size = 1 + (data[0] if data else 0) ** 2
for start in range(1, len(data), size):
    os.write(fd, data[start : start + size])
os._exit(0)
"""

ENDLESS = """
fd = ctx._send.__self__._report
os.set_blocking(fd, True)
block = b"x" * 1_000_000
for _ in range(256):
    os.write(fd, block)
os.write(fd, b"\\n")
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("node")) as running:
        yield running


def test_every_kept_report_of_a_real_child_ends_its_run_with_a_reason(made: Node) -> None:
    job = made.job(WRITE)
    runs = {path.name: made.queue(made.step(job, {"into": str(path)})) for path in kept("pipe")}

    for name, run_id in runs.items():
        run = made.ended(run_id)
        assert run.state.final, name
        assert (run.state is RunState.SUCCEEDED) != bool(run.reason), name
    assert made.make("pass").state is RunState.SUCCEEDED


def test_a_line_of_256_megabytes_costs_no_memory(made: Node) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    run = made.make(ENDLESS)

    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert run.state is RunState.FAILED
    assert "a message of more than 1048576 bytes" in run.reason
    assert grown_kib < 64 * 1024


def test_messages_after_the_end_of_a_long_line_are_read_again(tmp_path: Path) -> None:
    seen = MessageReader(tmp_path, tmp_path)
    message = b'{"type":"phase","name":"look"}\n'

    items = [item for _ in range(20) for item in seen.feed(b"x" * 100_000)]
    items += seen.feed(b"\n" + message)

    assert [item.type for item in items] == ["phase"]
    assert seen.protocol_error


def test_a_secret_that_is_a_word_of_the_protocol_changes_no_state() -> None:
    check = Check(name="free", observed=1, expected="2", status=CheckStatus.FAIL)

    assert redacted(check, ("fail",)).status is CheckStatus.FAIL
