"""Values that are not to be shown: ``@jobs.task(redact=("card_number",))``. No I/O.

forms    the texts that a value may appear as
text     Redaction: takes the values of one job out of texts
logged   log records of errors whose text is to be cleaned
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqla_jobs.redaction.logged import hiding_row, log_error
from sqla_jobs.redaction.text import MASK, Redaction, cleaning

__all__ = ["MASK", "Redaction", "cleaning", "hiding_row", "log_error", "mask"]


def mask(arguments: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """A copy of a job's arguments to be shown: in place of each that ``names`` has, `MASK`."""
    return {name: MASK if name in names else value for name, value in arguments.items()}
