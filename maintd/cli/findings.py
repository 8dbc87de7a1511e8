"""`findings`, `findings show`, `ack` and `unack`."""

from __future__ import annotations

import time
from shlex import quote as shell_quote
from typing import TYPE_CHECKING

import click

from maintd.cli import completion
from maintd.cli.app import App, current_user, json_option
from maintd.errors import UnknownNameError, UsageError, nearest

if TYPE_CHECKING:
    from maintd.client import Client
    from maintd.model.finding import FindingDetail, FindingList, ListedFinding

REVIEWED_WITHIN = 5.0  # seconds after the end of a run, by a daemon that works
POLL_INTERVAL = 0.3


@click.group("findings", invoke_without_command=True)
@click.option("--open", "only_open", is_flag=True, help="Only open ones; the default.")
@click.option("--all", "gone", is_flag=True, help="Also those that are gone.")
@click.option("--area", metavar="NAME", help="Only those of this entry or job.", shell_complete=completion.names)
@click.option(
    "--since",
    metavar="WHEN",
    help="Only those first seen since then; with --all also those gone since: 7d, 2026-12-06",
)
@json_option
@click.pass_context
def findings_command(
    ctx: click.Context, only_open: bool, gone: bool, area: str | None, since: str | None, as_json: bool
) -> None:
    """List findings: checks that are not ok, with since when.

    The worst come first. A finding is open until its check is ok in a later run, or no
    longer made; --all shows the reason. Acknowledge one with: maintd ack KEY

    Example: maintd findings --area weekly-cleanup --since 7d
    """
    if ctx.invoked_subcommand is not None:
        return
    if only_open and gone:
        raise UsageError("--open and --all exclude each other", "give one of them")
    _list(ctx.obj, as_json, area=area, since=since, gone=gone)


@findings_command.command("show")
@click.argument("key", shell_complete=completion.findings)
@json_option
@click.pass_obj
def show(app: App, key: str, as_json: bool) -> None:
    """Show a finding with all its acknowledgements.

    KEY may be the first digits of a key, at least four.
    """

    def finding(client: Client) -> FindingDetail:
        return client.finding(key)

    if as_json:
        app.out_json(app.read_json(finding))
        return
    from maintd.present.findings import finding_text

    found = app.read(finding)
    app.out(finding_text(found, found.acknowledgements, next_step=found.next_step, now=app.now(), **app.terminal))


@click.command("ack")
@click.argument("finding", required=False, shell_complete=completion.findings)
@click.option("--why", help="The reason; shown with the finding.")
@click.option("--until", metavar="WHEN", help="End, at most 90 days ahead: 7d, 2026-12-06T02:00Z.")
@click.option("--for", "lasting", metavar="DURATION", help="The same as a length of time: 7d.")
@click.option("--by", metavar="NAME", help="Your name, when you are logged in as root.")
@click.option("--list", "listed", is_flag=True, help="List what is acknowledged.")
@json_option
@click.pass_obj
def ack_command(
    app: App,
    finding: str | None,
    why: str | None,
    until: str | None,
    lasting: str | None,
    by: str | None,
    listed: bool,
    as_json: bool,
) -> None:
    """Acknowledge a finding: until then it needs no attention.

    FINDING is a key as `maintd findings` shows it, or RUN/CHECK. The finding stays open and in reports. It needs
    attention again when it becomes worse, when it was gone and returns, and when the time is over.

    Worse is a worse status, or a value that moved away from its limit by more than a quarter of the distance that it
    had, and by more than 5 % of the limit. An age that grew only by the time that passed is not worse.

    Example: maintd ack 842/"disk /" --why "a disk is ordered" --until 7d
    """
    if listed:
        if any(given is not None for given in (finding, why, until, lasting)):
            raise UsageError("--list takes no finding", "omit --list, or the rest")
        _list(app, as_json, acknowledged=True)
        return
    from maintd.cli.arguments import end_of

    ends_at = end_of(app.now(), until, lasting)
    if finding is None or why is None or ends_at is None:
        missing = "FINDING" if finding is None else "--why" if why is None else "--until or --for"
        raise UsageError(f"missing {missing}", 'write for example: maintd ack KEY --why "a disk is ordered" --until 7d')
    key = _key_of(app, finding)

    def acknowledge(client: Client) -> ListedFinding:
        return client.acknowledge(key, why, until=ends_at, by=by or current_user())

    if as_json:
        app.out_json(app.daemon.json_of(acknowledge))
        return
    from maintd.present import utc_minute

    done = acknowledge(app.daemon)
    assert done.acknowledgement is not None
    app.out(f"{done.key} ({done.entry}: {done.check}) is acknowledged until {utc_minute(done.acknowledgement.until)}")
    app.note(f"withdraw it with: maintd unack {done.key}")


@click.command("unack")
@click.argument("finding", shell_complete=completion.acknowledged)
@click.option("--why", default="", help="The reason; stored in the audit log.")
@json_option
@click.pass_obj
def unack_command(app: App, finding: str, why: str, as_json: bool) -> None:
    """Withdraw the acknowledgement of a finding.

    FINDING is a key as `maintd ack --list` shows it, or RUN/CHECK.
    """
    key = _key_of(app, finding)

    def withdraw(client: Client) -> ListedFinding:
        return client.withdraw(key, why=why, by=current_user())

    if as_json:
        app.out_json(app.daemon.json_of(withdraw))
        return
    done = withdraw(app.daemon)
    app.out(f"{done.key} ({done.entry}: {done.check}) is no longer acknowledged")


def _list(
    app: App,
    as_json: bool,
    *,
    area: str | None = None,
    since: str | None = None,
    gone: bool = False,
    acknowledged: bool = False,
) -> None:
    first_seen_since = None
    if since is not None:
        from maintd.cli.arguments import past_time

        first_seen_since = past_time(since, app.now())

    def findings(client: Client) -> FindingList:
        return client.findings(area=area, since=first_seen_since, gone=gone, acknowledged=acknowledged)

    if as_json:
        app.out_json(app.read_json(findings))
        return
    from maintd.present.findings import findings_text

    found = app.read(findings)
    app.out(findings_text(found.findings, now=app.now(), **app.terminal))
    if found.limited:
        app.note(f"only the first {len(found.findings)}; narrow it with --area or --since")


def _key_of(app: App, text: str) -> str:
    """The key that FINDING means: a key or its first digits, or that of a check of a run, which may have just ended.

    Raises a MaintdError with UnknownNameError's code if there is none.
    """
    run, slash, check = text.partition("/")
    if not slash:
        return text
    from maintd.cli.runs import run_id_of

    number = run_id_of(app, run, daemon=True)
    deadline = time.monotonic() + REVIEWED_WITHIN
    while True:
        found = app.daemon.findings_of_run(number).findings
        matching = [one for one in found if check in (one.check, f"{one.step}/{one.check}")]
        if len(matching) == 1:
            return matching[0].key
        if matching:
            names = " or ".join(f"{number}/{one.step}/{one.check}" for one in matching)
            raise UsageError(f'run {number} has several checks "{check}"', f"name the step: {names}")
        if time.monotonic() >= deadline or not _is_reported(app, number, check):
            raise _no_finding(number, check, [one.check for one in found])
        time.sleep(POLL_INTERVAL)


def _is_reported(app: App, number: int, check: str) -> bool:
    """Whether a check with this name of the run is not ok; then it is a finding as soon as the run was reviewed."""
    run = app.daemon.run(number)
    return any(
        one.status != "ok" and check in (one.name, f"{step.name}/{one.name}")
        for step in run.steps
        for attempt in step.attempts[-1:]
        for one in attempt.checks
    )


def _no_finding(number: int, check: str, names: list[str]) -> Exception:
    from maintd.client import coded_error

    closest = nearest(check[:200], names)
    hint = f"did you mean {shell_quote(f'{number}/{closest}')}?" if closest else f"see: maintd show {number}"
    return coded_error(UnknownNameError, f'run {number} has no finding "{check}"', hint)
