"""``app.jobs:jobs`` on the command line -> the application's `Jobs`."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from types import ModuleType
from typing import Any

import click

from sqla_jobs.errors import ConfigurationError, shown
from sqla_jobs.jobs import Jobs

_EXPECTED = "expected MODULE:JOBS, the dotted name of a module and that of a Jobs in it, e.g. app.jobs:jobs"


def load(target: str) -> Jobs[Any]:
    """Import the module and return its Jobs; the current directory can be imported from.

    Raises:
        ConfigurationError: with what was found, and what was expected.
    """
    name, colon, path = target.partition(":")
    if not colon or not all(part.isidentifier() for part in [*name.split("."), *path.split(".")]):
        raise ConfigurationError(f"{target!r} names no Jobs; {_EXPECTED}")
    here = os.getcwd()  # noqa: PTH109 - sys.path holds texts
    if here not in sys.path:
        sys.path.insert(0, here)
    module = _import(name)
    found: Any = module
    for attribute in path.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            where = f"module {name!r}" if found is module else shown(found)
            raise ConfigurationError(f"{where} has no {attribute!r}; {_hint(module)}") from None
    if not isinstance(found, Jobs):
        raise ConfigurationError(
            f"{target} is not a Jobs but of type {type(found).__name__}: {shown(found)}; {_hint(module)}"
        )
    return found


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and (name == missing or name.startswith(f"{missing}.")):
            raise ConfigurationError(
                f"there is no module {missing!r}, neither in {os.getcwd()} nor where Python looks "  # noqa: PTH109
                "(PYTHONPATH, installed packages); run this in the folder that holds it"
            ) from None
        # The application's own fault: its traceback tells the place, ours would only hide it.
        click.echo("".join(traceback.format_exception(type(error), error, _own(error))), nl=False, err=True)
        raise ConfigurationError(f"module {name!r} could not be imported: {type(error).__name__}") from None


def _own(error: BaseException) -> Any:
    """The error's traceback below this module and the import machinery."""
    trace = error.__traceback__
    while trace is not None and (
        trace.tb_frame.f_code.co_filename in (__file__, importlib.__file__)
        or trace.tb_frame.f_code.co_filename.startswith("<frozen importlib")
    ):
        trace = trace.tb_next
    return trace


def _hint(module: ModuleType) -> str:
    there = [name for name, value in vars(module).items() if isinstance(value, Jobs)]
    if not there:
        return f"there is no Jobs in that module; {_EXPECTED}"
    return f"did you mean {' or '.join(f'{module.__name__}:{name}' for name in there)}?"
