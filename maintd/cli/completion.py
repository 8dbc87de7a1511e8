"""Shell completion: the command that prints the script, and the names that it completes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from maintd.cli.app import App

if TYPE_CHECKING:
    from maintd.client import Client

TIMEOUT = 2.0  # seconds; a shell that hangs is worse than one without names


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    It completes commands, options and the names of entries, jobs and runs.

    \b
    bash: maintd completion bash > /etc/bash_completion.d/maintd
    zsh:  maintd completion zsh > ~/.zfunc/_maintd
    fish: maintd completion fish > ~/.config/fish/completions/maintd.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    ctx.ensure_object(App).out(kind(ctx.find_root().command, {}, "maintd", "_MAINTD_COMPLETE").source())


def names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Entries and jobs."""
    return _items([*_entries(ctx), *_jobs(ctx)], incomplete)


def entries(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Entries only."""
    return _items(_entries(ctx), incomplete)


def jobs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Jobs only."""
    return _items(_jobs(ctx), incomplete)


def tokens(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Tokens that are valid."""
    answer = _get(ctx, lambda client: client.tokens())
    return _items(
        [(token["name"], token["role"]) for token in answer.get("tokens", ()) if token["state"] == "valid"], incomplete
    )


def runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The last runs by number, `last`, and names of entries."""
    answer = _get(ctx, lambda client: client.runs(limit=30))
    found = [(str(run["id"]), f"{run['entry']}, {run['state']}") for run in answer.get("runs", ())]
    if incomplete and not incomplete[0].isdigit():
        found = [("last", "the last run"), *((run["entry"], "its last run") for run in answer.get("runs", ()))]
    return _items(found, incomplete)


def waiting(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The runs that wait at a gate, by number."""
    gates = _get(ctx, lambda client: client.gates()).get("gates", ())
    return _items([(str(gate["run_id"]), f"{gate['entry']}, {gate['gate']}") for gate in gates], incomplete)


def findings(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The keys of open findings."""
    return _items(_findings(ctx), incomplete)


def acknowledged(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The keys of findings that are acknowledged."""
    return _items(_findings(ctx, acknowledged=True), incomplete)


def _findings(ctx: click.Context, *, acknowledged: bool = False) -> list[tuple[str, str]]:
    answer = _get(ctx, lambda client: client.findings(acknowledged=acknowledged))
    return [(one["key"], f"{one['entry']}, {one['check']}") for one in answer.get("findings", ())]


def _entries(ctx: click.Context) -> list[tuple[str, str]]:
    answer = _get(ctx, lambda client: client.status())
    return [(entry["entry"], entry["title"]) for entry in answer.get("entries", ())]


def _jobs(ctx: click.Context) -> list[tuple[str, str]]:
    """Jobs of the daemon; without one the names of job files, since loading the jobs takes seconds."""
    answer = _get(ctx, lambda client: client.jobs())
    if answer:
        return [(job["name"], job.get("summary", "broken")) for job in answer["jobs"]]
    from maintd.job.registry import shipped

    folders = (shipped("jobs"), *_app(ctx).settings.job_dirs)
    return [(path.stem, "") for folder in folders for path in sorted(folder.glob("[a-z]*.py"))]


def _get(ctx: click.Context, call: Callable[[Client], object]) -> dict[str, Any]:
    """The JSON of the daemon's answer; empty without one."""
    from maintd.errors import MaintdError

    try:
        answer: dict[str, Any] = _app(ctx).client(TIMEOUT).json_of(call)
    except MaintdError:
        return {}
    return answer


def _app(ctx: click.Context) -> App:
    """The app of this invocation, which click does not create while it completes."""
    root = ctx.find_root()
    flags = {name: value for name, value in root.params.items() if value not in (None, False)}
    return App({name: value for name, value in flags.items() if name != "version"}, root.with_resource(ExitStack()))


def _items(found: Iterable[tuple[str, str]], incomplete: str) -> list[CompletionItem]:
    matching = {name: text for name, text in reversed([*found]) if name.startswith(incomplete)}
    return [CompletionItem(name, help=text or None) for name, text in sorted(matching.items())]
