"""Import a job module from its file and check that it is one."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
import traceback
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, ExtensionFileLoader, FileFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, cast

from maintd.errors import JobError
from maintd.job.decorator import MARK, JobFunction, JobTraits
from maintd.job.params import JobParams

_JOB_NAME = re.compile(r"[a-z][a-z0-9_]*")


def open_job(path: Path) -> tuple[JobFunction, type[JobParams]]:
    """Import a job module; return its `run` and `Params`. Raises JobError with file:line."""
    module = open_module(path)
    return module.run, getattr(module, "Params", JobParams)


def traits_of(module: ModuleType) -> JobTraits:
    """The traits from the decorator of an imported job module."""
    return cast("JobTraits", getattr(module.run, MARK))


def open_module(path: Path) -> ModuleType:
    """Import a job module and check that it is one. Raises JobError with file:line."""
    if not _JOB_NAME.fullmatch(path.stem):
        raise JobError(f"{path}: a job's file name is lower case letters, digits and _", f"rename {path.name}")
    module = _import(path)
    run = getattr(module, "run", None)
    if run is None or getattr(run, MARK, None) is None:
        raise JobError(f"{path}: has no function `run` decorated with @job", "see docs/writing-a-job.md")
    _require_callable(path, run)
    params = getattr(module, "Params", JobParams)
    if not (isinstance(params, type) and issubclass(params, JobParams)):
        raise JobError(f"{path}: Params is not a subclass of maintd.job.JobParams")
    return module


def _require_callable(path: Path, run: Any) -> None:
    """Raise JobError for a `run` that cannot be called with a context and params, or whose call runs nothing."""
    line = getattr(getattr(inspect.unwrap(run), "__code__", None), "co_firstlineno", 0)
    hint = "write: def run(ctx: Context, params: Params) -> None, or params: JobParams without params of its own"
    try:
        inspect.signature(run).bind(None, None)
    except TypeError as error:
        raise JobError(f"{path}:{line}: run cannot be called with ctx and params: {error}", hint) from None
    except ValueError:  # a function of an extension module, whose signature is not known
        return
    if inspect.iscoroutinefunction(run) or inspect.isgeneratorfunction(run) or inspect.isasyncgenfunction(run):
        raise JobError(f"{path}:{line}: run is a coroutine or a generator, whose call runs nothing of it", hint)


class SourceLoader(SourceFileLoader):
    """Compiles a module from its source at each import.

    A cached .pyc counts as current while the source has the same size and the same whole second of modification, so
    an edit within that second, or one that keeps the time, would run the old code.
    """

    def get_code(self, fullname: str) -> CodeType:
        """Return the code of the source as it is now. Raises SyntaxError, OSError."""
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def _import(path: Path) -> ModuleType:
    qualified = f"maintd_jobs.{path.stem}"
    folder = str(path.parent)
    # Modules in the same folder, which the job imports through sys.path, are compiled from their source too.
    sys.path_importer_cache[folder] = FileFinder(
        folder, (ExtensionFileLoader, EXTENSION_SUFFIXES), (SourceLoader, SOURCE_SUFFIXES)
    )
    spec = importlib.util.spec_from_file_location(qualified, path, loader=SourceLoader(qualified, str(path)))
    if spec is None or spec.loader is None:
        raise JobError(f"{path}: is not a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[qualified] = module  # pydantic resolves annotations through sys.modules
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise JobError(f"{path}:{error.lineno}: {error.msg}") from error
    except Exception as error:
        line = next(
            (f.lineno for f in reversed(traceback.extract_tb(error.__traceback__)) if f.filename == str(path)), 0
        )
        raise JobError(f"{path}:{line}: cannot be imported: {type(error).__name__}: {error}") from error
    return module
