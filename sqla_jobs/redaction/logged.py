"""Log records of errors whose text is to be cleaned."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final

from sqla_jobs.redaction.text import MASK

log = logging.getLogger("sqla_jobs")

Clean = Callable[[str], str]

_ROW: Final = re.compile(r"Failing row contains \((?s:.*?)\)\.(?=\n|\Z)")


def hiding_row(error: BaseException) -> Clean | None:
    """Takes out of the text of an error the row that the database has refused; None: it shows none.

    For a statement of our own: PostgreSQL quotes the whole row of a job, with its arguments.
    """
    try:
        return _without_row if _ROW.search(str(error)) else None
    except Exception:  # its own __str__
        return None


def _without_row(text: str) -> str:
    return _ROW.sub(f"Failing row contains {MASK}.", text)


def log_error(
    level: int,
    message: str,
    *args: object,
    error: BaseException | None,
    clean: Clean | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Log a message with an error's traceback; of a job that has something to hide, with the cleaned text.

    The record has no ``exc_info`` then, for some handler would show what is in the error: the text is where
    formatters keep that which they made of it, ``exc_text``.

    Parameters:
        args: of the message; cleaned by the caller.
        error: None: there is none to show.
        clean: takes out of a text what is not to be shown; None: there is nothing of it.
    """
    if clean is None or error is None:
        log.log(level, message, *args, exc_info=error, extra=extra, stacklevel=2)
    elif log.isEnabledFor(level):
        file, line, function, _ = log.findCaller(stacklevel=2)
        record = log.makeRecord(log.name, level, file, line, message, args, None, function, extra)
        record.exc_text = _text(error, clean)
        log.handle(record)


def _text(error: BaseException, clean: Clean) -> str:
    try:
        text = "".join(traceback.format_exception(error))
    except Exception:  # its own __str__ and the like
        return MASK
    return clean(text.rstrip("\n"))
