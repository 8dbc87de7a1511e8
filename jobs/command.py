"""Run a program, and check its exit code and its output.

Runbook: everything that has no job of its own yet.

`argv` is a list, and no shell is involved unless `shell: true`; in its text `$NAME` is the shell's variable and
`${NAME}` a reference that maintd resolves. The program gets maintd's environment without maintd's own settings, and
MAINTD_RUN_ID, MAINTD_ENTRY and, for a run with a due time, MAINTD_DUE_AT. Its output is logged line by line. Patterns
are regular expressions, searched in each line.

maintd does not know what the program does, so a run is never retried automatically (`retries` has no effect). For a
program that may be repeated, write a job with `@job(repeatable=True)` and `maintd.clients.shell`. Pass secrets by `env`
or `stdin`: they are never recorded, and hidden in the output if they are 8 characters or longer. Of arguments only
those with the form of a secret are masked, such as `--password VALUE`.
"""

from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from maintd.checks.hints import command
from maintd.checks.requirements.jobs.health import command as requirements
from maintd.clients import shell
from maintd.clients.program_output import Number, OutputExcerpt, OutputSearch, Pattern
from maintd.job import CheckStatus, Context, Duration, JobParams, Size, duration_text, format_duration, job

NO_TIMEOUT = timedelta(days=365)  # the attempt's own comes first, and stops the program with the job


class Params(JobParams):
    argv: tuple[str, ...] = Field(min_length=1)
    """The program and its arguments, as a list. With `shell`, one text for `/bin/sh -c`."""
    shell: bool = False
    """Run the text by /bin/sh, for pipes, redirections and variables."""
    env: dict[str, SecretStr] = {}
    """Added to the environment. `${NAME}` and `${file:/run/secrets/x}` are resolved when the job runs."""
    stdin: SecretStr = SecretStr("")
    """The program's standard input; empty by default."""
    cwd: Path | None = None
    """Working directory; by default maintd's."""
    exit_codes: tuple[int, ...] = Field(default=(0,), min_length=1)
    """The exit codes that mean success."""
    warn_exit_codes: tuple[int, ...] = ()
    """The exit codes that mean success with a warning, such as 1 of borg."""
    timeout: Duration | None = None
    """Timeout of the program, after which the run fails; by default it has all of the attempt's time."""
    stdout_has: tuple[Pattern, ...] = ()
    """Patterns that must match a line of the standard output."""
    stdout_lacks: tuple[Pattern, ...] = ()
    """Patterns that must not match any line of the standard output."""
    stderr_has: tuple[Pattern, ...] = ()
    """Patterns that must match a line of the standard error."""
    stderr_lacks: tuple[Pattern, ...] = ()
    """Patterns that must not match any line of the standard error."""
    numbers: dict[str, Number] = {}
    """Numbers of the standard output to keep as measures, by name: `rows: {pattern: "rows=(\\d+)", at_least: 1}`."""
    log_head: Size = 5_000_000
    """Log the first part of the output, up to this size, as it comes."""
    log_tail: Size = 500_000
    """Log the last part of a longer output, up to this size, at its end."""

    @field_validator("argv", mode="before")
    @classmethod
    def _as_tuple(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_argv(self) -> Self:
        if self.shell and len(self.argv) != 1:
            raise ValueError("with shell: true, argv is one text for /bin/sh -c")
        if not self.shell and len(self.argv) == 1 and " " in self.argv[0].strip():
            raise ValueError(f'"{self.argv[0]}": write each word as an item of a list, or set shell: true')
        return self


@job(timeout="1h", mutates=True, requires=requirements, admin_params=True)
def run(ctx: Context, params: Params) -> None:
    """Find the program, run it, report its result."""
    variables = {"MAINTD_RUN_ID": str(ctx.run_id), "MAINTD_ENTRY": ctx.entry}
    if ctx.due_at is not None:
        variables["MAINTD_DUE_AT"] = ctx.due_at.isoformat()
    variables |= {name: value.get_secret_value() for name, value in params.env.items()}
    command = shell.Command(params.argv, params.cwd, variables, params.stdin.get_secret_value(), params.shell)
    with ctx.phase("find the program"):
        argv = shell.resolve_argv(command)
    search = OutputSearch(
        {"stdout": params.stdout_has + params.stdout_lacks, "stderr": params.stderr_has + params.stderr_lacks},
        params.numbers,
    )
    excerpt = OutputExcerpt(ctx.log, params.log_head, params.log_tail)

    def receive(stream: shell.Stream, line: str) -> None:
        search.line(stream, line)
        excerpt.line(line if stream == "stdout" else f"stderr: {line}")

    timeout = params.timeout or NO_TIMEOUT
    with ctx.change("run", command, cwd=str(params.cwd or Path.cwd())) as allowed:
        if not allowed:
            ctx.log(f"would run: {command}" + (" (by /bin/sh)" if params.shell else f" (found as {argv[0]})"))
            return
        try:
            with ctx.phase(f"run {argv[0]}"):
                result = shell.run(command, timeout, receive)
        finally:
            excerpt.end()  # also when the attempt is stopped
        if result.timed_out:
            allowed.uncertain(f"stopped after {duration_text(result.duration)}")
        else:
            allowed.observed(exit_code=result.exit_code, signal=result.signal or None)
            if result.signal or result.exit_code not in params.exit_codes + params.warn_exit_codes:
                allowed.failed(f"killed by {result.signal}" if result.signal else f"exit code: {result.exit_code}")
    ctx.measure("command_seconds", result.duration.total_seconds(), "s")
    ctx.measure("command_output_bytes", result.output_bytes, "B")
    if result.output_held:
        ctx.log("a process that it started still holds its output open; it is stopped with this attempt")
    with ctx.phase("check the result"):
        report(ctx, params, result, search, timeout)


def report(ctx: Context, params: Params, result: shell.Result, search: OutputSearch, timeout: timedelta) -> None:
    """Report the exit code, then the patterns and numbers of the output."""
    if result.timed_out:
        observed = f"stopped after {duration_text(result.duration)}"
        hint = "find out what it waited for, or raise timeout"
        ctx.fail("duration", observed, expected=f"at most {format_duration(timeout)}", hint=hint)
        return
    output = f"see what it printed: {command('maintd', 'logs', str(ctx.run_id))}"
    hint = f'its standard error ended with "{search.last_error}"' if search.last_error else output
    if result.signal:
        expected = " or ".join(str(code) for code in params.exit_codes)
        ctx.fail("exit code", f"killed by {result.signal}", expected=expected, hint=hint)
    else:
        severity = CheckStatus.WARN if result.exit_code in params.warn_exit_codes else CheckStatus.FAIL
        only = params.exit_codes[0] if len(params.exit_codes) == 1 else None
        several = params.exit_codes if only is None else None
        ctx.check("exit code", result.exit_code, equals=only, one_of=several, severity=severity, hint=hint)
    for stream, wanted, unwanted in (
        ("stdout", params.stdout_has, params.stdout_lacks),
        ("stderr", params.stderr_has, params.stderr_lacks),
    ):
        for pattern in dict.fromkeys(wanted + unwanted):
            found = (stream, pattern) in search.found
            ctx.check(f'{stream} has "{pattern}"', found, equals=pattern in wanted, hint=output)
    for name, number in params.numbers.items():
        value = search.number(name)
        if isinstance(value, str):
            ctx.unknown(name, value, expected="a number", hint=f'the pattern is "{number.pattern}"; {output}')
            continue
        ctx.measure(name, value, number.unit)
        if number.at_most is not None or number.at_least is not None:
            ctx.check(name, value, at_most=number.at_most, at_least=number.at_least, unit=number.unit)
