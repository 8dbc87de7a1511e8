"""Write the generated parts of the documentation: jobs, settings, commands, the API and the states of a run.

    python docs/generate.py            write them
    python docs/generate.py --check    list those that are out of date, and exit with 1 if there are any

The generated parts of a file are between `<!-- generated: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import click

from maintd.config.settings import Retention, Settings
from maintd.job.registry import JobRegistry
from maintd.model import run, status
from maintd.model.base import Model
from maintd.model.evidence import Artifact, Change, Check, LogLine, Measure
from maintd.model.job import JobDescription, ParamDescription
from maintd.model.run import TRANSITIONS, RunState, SkipReason
from maintd.model.target import Targets
from maintd.present.lists import budget_text
from maintd.units import format_duration, is_size, written_size

DOCS = Path(__file__).parent
UNUSED = "not used yet"
"""The meaning of a member that the code does not produce yet; the documentation leaves it out."""

SECTION = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def jobs() -> str:
    """The reference of every shipped job, from its decorator, docstring and params."""
    return "\n".join(
        line for job in JobRegistry().jobs.values() if isinstance(job, JobDescription) for line in _job(job)
    )


def _job(job: JobDescription) -> Iterator[str]:
    yield f"## {job.name}\n"
    yield _prose(job.doc) + "\n"
    traits = [
        f"timeout {format_duration(job.timeout)}",
        "makes changes" if job.mutates else "read-only",
        "repeatable" if job.repeatable else "no automatic retries",
    ]
    traits += [f"holds the lock `{name}` ({mode})" for name, mode in sorted(job.locks.items())]
    traits += [f"skipped without a `{kind}` target" for kind in job.needs]
    traits += [budget_text({action: most}) for action, most in sorted(job.budget.items()) if action != "bytes"]
    yield "*" + "; ".join(traits) + "*\n"
    if job.params:
        yield "| param | type | default | meaning |"
        yield "|---|---|---|---|"
        yield from (_param(param) for param in job.params)
        yield ""


def _prose(doc: str) -> str:
    """A docstring as Markdown; indented blocks remain code."""
    return re.sub(r"^Runbook:\s*(.+)$", r"Runbook: *\1*", doc, flags=re.MULTILINE)


def _param(param: ParamDescription) -> str:
    default = "required" if param.required else _default(param.default)
    return f"| `{param.name}` | {_cell(param.type)} | {default} | {_cell(param.description)} |"


def _default(value: Any) -> str:
    """A default as it is written in YAML; of a mapping only the values that are set."""
    if isinstance(value, dict):
        set_values = {key: item for key, item in value.items() if item not in (None, "", [], {}, ())}
        return ", ".join(f"`{key}: {_cell(str(item))}`" for key, item in set_values.items()) or "none"
    return _code(value)


def _code(value: Any) -> str:
    if value is None or value in ("", [], {}, ()):
        return "none"
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return f"`{_cell(text)}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def settings() -> str:
    """Every setting with its environment variable."""
    lines = ["| setting | environment | default | meaning |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = (
            field.get_default(call_default_factory=True) if name not in ("node", "state_dir") else "depends on the host"
        )
        if isinstance(default, Retention | Targets):
            default = "see below"
        elif isinstance(default, bool):
            default = str(default).lower()
        elif is_size(field.metadata):
            default = written_size(default)
        elif hasattr(default, "total_seconds"):
            default = format_duration(default)
        lines.append(f"| `{name}` | `MAINTD_{name.upper()}` | {_code(default)} | {_cell(field.description or '')} |")
    return "\n".join(lines) + "\n"


def retention() -> str:
    """The retention settings."""
    lines = ["| setting | environment | default |", "|---|---|---|"]
    for name, field in Retention.model_fields.items():
        default = field.default
        shown = format_duration(default) if hasattr(default, "total_seconds") else str(default)
        lines.append(f"| `retention.{name}` | `MAINTD_RETENTION__{name.upper()}` | `{shown}` |")
    return "\n".join(lines) + "\n"


def targets() -> str:
    """Every kind of target with its fields."""
    lines = []
    for kind, field in Targets.model_fields.items():
        inner = next(arg for arg in field.annotation.__args__ if inspect.isclass(arg) and arg is not str)  # type: ignore[union-attr]
        lines += [f"### {kind}\n", _prose(inspect.cleandoc(inner.__doc__ or "")) + "\n"]
        lines += ["| field | default |", "|---|---|"]
        for name, part in inner.model_fields.items():
            default = part.get_default(call_default_factory=True)
            shown = format_duration(default) if hasattr(default, "total_seconds") else default
            lines.append(f"| `{name}` | {'required' if part.is_required() else _code(shown)} |")
        lines.append("")
    return "\n".join(lines)


def _meanings(states: type[StrEnum]) -> dict[str, str]:
    """Value → meaning, from the comment behind each member."""
    source = inspect.getsource(states)
    found = dict(re.findall(r'^    \w+ = "(\w+)"  # (.+)$', source, re.MULTILINE))
    return {value: meaning for value, meaning in found.items() if meaning != UNUSED}


def states() -> str:
    """The states of a run with their meanings, and the reasons for which a run is skipped."""
    lines = ["| state | meaning |", "|---|---|"]
    lines += [f"| `{state}` | {_cell(meaning)} |" for state, meaning in _meanings(RunState).items()]
    lines += ["", "| skipped because | meaning |", "|---|---|"]
    lines += [f"| `{reason}` | {_cell(meaning)} |" for reason, meaning in _meanings(SkipReason).items()]
    return "\n".join(lines) + "\n"


def transitions() -> str:
    """The transition table as a state diagram."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> queued", "    [*] --> skipped"]
    lines += [f"    {state} --> {to}" for state, after in TRANSITIONS.items() for to in sorted(after)]
    lines += [f"    {state} --> [*]" for state in RunState if state.final]
    return "\n".join([*lines, "```"]) + "\n"


def commands() -> str:
    """Every command with the output of its --help."""
    from maintd.cli.main import cli

    return "\n".join(_command(cli, "maintd", None))


def _command(command: click.Command, name: str, parent: click.Context | None) -> Iterator[str]:
    # With the settings of the running program, since they affect the help text.
    settings = command.context_settings | {"terminal_width": 100}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    if parent is None:
        usage = command.get_help(context).partition("\nCommands:\n")[0]
        yield f"## Global options and exit codes\n\n```text\n{usage.rstrip()}\n```\n"
    else:
        yield f"## {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None and not found.hidden:
                yield from _command(found, child, context)


def errors() -> str:
    """The error tree with its exit codes, from the docstring of the module."""
    from maintd import errors as module

    return "```text\n" + inspect.cleandoc(module.__doc__ or "").partition("\n\n")[2].strip() + "\n```\n"


def roles() -> str:
    """Every role with its meaning."""
    from maintd.model.access import Role

    lines = ["| role | may, beside what the roles before it may |", "|---|---|"]
    lines += [f"| `{role}` | {_cell(meaning)} |" for role, meaning in _meanings(Role).items()]
    return "\n".join(lines) + "\n"


def rights() -> str:
    """Every right with the roles that have it and the endpoints that need it."""
    from maintd.model.access import Right, Role
    from maintd.web.access import RIGHTS

    lines = [f"| right | {' | '.join(Role)} | endpoints |", f"|---|{'---|' * len(Role)}---|"]
    for right in Right:
        paths = [f"`{method} {path}`" for (method, path), needed in RIGHTS.items() if needed is right]
        if not paths:
            continue
        if right is Right.READ:
            shown = "every other `GET`"
        elif right is Right.PROBE:
            shown = ", ".join(paths) + "; also without a token"
        else:
            shown = ", ".join(paths)
        marks = " | ".join("yes" if role.has(right) else "" for role in Role)
        lines.append(f"| `{right}` | {marks} | {shown} |")
    return "\n".join(lines) + "\n"


def endpoints() -> str:
    """Every endpoint of the API."""
    from maintd.web.app import openapi_schema

    lines = ["| endpoint | description |", "|---|---|"]
    for path, methods in sorted(openapi_schema()["paths"].items()):
        for method, described in methods.items():
            text = described.get("description") or described.get("summary", "")
            lines.append(f"| `{method.upper()} {path}` | {_cell(text.split(chr(10) + chr(10))[0])} |")
    return "\n".join(lines) + "\n"


def fields() -> str:
    """The fields of what `--json` prints, by type."""
    lines = []
    kinds: tuple[type[Model], ...] = (
        status.StatusReport,
        status.EntryStatus,
        run.RunSummary,
        run.Run,
        run.Step,
        run.Attempt,
        Check,
        Measure,
        Change,
        Artifact,
        LogLine,
        status.DueTime,
        JobDescription,
    )
    for kind in kinds:
        names = ", ".join(f"`{field}`" for field in kind.model_fields if field != "type")
        lines.append(f"- **{kind.__name__}** ({_cell(inspect.getdoc(kind) or '')}): {names}")
    return "\n".join(lines) + "\n"


PARTS: dict[str, Callable[[], str]] = {
    "jobs": jobs,
    "settings": settings,
    "retention": retention,
    "targets": targets,
    "states": states,
    "transitions": transitions,
    "commands": commands,
    "errors": errors,
    "rights": rights,
    "roles": roles,
    "endpoints": endpoints,
    "fields": fields,
}


def outdated(write: bool) -> list[Path]:
    """Return the files with outdated generated parts; with `write`, update them."""
    found = []
    for path in sorted(DOCS.rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        fresh = SECTION.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n{part[3]}", text)
        if fresh != text:
            found.append(path)
            if write:
                path.write_text(fresh, encoding="utf-8")
    return found


if __name__ == "__main__":
    check = "--check" in sys.argv
    for path in outdated(write=not check):
        print(f"{path.name}: {'out of date; run: make docs' if check else 'written'}")
    sys.exit(1 if check and outdated(write=False) else 0)
