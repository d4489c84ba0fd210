"""Fast-lane jobs in tests: groups as large as they can be, however slow the machine is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Final

import pytest

from sqla_jobs.runner import Pace, group
from sqla_jobs.worker import hands

FAST: Final[dict[str, Any]] = {"group_commit": 50, "timeout": timedelta(minutes=1)}
"""Options of a task whose jobs share a transaction, and are not interrupted on a busy machine."""


@contextmanager
def unhurried() -> Iterator[None]:
    """Groups that have all the time, from the first one on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group, "BUDGET", 600.0)
        patch.setattr(hands, "Pace", partial(Pace, size=50))
        yield
