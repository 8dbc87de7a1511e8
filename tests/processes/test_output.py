"""What a child prints and reports is bounded, complete where it must be, and never trusted."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from support.nodes import Node, node, only

from maintd.model.run import RunState
from maintd.model.target import PostgresTarget, Targets


def test_a_flood_of_output_keeps_its_head_and_its_tail(here: Node) -> None:
    body = """
    block = b"".join(b"line %07d\\n" % n for n in range(100_000))
    os.write(1, b"the first line\\n")
    for _ in range(30):
        sys.stdout.buffer.write(block)
    sys.stdout.buffer.flush()
    os.write(1, b"the last line\\n")
    """
    run = here.make(body)

    attempt = only(run)
    lines = here.log(run.id)
    assert run.state is RunState.SUCCEEDED
    assert (lines[0], lines[-1]) == ("the first line", "the last line")
    assert attempt.log_lines + attempt.log_lines_left_out == 30 * 100_000 + 2
    assert attempt.log_lines == len(lines) < 2 * 200_000 / 100 + 2_000
    assert len(here.store.history.log(run.id, limit=1)) == 1


def test_one_endless_line_is_cut(here: Node) -> None:
    run = here.make(
        'block = b"x" * 10_000_000\nfor _ in range(30):\n    sys.stdout.buffer.write(block)\nprint("\\nend")'
    )

    first, last = here.log(run.id)
    assert (len(first), last) == (65_536 + len(" … and 299934464 bytes more"), "end")
    assert first.endswith(f"x … and {300_000_000 - 65_536} bytes more")


def test_the_streams_that_the_template_made_know_what_they_stand_on(here: Node) -> None:
    body = """
    print(sys.stdin.read() == "", sys.stdout.seekable(), sys.stderr.seekable(), sys.stdout.line_buffering)
    print("to the other one", file=sys.stderr)
    """
    run = here.make(body)

    assert run.state is RunState.SUCCEEDED
    assert sorted(here.log(run.id)) == ["True False False True", "to the other one"]


def test_a_slow_stream_is_seen_while_it_goes_on(here: Node, tmp_path: Path) -> None:
    go = tmp_path / "go"
    body = 'print("now")\nwhile not Path(params.into).exists():\n    time.sleep(0.01)'
    run_id = here.queue(here.step(here.job(body), {"into": str(go)}))

    from support.servers.base import wait_for

    wait_for(lambda: here.log(run_id) == ["now"], "the line is there")
    assert here.run(run_id).state is RunState.RUNNING
    go.touch()
    here.ended(run_id)


def test_secrets_are_replaced_wherever_the_job_reports_them(here: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    here.targets = Targets(postgres={"main": PostgresTarget(dsn="postgresql://db", password="target-password")})
    secret = here.folder / "secret"
    secret.write_text("file-secret-1\n", encoding="utf-8")
    body = """
    print(params.text)
    ctx.log("p=" + ctx.target("postgres").password.get_secret_value())
    ctx.check("told", params.text, equals="x", hint="not " + params.text)
    raise ValueError(params.text)
    """
    run = here.make(body, {"text": f"${{file:{secret}}}"})
    here.targets = Targets()

    shown = run.model_dump_json() + "\n".join(here.log(run.id))
    assert "file-secret-1" not in shown
    assert "target-password" not in shown
    assert "p=***" in here.log(run.id)
    assert "ValueError: ***" in run.reason


def test_secrets_of_the_environment_are_replaced_but_not_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER_PASSWORD", "from-the-environment")
    monkeypatch.setenv("PWD", "/srv/maintd")
    monkeypatch.setenv("OLDPWD", "/home/operator")

    with node(tmp_path) as here:
        run = here.make("ctx.log(f\"{os.environ['OTHER_PASSWORD']} {os.environ['PWD']} {os.environ['OLDPWD']}\")")

        assert here.log(run.id) == ["*** /srv/maintd /home/operator"]


def test_the_child_does_not_see_the_stores_credentials(here: Node) -> None:
    run = here.make('ctx.log(str(sorted(k for k in os.environ if k.startswith("MAINTD_STORE"))))')

    assert here.log(run.id) == ["[]"]


def test_an_artifact_is_kept_with_its_digest(here: Node) -> None:
    run = here.make('ctx.save("report.md", "# Report")')

    (artifact,) = only(run).artifacts
    file = here.settings.artifacts_dir / artifact.path
    assert artifact.path == f"{run.id}/{run.steps[0].name}/1/report.md"
    assert (file.read_bytes(), artifact.size_bytes) == (b"# Report", 8)
    assert artifact.sha256 == hashlib.sha256(b"# Report").hexdigest()


REPORT = "fd = 5 if False else ctx._send.__self__._report\n"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('os.write(fd, b"no json at all\\n")', "not a message"),
        ('os.write(fd, b\'{"type":"check"}\\n\')', "not a message"),
        ('os.set_blocking(fd, True)\nfor _ in range(40):\n    os.write(fd, b"x" * 60_000)', "more than 1048576 bytes"),
        ('os.write(fd, b\'{"type":"began","pid":1}\\n\')', "reported twice that it began"),
        ('os.write(fd, b\'{"type":"trim","first":1,"last":9,"size_bytes":1}\\n\')', "sent a trim of the log"),
        (
            'os.write(fd, b\'{"type":"artifact","name":"x","path":"/etc/passwd","size_bytes":1,"sha256":"0"}\\n\')',
            "is not a file in the folder of this attempt",
        ),
    ],
)
def test_a_child_that_breaks_the_protocol_fails_and_harms_nothing(here: Node, body: str, reason: str) -> None:
    run = here.make(REPORT + body)

    assert run.state is RunState.FAILED
    assert run.reason.startswith("its report cannot be relied on: ")
    assert reason in run.reason


def test_a_child_that_closes_its_report_is_evaluated_by_its_exit(here: Node) -> None:
    run = here.make(REPORT + 'os.write(fd, b\'{"type":"ph\')\nos.close(fd)\nos._exit(0)')

    assert run.state is RunState.FAILED
    assert "ended in the middle of a message" in run.reason


def test_what_comes_after_the_last_message_changes_nothing(here: Node) -> None:
    run = here.make(
        REPORT + 'os.write(fd, b\'{"type":"ended","ok":true}\\n\')\nctx.check("late", 0, equals=1)\nos._exit(0)'
    )

    assert (run.state, only(run).checks) == (RunState.SUCCEEDED, ())
    assert here.log(run.id) == ["ignored 1 message that arrived after the last one"]


def test_many_items_of_evidence_all_arrive(here: Node) -> None:
    run = here.make('for n in range(3000):\n    ctx.measure("n", n)\n    ctx.phase("x")\nctx.log("end")')

    assert [measure.value for measure in only(run).measures] == [float(n) for n in range(3000)]


def test_earlier_measures_are_handed_to_the_job(here: Node) -> None:
    body = 'ctx.log(str(ctx.last("size", default=-1)))\nctx.measure("size", 42)'
    name, entry = here.job(body), f"series-{here.folder.name}"
    first = here.ended(here.queue(here.step(name), entry=entry))

    second = here.ended(here.queue(here.step(name), entry=entry))

    assert (here.log(first.id), here.log(second.id)) == (["-1"], ["42.0"])


def test_a_dry_run_changes_nothing_and_records_what_it_would(here: Node, tmp_path: Path) -> None:
    body = 'with ctx.change("delete", params.into) as allowed:\n    if allowed:\n        Path(params.into).unlink()'
    file = tmp_path / "kept"
    file.touch()

    run = here.ended(here.queue(here.step(here.job(body), {"into": str(file)}), dry_run=True))

    assert file.exists()
    assert [(c.action, c.done) for c in only(run).changes] == [("delete", False)]
