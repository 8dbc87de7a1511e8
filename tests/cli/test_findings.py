"""Findings and acknowledgements at the command line, with a real daemon."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.servers.base import wait_for
from support.servers.maintd import JOBS, CommandResult, RunningDaemon, maintd_daemon

CALENDAR = """
timezone: UTC
entries:
  disks:
    title: Disks
    steps: [measured]
  calm:
    title: Calm
    steps: [greet]
"""

JOB = '''"""Check what a file says."""

from __future__ import annotations

from pathlib import Path

from maintd.job import Context, JobParams, job


class Params(JobParams):
    file: Path


@job(timeout="20s", reads_findings=True)
def run(ctx: Context, params: Params) -> None:
    """Check each line: name, value and limits."""
    for name, known in ctx.findings.items():
        ctx.log(f"known: {name} by {known.by}: {known.why}")
    for line in params.file.read_text().splitlines():
        name, value = line.split(":")
        ctx.check(name, int(value), at_most=90, warn_above=80, unit="%", hint="free some space")
'''


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    (jobs / "measured.py").write_text(JOB)
    (jobs / "greet.py").write_text((JOBS / "greet.py").read_text())
    values = tmp_path / "values"
    values.write_text("disk /: 95\n")
    calendar = CALENDAR.replace("[measured]", f"[measured: {{file: {values}}}]")
    with maintd_daemon(tmp_path, calendar, jobs) as running:
        yield running


def measure(daemon: RunningDaemon, *lines: str) -> CommandResult:
    (daemon.cwd / "values").write_text("".join(f"{line}\n" for line in lines))
    return daemon.maintd("trigger", "disks", "--wait")


def findings(daemon: RunningDaemon, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = daemon.maintd("findings", *words, "--json").json["findings"]
    return found


def wait_for_findings(daemon: RunningDaemon, count: int, *words: str) -> list[dict[str, Any]]:
    wait_for(lambda: len(findings(daemon, *words)) == count, f"{count} findings")
    return findings(daemon, *words)


def test_a_finding_is_listed_acknowledged_and_comes_back_when_it_gets_worse(daemon: RunningDaemon) -> None:
    measure(daemon, "disk /: 85")
    (found,) = wait_for_findings(daemon, 1)
    text = daemon.maintd("findings").out
    assert found["key"] in text
    assert "disks, measured: disk /: 85 %, fails above 90 %, warns above 80 %" in " ".join(text.split())
    assert "free some space" in text

    done = daemon.maintd("ack", "last/disk /", "--why", "a disk is ordered", "--until", "7d", "--by", "ada")
    assert (done.code, done.err) == (0, f"withdraw it with: maintd unack {found['key']}\n")
    assert done.out.startswith(f"{found['key']} (disks: disk /) is acknowledged until ")
    listed = daemon.maintd("ack", "--list")
    assert "acknowledged by ada" in " ".join(listed.out.split())

    measure(daemon, "disk /: 95")
    wait_for(lambda: findings(daemon)[0]["status"] == "fail", "the review of the run")
    assert findings(daemon)[0]["state"] == "open"
    assert daemon.maintd("status").code == 1
    shown = daemon.maintd("findings", "show", found["key"][:6])
    assert "worse: fail, acknowledged as warn" in " ".join(shown.out.split())


def test_an_acknowledged_failure_comes_back_when_its_value_moves_away_from_the_limit(daemon: RunningDaemon) -> None:
    measure(daemon, "disk /: 95")
    (found,) = wait_for_findings(daemon, 1)
    daemon.maintd("ack", found["key"], "--why", "a disk is ordered", "--for", "7d", "--by", "ada")

    # Of a limit of 90 %: a quarter of the distance is 1.25, 5 % of the limit 4.5, half of the room until 100 2.5.
    measure(daemon, "disk /: 97")
    wait_for(lambda: findings(daemon)[0]["observed"] == 97, "the review of the run")
    assert findings(daemon)[0]["state"] == "acknowledged"
    measure(daemon, "disk /: 98")
    wait_for(lambda: findings(daemon)[0]["observed"] == 98, "the review of the run")

    assert findings(daemon)[0]["state"] == "open"
    assert daemon.maintd("status").code == 1
    shown = daemon.maintd("findings", "show", found["key"])
    assert "worse: 98 %, acknowledged at 95 %" in " ".join(shown.out.split())


def test_an_acknowledged_failure_does_not_make_the_status_red(daemon: RunningDaemon) -> None:
    measure(daemon, "disk /: 95")
    assert daemon.maintd("status").code == 1
    (found,) = wait_for_findings(daemon, 1)

    daemon.maintd("ack", found["key"], "--why", "a disk is ordered", "--for", "7d", "--by", "ada")
    after = daemon.maintd("status")
    assert after.code == 0
    assert "acknowledged by ada" in " ".join(after.out.split())

    shown = " ".join(daemon.maintd("show", "last").out.split())
    assert f"{found['key']} disk /, acknowledged by ada" in shown

    measure(daemon, "disk /: 96")
    assert ": a disk is ordered" in daemon.maintd("logs", "last").out  # the job is told
    assert daemon.maintd("status").code == 0

    withdrawn = daemon.maintd("unack", found["key"])
    assert withdrawn.out == f"{found['key']} (disks: disk /) is no longer acknowledged\n"
    assert daemon.maintd("status").code == 1
    again = daemon.maintd("unack", found["key"])
    assert (again.code, again.err) == (
        4,
        f"finding {found['key']} is not acknowledged; see: maintd ack --list\n",
    )


def test_a_finding_is_gone_when_its_check_is_ok(daemon: RunningDaemon) -> None:
    measure(daemon, "disk /: 95", "disk /var: 99")
    wait_for_findings(daemon, 2)
    measure(daemon, "disk /: 10", "disk /var: 99")

    (left,) = wait_for_findings(daemon, 1)
    gone = [one for one in findings(daemon, "--all") if one["state"] == "gone"]
    assert left["check"] == "disk /var"
    assert [one["check"] for one in gone] == ["disk /"]
    refused = daemon.maintd("ack", gone[0]["key"], "--why", "x", "--until", "7d", "--by", "ada")
    assert (refused.code, refused.err) == (
        4,
        f"finding {gone[0]['key']} is gone; see: maintd findings show {gone[0]['key']}\n",
    )


def test_ack_refuses_what_would_be_forgotten(daemon: RunningDaemon) -> None:
    measure(daemon, "disk /: 95")
    (found,) = wait_for_findings(daemon, 1)
    key = found["key"]

    def ack(*words: str, finding: str = key, why: str = "a disk", until: str = "7d", by: str = "ada") -> CommandResult:
        return daemon.maintd("ack", finding, "--why", why, "--until", until, "--by", by, *words)

    long, past, empty = ack(until="91d"), ack(until="2020-01-01T00:00Z"), ack(why=" ")
    assert (long.code, past.code, empty.code) == (2, 2, 2)
    assert "is more than 90 days ahead" in long.err
    assert "is in the past" in past.err
    assert 'add for example --why "disk is ordered"' in empty.err
    if os.geteuid() == 0:  # for another user, "root" is what they call themselves: their own name is beside it
        nameless = ack(by="root")
        assert (nameless.code, nameless.err) == (
            2,
            'an acknowledgement needs a person\'s name, not "root"; add for example --by ada\n',
        )
    wrong = ack(finding="last/disk /vr")
    assert (wrong.code, wrong.err) == (3, "run 1 has no finding \"disk /vr\"; did you mean '1/disk /'?\n")
    assert ack(finding="ffffffffffff").code == 3
    assert ack(finding="zz").code == 2
    assert daemon.maintd("ack", key, "--until", "7d").code == 2
    both = daemon.maintd("ack", key, "--why", "x", "--until", "7d", "--for", "7d")
    assert (both.code, both.err) == (2, "--until and --for exclude each other; give one of them\n")
    assert daemon.maintd("ack", "--list", "--for", "7d").code == 2
    assert "missing --until or --for" in daemon.maintd("ack", key, "--why", "x").err
    assert daemon.maintd("ack").code == 2
    assert daemon.maintd("ack", "--list", "--why", "x").code == 2
    assert daemon.maintd("findings", "--open", "--all").code == 2
    assert findings(daemon)[0]["state"] == "open"


def test_findings_are_narrowed_by_area_and_time(daemon: RunningDaemon) -> None:
    measure(daemon, "disk /: 95")
    wait_for_findings(daemon, 1)

    assert len(findings(daemon, "--area", "measured")) == 1
    assert findings(daemon, "--area", "calm") == []
    assert len(findings(daemon, "--since", "1h")) == 1
    time.sleep(1.1)
    assert findings(daemon, "--since", "1s") == []
    unknown = daemon.maintd("findings", "--area", "disk")
    assert (unknown.code, unknown.err) == (3, 'no entry or job named "disk"; did you mean "disks"?\n')
    assert daemon.maintd("findings", "--area", "calm").out == "no findings\n"


def test_findings_are_read_from_the_store_without_a_daemon(daemon: RunningDaemon) -> None:
    measure(daemon, "disk /: 95")
    (found,) = wait_for_findings(daemon, 1)
    daemon.process.terminate()
    daemon.process.wait(60)

    assert [one["key"] for one in findings(daemon)] == [found["key"]]
    assert daemon.maintd("ack", found["key"], "--why", "x", "--until", "7d", "--by", "ada").code == 6


def test_keys_are_completed(daemon: RunningDaemon) -> None:
    measure(daemon, "disk /: 95")
    (found,) = wait_for_findings(daemon, 1)

    typed = daemon.maintd(_MAINTD_COMPLETE="bash_complete", COMP_WORDS=f"maintd ack {found['key'][:3]}", COMP_CWORD="2")

    assert found["key"] in typed.out
