"""The job contract: a module in a folder of jobs, with a function `run(ctx, params)` decorated with `@job`.

Returning is success, raising is failure. A module can have a class `Params(JobParams)`; its fields are the params of
the job. The file name of the module is the name of the job; there is no registration. Jobs import from this package.
"""

from maintd.errors import JobError, MaintdError, TargetError, UnknownNameError
from maintd.job.attempt_info import Point
from maintd.job.causes import Role
from maintd.job.context import BudgetSpentError, CheckFailedError, Context
from maintd.job.criterion import Criterion
from maintd.job.decorator import job
from maintd.job.params import JobParams
from maintd.job.references import resolve_references
from maintd.model.evidence import CheckStatus
from maintd.units import Duration, Size, duration_text, format_duration, format_size, parse_duration, parse_size

__all__ = [
    "BudgetSpentError",
    "CheckFailedError",
    "CheckStatus",
    "Context",
    "Criterion",
    "Duration",
    "JobError",
    "JobParams",
    "MaintdError",
    "Point",
    "Role",
    "Size",
    "TargetError",
    "UnknownNameError",
    "duration_text",
    "format_duration",
    "format_size",
    "job",
    "parse_duration",
    "parse_size",
    "resolve_references",
]
