"""Values that are not to be shown: ``@jobs.task(redact=("card_number",))``. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

MASK: Final = "[redacted]"
"""What stands for a value that is not shown."""


def mask(arguments: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """A copy of a job's arguments to be shown: in place of each that ``names`` has, `MASK`."""
    return {name: MASK if name in names else value for name, value in arguments.items()}
