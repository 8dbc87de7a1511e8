"""What a job may leave behind: evidence is bounded, and artifacts are plain files of the attempt's own folder."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.nodes import Node, node, only

from maintd.config.artifact_files import open_artifact
from maintd.model.run import RunState


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("node")) as running:
        yield running


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('for n in range(6000): ctx.check(f"c{n}", n, at_least=0)', "1,000 checks"),
        ('for n in range(5000): ctx.measure(f"m{n}", n)', "4,800 measures"),
        ('for n in range(10_200): ctx.measure("m", n, "", table=str(n))', "200 measures"),
        ('for n in range(99): ctx.check("c", "x" * 800_000, equals="y", severity=CheckStatus.WARN)', "parts of checks"),
        ('for n in range(250): ctx.save(f"f{n}.txt", "x")', "50 artifacts"),
        ('ctx.measure("m", 1, "", label="x" * 100_000)', "1 measures"),
        ('for n in range(1000): ctx.measure("m", n, "", label=f"{n}" + "x" * 60_000)', "measures"),
    ],
)
def test_evidence_over_a_limit_is_left_out_and_makes_the_attempt_unknown(made: Node, body: str, text: str) -> None:
    run = made.make(body)

    attempt = only(run)
    assert run.state is RunState.UNKNOWN
    assert "evidence over the limits of an attempt was left out" in run.reason
    assert text in run.reason
    assert len(run.reason) < 2000
    assert len(run.model_dump_json()) < 25_000_000
    assert len(attempt.checks) <= 5000
    assert not attempt.complete
    assert len({measure.name for measure in attempt.measures}) <= 200


def test_a_failed_check_over_the_limit_still_fails_the_run(made: Node) -> None:
    run = made.make(
        """
        for n in range(5000):
            ctx.check(f"c{n}", n, at_least=0)
        ctx.check("the last", 1, at_most=0, hint="x" * 900_000)
        """
    )

    assert run.state is RunState.FAILED
    assert 'check "the last": observed 1' in run.reason
    assert len(run.reason) < 2000


def test_changes_over_the_limit_are_left_out(made: Node) -> None:
    body = """
    for n in range(50_010):
        with ctx.change("touch", f"t{n}"):
            pass
    """
    job = made.job(body, 'timeout="10m", mutates=True')

    run = made.ended(made.queue(made.step(job)), seconds=280)

    assert run.state is RunState.UNKNOWN
    assert "10 changes" in run.reason
    changes = only(run).changes
    assert len(changes) == 50_000
    assert {change.state.value for change in changes} == {"done"}


REPLACED = [
    "folder.rename(folder.with_name('moved')); folder.symlink_to(folder.with_name('moved'))",
    "step = folder.parent; step.rename(step.with_name('moved')); step.symlink_to(step.with_name('moved'))",
    "path.unlink(); path.symlink_to('/etc/passwd')",
    "path.unlink(); path.mkdir()",
    "path.unlink(); os.mkfifo(path)",
    "os.link(path, path.with_name('second'))",
    "path.unlink()",
]


@pytest.mark.parametrize("act", REPLACED)
def test_an_artifact_that_is_no_plain_file_of_the_attempt_fails_it_with_the_reason(made: Node, act: str) -> None:
    run = made.make(
        f"""
        send, reports = ctx._send, []
        ctx._send = reports.append
        ctx.save("report.txt", "the truth")
        path = Path(reports[0].path)
        folder = path.parent
        {act}
        send(reports[0])
        """
    )

    assert run.state is RunState.FAILED
    assert 'the artifact "report.txt" is not a file in the folder of this attempt' in run.reason
    assert only(run).artifacts == ()


@pytest.mark.parametrize(
    "path", ["'/' * 200_000 + 'x'", "'/a' * 100_000", "str(folder) + '/../' * 50_000 + 'x'", "'x\\0y'", "''", "'..'"]
)
def test_an_absurd_artifact_path_is_refused_at_once(made: Node, path: str) -> None:
    run = made.make(
        f"""
        send, reports = ctx._send, []
        ctx._send = reports.append
        ctx.save("report.txt", "the truth")
        folder = Path(reports[0].path).parent
        send(reports[0].model_copy(update={{"path": {path}}}))
        """
    )

    assert run.state is RunState.FAILED
    assert run.duration is not None
    assert run.duration.total_seconds() < 60  # hours, if each of its parts were looked at


def test_a_file_that_appears_and_vanishes_does_not_fail_the_supervisor(made: Node) -> None:
    run = made.make(
        """
        send, reports = ctx._send, []
        ctx._send = reports.append
        ctx.save("report.txt", "the truth")
        path, done = Path(reports[0].path), threading.Event()

        def blink():
            while not done.is_set():
                path.unlink(missing_ok=True)
                path.touch()

        thread = threading.Thread(target=blink)
        thread.start()
        for n in range(150):
            send(reports[0])
        time.sleep(0.5)
        done.set()
        thread.join()
        """
    )

    assert run.state in (RunState.SUCCEEDED, RunState.FAILED)
    assert "maintd itself failed" not in run.reason


def test_only_a_plain_file_below_the_folder_is_opened(tmp_path: Path) -> None:
    root = tmp_path / "artifacts"
    (root / "1/step").mkdir(parents=True)
    (root / "1/step/good.txt").write_text("good")
    (root / "1/step/link").symlink_to("/etc/passwd")
    (root / "linked").symlink_to(root / "1")
    (root / "1/step/hard.txt").write_text("x")
    os.link(root / "1/step/hard.txt", root / "1/step/again.txt")
    os.mkfifo(root / "1/step/fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(root / "1/s"))
        os.close(open_artifact(root, "1/step/good.txt"))
        for bad in (
            *("1/step/link", "linked/step/good.txt", "1/step/hard.txt", "1/step/fifo", "1/step", "1/s", "", "."),
            *("..", "../artifacts/1/step/good.txt", str(root / "1/step/good.txt"), "x\0y", "a/" * 100_000),
        ):
            with pytest.raises(OSError):
                os.close(open_artifact(root, bad))
