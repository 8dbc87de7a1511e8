"""Runs that are planned for a window, with a real daemon: start time, list, announcements, cancel."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.receivers import Answer, Hook, webhook
from support.servers.base import wait_for
from support.servers.maintd import JOBS, RunningDaemon, maintd_daemon

from maintd.client import Client
from maintd.model.notice import NoticeKind, NoticeState
from maintd.model.run import RunState, SkipReason

CALENDAR = """
timezone: Europe/Berlin
notify:
  channels:
    pager: {{webhook: "{url}", secret: "${{HOOK_SECRET}}"}}
  to: pager
entries:
  planned:
    title: Planned work
    timezone: America/New_York
    window: {{lasts: 2h, rollback_by: 30m, announce: [24h, 1h], not_across: "12:00 UTC"}}
    steps: [greet, destroy]
  other: {{title: Greet on request, window: {{lasts: 1h}}, steps: [greet]}}
"""

DESTROY = '''"""Change what must only be changed in a window."""

from maintd.job import Context, JobParams, job


@job(mutates=True, only_in_window=True)
def run(ctx: Context, params: JobParams) -> None:
    ctx.check("done", 1, at_least=1)
'''


@pytest.fixture(scope="module")
def hook() -> Iterator[Hook]:
    with webhook() as found:
        yield found


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, hook: Hook) -> Iterator[RunningDaemon]:
    folder = tmp_path_factory.mktemp("planned")
    (folder / "jobs").mkdir()
    (folder / "jobs" / "destroy.py").write_text(DESTROY)
    settings = {
        "MAINTD_HEARTBEAT": "500ms",
        "HOOK_SECRET": "canary-0815",
        "MAINTD_JOBS_PATH": f"{JOBS}:{folder / 'jobs'}",
    }
    with maintd_daemon(folder, CALENDAR.format(url=hook.url), **settings) as found:
        yield found


@pytest.fixture
def client(daemon: RunningDaemon) -> Client:
    return Client(daemon.socket)


def announcements(client: Client, run_id: int) -> dict[str, NoticeState]:
    """The announcements of a run by offset."""
    found = [each for each in client.notices(limit=500).notices if each.kind is NoticeKind.ANNOUNCEMENT]
    return {each.key.split(":")[2]: each.state for each in found if each.details["run"] == run_id}


def test_a_weekday_with_a_time_is_planned_in_the_entrys_time_zone_listed_and_cancelled_by_name(
    daemon: RunningDaemon, client: Client
) -> None:
    start = client.start_time("planned", "sat 01:00")
    assert start.local.startswith("Sat ") and start.local.split()[2] == "01:00" and start.local.split()[3] in "EST EDT"
    assert start.window_ends_at == start.at + timedelta(hours=2)
    assert client.start_time("greet", "sat 01:00").local.split()[3] in ("CET", "CEST"), "a job has the calendar's zone"

    planned = daemon.maintd("trigger", "planned", "--at", "sat 01:00", "--why", "new disk", "--json")

    assert planned.code == 0, planned.err
    assert f"sat 01:00 is {start.local} (" in planned.err and "; its window ends " in planned.err
    assert planned.json["state"] == "queued"
    listed = daemon.maintd("next")
    assert f"run {planned.json['id']}, planned by " in listed.out and "new disk" in " ".join(listed.out.split())
    cancelled = daemon.maintd("cancel", "planned")
    assert cancelled.out == f"run {planned.json['id']} of planned is cancelled\n"
    assert f"run {planned.json['id']}, planned by" not in daemon.maintd("next").out


def test_of_several_planned_runs_one_is_cancelled_by_its_number(daemon: RunningDaemon, client: Client) -> None:
    first, second = (client.trigger("other", at=datetime.now(UTC) + timedelta(days=days)).id for days in (20, 21))

    refused = daemon.maintd("cancel", "other")

    assert refused.code == 4 and f"run {first} (queued for " in refused.err
    assert f"maintd cancel {second}" in refused.err
    for run_id in (first, second):
        client.cancel(run_id)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("planned", "--at", "xyz 01:00"), 2, '"xyz" is not a weekday'),
        (("plannd", "--at", "sat 01:00"), 3, 'did you mean "planned"?'),
        (("destroy",), 4, 'job "destroy" runs only in a window, and destroy has none'),
    ],
)
def test_a_run_that_cannot_be_planned_is_refused(
    daemon: RunningDaemon, words: tuple[str, ...], code: int, text: str
) -> None:
    result = daemon.maintd("trigger", *words)

    assert (result.code, text in result.err) == (code, True), result.err


def test_a_window_that_would_contain_noon_is_refused(daemon: RunningDaemon) -> None:
    day = (datetime.now(UTC) + timedelta(days=3)).date()

    refused = daemon.maintd("trigger", "planned", "--at", f"{day}T11:00Z")

    assert refused.code == 4 and "12:00 UTC (not_across 12:00 UTC)" in refused.err


def test_a_confined_job_is_refused_here_too(daemon: RunningDaemon) -> None:
    refused = daemon.maintd("run", "destroy", "--here", "--no-store")

    assert refused.code == 4 and "runs only in a window" in refused.err


def noon_free(now: datetime, least: timedelta) -> datetime:
    """A start at least so far ahead whose window of two hours does not contain 12:00 UTC."""
    start = now + least
    return start if not 9 <= start.hour <= 12 else start + timedelta(hours=4)


def test_a_planned_run_is_announced_once_and_its_cancellation_too(
    daemon: RunningDaemon, client: Client, hook: Hook
) -> None:
    hook.answer(Answer())
    run = client.trigger("planned", at=noon_free(datetime.now(UTC), timedelta(hours=3)), why="new disk", by="ada")

    wait_for(lambda: announcements(client, run.id) == {"1d": NoticeState.SENT}, "the announcement is sent")
    client.cancel(run.id)
    expected = {"1d": NoticeState.SENT, "cancelled": NoticeState.SENT}
    wait_for(lambda: announcements(client, run.id) == expected, "who got it gets a notice of the end")

    body = next(each for each in client.notices(limit=500).notices if each.key == f"announcement:{run.id}:1d:pager")
    assert body.title.startswith("planned begins in ") and "new disk" in body.body


def test_an_announcement_that_was_not_delivered_is_withdrawn_with_its_run(
    daemon: RunningDaemon, client: Client, hook: Hook
) -> None:
    hook.answer(Answer(401))
    run = client.trigger("planned", at=noon_free(datetime.now(UTC), timedelta(hours=3)))
    far = client.trigger("planned", at=noon_free(datetime.now(UTC), timedelta(days=9)))

    def waits() -> bool:
        found = [each for each in client.notices(limit=500).notices if each.details.get("run") == run.id]
        return [(each.state, bool(each.error)) for each in found] == [(NoticeState.WAITING, True)]

    wait_for(waits, "the channel refuses it")

    client.cancel(run.id)

    assert announcements(client, run.id) == {}
    assert announcements(client, far.id) == {}, "it is not time yet"
    client.cancel(far.id)
    hook.answer(Answer())


def test_a_planned_run_whose_start_falls_into_a_downtime_starts_late_or_is_missed_in_plain_sight(
    tmp_path: Path, hook: Hook
) -> None:
    calendar = f"""
timezone: UTC
notify: {{channels: {{pager: {{webhook: "{hook.url}", secret: "${{HOOK_SECRET}}"}}}}, to: pager}}
entries:
  long: {{title: Time is left, window: {{lasts: 2h, rollback_by: 30m}}, steps: [greet]}}
  short: {{title: No time is left, window: {{lasts: 2s, rollback_by: 1s}}, steps: [greet]}}
  plain: {{title: Without a window, steps: [greet]}}
"""
    settings = {"MAINTD_HEARTBEAT": "500ms", "HOOK_SECRET": "canary-0815"}
    with maintd_daemon(tmp_path, calendar, **settings) as daemon:
        client = Client(daemon.socket)
        start = datetime.now(UTC) + timedelta(seconds=20)
        planned = {name: client.trigger(name, at=start).id for name in ("long", "short", "plain")}
        daemon.process.kill()
        daemon.process.wait(60)
        assert datetime.now(UTC) < start, "this machine is too slow for the test"
    wait_for(lambda: datetime.now(UTC) > start + timedelta(seconds=3), "the start has passed")
    daemon.log.unlink()

    with maintd_daemon(tmp_path, calendar, **settings) as daemon:
        client = Client(daemon.socket)
        runs = {}
        for name, number in planned.items():
            wait_for(lambda number=number: client.run(number).finished_at, f"the run of {name} ends")
            runs[name] = client.run(number)
        notices = wait_for(
            lambda: [one for one in client.notices().notices if one.kind is NoticeKind.MISSED], "the notice is written"
        )
        status = daemon.maintd("status")

    assert [run.state for run in runs.values()] == [RunState.SUCCEEDED, RunState.SKIPPED, RunState.SUCCEEDED]
    late = runs["long"]
    assert late.started_at is not None and late.started_at > start and late.window_began == start
    assert runs["short"].skip_reason is SkipReason.MISFIRE
    assert "after its planned start at" in runs["short"].reason
    assert "its window left no time for work" in runs["short"].reason
    assert (status.code, "its window left no time for work" in " ".join(status.out.split())) == (1, True), status.out
    assert [notice.details["entry"] for notice in notices] == ["short"]
