"""The proven time of a rollback: kept by a rehearsal, shown by the status, and compared when a gate is approved."""

from __future__ import annotations

from pathlib import Path

from support.servers.base import wait_for
from support.servers.maintd import maintd_daemon

JOB = '''"""Take as long as its params request."""

from maintd.job import Context, JobParams, job


class Params(JobParams):
    seconds: float = 0


@job()
def run(ctx: Context, params: Params) -> None:
    """Measure it."""
    ctx.check("rehearsed", 1, equals=1)
    ctx.measure("rehearsal_rto_seconds", params.seconds, "s")
'''

CALENDAR = """
timezone: UTC
entries:
  upgrade:
    window: {{lasts: 2h, rollback_by: 20m, rehearsal: rollback-rehearsal}}
    steps: [{{gate: {{ask: Start?}}}}, {{fit: {{seconds: 1}}}}]
  rollback-rehearsal:
    steps: [{{fit: {{seconds: {seconds}}}}}]
"""


def test_a_rehearsal_proves_a_time_and_a_gate_is_not_passed_when_the_rollback_would_not_fit(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    (jobs / "fit.py").write_text(JOB)
    with maintd_daemon(tmp_path, CALENDAR.format(seconds=1200), jobs) as daemon:
        before = " ".join(daemon.maintd("status").out.split())
        triggered = daemon.maintd("trigger", "upgrade", "--json")
        assert triggered.code == 0, triggered.out + triggered.err
        number = str(triggered.json["id"])
        wait_for(lambda: daemon.maintd("show", number, "--json").json["state"] == "waiting", "it waits", every=0.3)

        rehearsed = daemon.maintd("rehearse", "rollback", "--why", "the monthly proof", "--json")

        refused = daemon.maintd("approve", number)
        after = " ".join(daemon.maintd("status").out.split())
        unknown = daemon.maintd("rehearse", "rolback")
        daemon.calendar.write_text(CALENDAR.format(seconds=600))
        assert daemon.maintd("reload").code == 0
        assert daemon.maintd("rehearse", "rollback").code == 0
        passed = daemon.maintd("approve", number)

    assert 'entry "upgrade": it is not proven how long its rollback takes; run: maintd rehearse rollback' in before
    assert (rehearsed.code, rehearsed.json["entry"], rehearsed.json["why"]) == (
        0,
        "rollback-rehearsal",
        "the monthly proof",
    ), rehearsed.err
    assert refused.code == 4
    assert "rollback_by 20m is shorter than 30m, 1.5 times the time of the rehearsal rollback-rehearsal" in refused.err
    assert "rollback_by 20m is shorter than 30m" in after
    assert unknown.code == 3
    assert passed.code == 0, passed.err
