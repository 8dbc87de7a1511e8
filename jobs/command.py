"""Run any program, and judge it by its exit code and by what it prints.

Runbook: everything that has no job of its own yet.

`argv` is a list and no shell reads it, unless `shell: true` asks for one; in that text `$NAME` is the shell's variable
and `${NAME}` a reference that maintd resolves. The program gets maintd's environment without maintd's own settings, and
besides MAINTD_RUN_ID, MAINTD_ENTRY, and MAINTD_DUE_AT when it was due. Its output becomes the log, line by line.
Patterns are regular expressions, searched in each line by itself.

What a program does is not known here, so a run is never retried automatically (`retries` has no effect). A program
that only reads and may be repeated deserves a job of its own of ten lines, with `@job(repeatable=True)` and
`maintd.clients.shell`. A secret belongs in `env` or `stdin`: every user of the machine can read the arguments of a
program that runs.
"""

from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from maintd.clients import shell
from maintd.clients.program_output import Excerpt, Number, Pattern, Search
from maintd.job import CheckStatus, Context, Duration, JobParams, Size, format_duration, job

RESERVE = timedelta(seconds=10)  # left of the attempt for stopping the program and telling how it went


class Params(JobParams):
    argv: tuple[str, ...] = Field(min_length=1)
    """The program and its arguments, each a text of its own. With `shell`, the one text for `/bin/sh -c`."""
    shell: bool = False
    """Let /bin/sh read the text: pipes, redirections, variables."""
    env: dict[str, str] = {}
    """Added to the environment. `${NAME}` and `${file:/run/secrets/x}` are resolved when it runs."""
    stdin: str = ""
    """What the program reads; nothing by default."""
    cwd: Path | None = None
    """Where it runs; where maintd runs by default."""
    exit_codes: tuple[int, ...] = Field(default=(0,), min_length=1)
    """The exit codes that mean success."""
    warn_exit_codes: tuple[int, ...] = ()
    """Exit codes that mean success with a warning, such as 1 of borg."""
    timeout: Duration | None = None
    """How long it may take; all of the attempt's time by default."""
    stdout_has: tuple[Pattern, ...] = ()
    """Each must be found in a line of the standard output."""
    stdout_lacks: tuple[Pattern, ...] = ()
    """None may be found in the standard output."""
    stderr_has: tuple[Pattern, ...] = ()
    """Each must be found in a line of the standard error."""
    stderr_lacks: tuple[Pattern, ...] = ()
    """None may be found in the standard error."""
    numbers: dict[str, Number] = {}
    """Measures to read from the standard output by name: `rows: {pattern: "rows=(\\d+)", at_least: 1}`."""
    log_head: Size = 5_000_000
    """How much of the output is logged as it comes; after that only its end is."""
    log_tail: Size = 500_000
    """How much of the end of a longer output is logged."""

    @field_validator("argv", mode="before")
    @classmethod
    def _alone(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _words(self) -> Self:
        if self.shell and len(self.argv) != 1:
            raise ValueError("with shell: true, argv is one text for /bin/sh -c")
        if not self.shell and len(self.argv) == 1 and " " in self.argv[0].strip():
            raise ValueError(f'"{self.argv[0]}": write each word as an item of a list, or set shell: true')
        return self


@job(timeout="1h", mutates=True)
def run(ctx: Context, params: Params) -> None:
    """Find the program, run it, judge it."""
    standing = {"MAINTD_RUN_ID": str(ctx.run_id), "MAINTD_ENTRY": ctx.entry}
    if ctx.due_at is not None:
        standing["MAINTD_DUE_AT"] = ctx.due_at.isoformat()
    command = shell.Command(params.argv, params.cwd, {**standing, **params.env}, params.stdin, params.shell)
    with ctx.phase("look for the program"):
        argv = shell.words(command)
    if not ctx.may("run", command, cwd=str(params.cwd or Path.cwd())):
        ctx.log(f"would run: {command}" + (" (read by /bin/sh)" if params.shell else f" (found as {argv[0]})"))
        return

    patterns = {
        "stdout": params.stdout_has + params.stdout_lacks,
        "stderr": params.stderr_has + params.stderr_lacks,
    }
    search = Search(patterns, params.numbers)
    excerpt = Excerpt(ctx.log, params.log_head, params.log_tail)

    def heard(stream: shell.Stream, line: str) -> None:
        search.line(stream, line)
        excerpt.line(line if stream == "stdout" else f"stderr: {line}")

    most = max(ctx.remaining - RESERVE, ctx.remaining / 2)
    timeout = min(params.timeout or most, most)
    with ctx.phase(f"run {argv[0]}"):
        ended = shell.run(command, timeout, heard)
    excerpt.end()
    ctx.measure("command_seconds", ended.took.total_seconds(), "s")
    ctx.measure("command_output_bytes", ended.output_bytes, "B")
    if ended.left_behind:
        ctx.log("something that it started still holds its output; it is stopped with this attempt")
    with ctx.phase("judge it"):
        judge(ctx, params, ended, search, timeout)


def judge(ctx: Context, params: Params, ended: shell.Ended, search: Search, timeout: timedelta) -> None:
    """The exit code first, then what was printed."""
    took = f"{ended.took.total_seconds():.1f} s"
    if ended.timed_out:
        hint = "find out what it waited for, or raise timeout"
        ctx.fail("duration", f"stopped after {took}", expected=f"at most {format_duration(timeout)}", hint=hint)
        return
    hint = f'its standard error ended with "{search.last_error}"' if search.last_error else "look at its log"
    if ended.signal:
        expected = " or ".join(str(code) for code in params.exit_codes)
        ctx.fail("exit code", f"killed by {ended.signal}", expected=expected, hint=hint)
    else:
        severity = CheckStatus.WARN if ended.exit_code in params.warn_exit_codes else CheckStatus.FAIL
        only = params.exit_codes[0] if len(params.exit_codes) == 1 else None
        several = params.exit_codes if only is None else None
        ctx.check("exit code", ended.exit_code, equals=only, one_of=several, severity=severity, hint=hint)
    for stream, wanted, unwanted in (
        ("stdout", params.stdout_has, params.stdout_lacks),
        ("stderr", params.stderr_has, params.stderr_lacks),
    ):
        for pattern in dict.fromkeys(wanted + unwanted):
            seen = (stream, pattern) in search.found
            ctx.check(f'{stream} has "{pattern}"', seen, equals=pattern in wanted, hint="look at its log")
    for name, number in params.numbers.items():
        value = search.number(name)
        if isinstance(value, str):
            ctx.unknown(name, value, expected="a number", hint=f'correct the pattern "{number.pattern}"')
            continue
        ctx.measure(name, value, number.unit)
        if number.at_most is not None or number.at_least is not None:
            ctx.check(name, value, at_most=number.at_most, at_least=number.at_least, unit=number.unit)
