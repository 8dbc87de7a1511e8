"""The commands, their global options, and the translation of errors into messages and exit codes."""

from __future__ import annotations

import errno
import gc
import os
import re
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from importlib import import_module
from typing import Any

import click

from maintd import __version__
from maintd.cli.app import App, discard, prepare_streams
from maintd.config.process_limits import UMASK
from maintd.errors import MaintdError, OutputError, UsageError
from maintd.terminal import quotable, was_interrupted

_OUTPUT_ERRORS = (errno.EPIPE, errno.ENOSPC, errno.EIO)

INTERRUPTED = 130  # 128 + SIGINT, as shells have it

# New objects until Python looks for garbage. Modules are no garbage: with Python's usual 700, looking for it among them
# takes a tenth of a command. A command that runs for long still gets rid of its garbage. The daemon has its own rule.
OBJECTS_UNTIL_COLLECTION = 100_000

# The module of each command. It is imported when one of its commands runs, so that each starts fast.
COMMANDS = {
    "serve": "daemon",
    "status": "status",
    "trigger": "trigger",
    "rehearse": "rehearse",
    "run": "foreground",
    "history": "runs",
    "show": "runs",
    "logs": "runs",
    "cancel": "runs",
    "gates": "gates",
    "approve": "gates",
    "reject": "gates",
    "resume": "procedures",
    "undo": "procedures",
    "release": "procedures",
    "findings": "findings",
    "ack": "findings",
    "unack": "findings",
    "changelog": "changelog",
    "note": "changelog",
    "checklist": "changelog",
    "next": "status",
    "doctor": "doctor",
    "validate": "calendar",
    "reload": "daemon",
    "pause": "calendar",
    "unpause": "calendar",
    "freeze": "freezes",
    "unfreeze": "freezes",
    "notices": "notices",
    "notify": "notices",
    "mute": "notices",
    "unmute": "notices",
    "jobs": "jobs",
    "settings": "daemon",
    "db": "db",
    "token": "token",
    "version": "daemon",
    "completion": "completion",
}

GLOBAL = (
    "--config",
    "--state-dir",
    "--socket",
    "--store-url",
    "--calendar",
    "--url",
    "--token-file",
    "--ca-file",
    "--insecure",
)


class Commands(click.Group):
    """The commands of COMMANDS in that order."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        if cmd_name != "serve":
            gc.set_threshold(OBJECTS_UNTIL_COLLECTION)
        module = import_module(f"maintd.cli.{COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from maintd.errors import nearest

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = nearest(args[0], COMMANDS)
            raise UsageError(
                f'no command "{quotable(args[0])}"', f'did you mean "{near}"?' if near else "see: maintd --help"
            )
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--config", metavar="FILE", help="A YAML file of settings (MAINTD_CONFIG).")
@click.option("--state-dir", metavar="DIR", help="The folder of store, artifacts and spool (MAINTD_STATE_DIR).")
@click.option("--socket", metavar="PATH", help="The daemon's control socket (MAINTD_SOCKET).")
@click.option("--store-url", metavar="URL", help="The store (MAINTD_STORE_URL); keep a password in a file instead.")
@click.option("--calendar", metavar="FILE", help="The calendar (MAINTD_CALENDAR).")
@click.option("--url", metavar="URL", help="A daemon elsewhere, as https://maintd.example:8420 (MAINTD_URL).")
@click.option("--token-file", metavar="FILE", help="Its token (MAINTD_TOKEN_FILE; MAINTD_TOKEN has the token itself).")
@click.option("--ca-file", metavar="FILE", help="Certificates to trust instead of the system's (MAINTD_CA_FILE).")
@click.option("--insecure", is_flag=True, help="Do not verify its certificate: others can then read the token.")
@click.version_option(__version__, "--version", message="maintd %(version)s")
@click.pass_context
def cli(ctx: click.Context, /, **flags: str | bool | None) -> None:
    """Run the maintenance runbook on schedule, record the evidence, keep the history.

    NAME is an entry of the calendar or a job. RUN is a run's number, the name of an entry or job for its last run, or
    `last`. With --json a command prints one object, for an error too: {"error": {"code", "message", "hint"}}.

    Exit codes: 0 success; 1 a run or check failed, or something needs attention; 2 invalid request or file; 3 unknown
    name; 4 refused; 6 no daemon answers; 124 the run timed out; 130 interrupted.
    """
    given = {name: value for name, value in flags.items() if value not in (None, False)}
    ctx.obj = App(given, ctx.with_resource(ExitStack()))
    if "url" in given and ctx.invoked_subcommand is not None:
        _refuse_local(ctx.invoked_subcommand)


def _refuse_local(command: str) -> None:
    """Raise UsageError for a command that cannot work on a daemon elsewhere."""
    from maintd.cli.connection import LOCAL_COMMANDS

    if command in LOCAL_COMMANDS:
        does, _, instead = LOCAL_COMMANDS[command].partition("; ")
        raise UsageError(f"--url is not for maintd {command}, which {does}", instead or "omit --url")


def main() -> int:
    """Run the command in sys.argv; return its exit code."""
    as_json = "--json" in sys.argv
    os.umask(UMASK)
    prepare_streams()
    try:
        _require_text(sys.argv)
        code = cli.main(prog_name="maintd", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        App.note(error.format_message())
        return UsageError.exit_code
    except click.ClickException as error:
        return _report(_usage_error(error), as_json)
    except OSError as error:
        if error.filename is not None or error.errno not in _OUTPUT_ERRORS:
            raise
        return _report_output(OutputError(error))  # of a help text, which click writes
    except OutputError as error:
        return _report_output(error)
    except MaintdError as error:
        return _report(error, as_json)
    except BaseException as error:
        if not isinstance(error, click.Abort) and not was_interrupted(error):
            raise
        App.note("\ninterrupted")
        return INTERRUPTED


def _report_output(error: OutputError) -> int:
    discard(sys.stdout)
    if error.reader_exited:
        return 0
    App.note(str(error))
    return error.exit_code


def _require_text(argv: Sequence[str]) -> None:
    """Raise UsageError for an argument that is not text in the locale's encoding: it cannot be sent or stored."""
    for word in argv[1:]:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise UsageError(
                f'an argument is not text in the encoding {sys.getfilesystemencoding()}: "{quotable(word)}"',
                "use a UTF-8 locale, for example LC_ALL=C.UTF-8",
            ) from None


_SUGGESTION = re.compile(r"[.;,]? \(?[Dd]id you mean (?:one of: )?(.*)\?\)?$")
"""As click adds it to the message; here it is the hint."""


def _usage_error(error: click.ClickException) -> UsageError:
    message = error.format_message().rstrip(".")
    message = message[:1].lower() + message[1:]
    option = getattr(error, "option_name", None)
    suggested = _SUGGESTION.search(message)
    if isinstance(error, click.NoSuchOption) and option in GLOBAL:
        message = message if suggested is None else message[: suggested.start()]
        return UsageError(message, f"write it before the command: maintd {option} … COMMAND")
    context = getattr(error, "ctx", None)
    if isinstance(error, click.NoSuchOption) and context is not None and context.parent is None:
        command = _command_with(str(option), sys.argv[1:])
        if command or option == "--json":
            hint = f"write it after the command: maintd {command or 'COMMAND'} {option}"
            message = message if suggested is None else message[: suggested.start()]
            return UsageError(message.replace("'", '"'), hint)
    if suggested is not None:
        near = " or ".join(suggested[1].split(", ")).replace("'", '"')
        return UsageError(message[: suggested.start()].replace("'", '"'), f"did you mean {near}?")
    return UsageError(message, f"see: {context.command_path if context else 'maintd'} --help")


def _command_with(option: str, words: Sequence[str]) -> str:
    """The first of the words that is a command with this option; empty when there is none."""
    name = next((word for word in words if word in COMMANDS), None)
    if name is None:
        return ""
    module = import_module(f"maintd.cli.{COMMANDS[name]}")
    command: click.Command = getattr(module, f"{name}_command")
    return name if any(option in param.opts for param in command.params) else ""


def _report(error: MaintdError, as_json: bool) -> int:
    if as_json:
        with suppress(OutputError):
            App.out_json({**error.as_json(), **_problems(error)})
    elif "\n" in error.message and error.hint:
        App.note(f"{error.message}\n{error.hint}")
    else:
        App.note(str(error))
    return error.exit_code


def _problems(error: MaintdError) -> dict[str, Any]:
    problems = getattr(error, "problems", None)
    return {"problems": list(problems)} if problems else {}
