"""The library's own task, which deletes what finished long ago. Its schedule is like any other."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy.orm import Session

from sqla_jobs import lifecycle
from sqla_jobs.cron import Every
from sqla_jobs.errors import Snooze
from sqla_jobs.models import JobMixin
from sqla_jobs.outcome import JobState
from sqla_jobs.policy import RetryPolicy
from sqla_jobs.tasks.current import current_job
from sqla_jobs.tasks.options import Options
from sqla_jobs.tasks.registry import Registry

log = logging.getLogger("sqla_jobs")

PRUNE: Final = "sqla_jobs.prune"
"""The name of the task, and of its schedule."""
OWN_QUEUE: Final = "sqla_jobs"
"""The queue of the library's own jobs, which every worker serves last."""
OPTIONS: Final = Options(queue=OWN_QUEUE, priority=-32_768)
RETRY: Final = RetryPolicy(max_attempts=3)
"""In an hour there is another."""
INTERVAL: Final = dt.timedelta(hours=1)
KEPT: Final = dt.timedelta(days=7)

_BATCHES: Final = 10
"""After so many its thread is free for the application's own jobs: they come first, and this one again."""


def pruning(model: type[JobMixin]) -> Callable[..., Snooze | None]:
    """The task that prunes the jobs of a model."""

    def prune(
        session: Session,
        older_than: dt.timedelta | None = KEPT,
        failed_older_than: dt.timedelta | None = None,
    ) -> Snooze | None:
        """Delete finished jobs, in a transaction for each 1,000; killed in between, it has lost nothing.

        Parameters:
            older_than: how long succeeded and cancelled jobs are kept; None: for ever.
            failed_older_than: how long failed jobs are; likewise.
        """
        ages = {
            JobState.SUCCEEDED: older_than,
            JobState.CANCELLED: older_than,
            JobState.FAILED: failed_older_than,
        }
        asked = {
            state: lifecycle.check_age(state.value, age) for state, age in ages.items() if age is not None
        }
        deleted = batches = 0
        for gone in lifecycle.prune(session, model, asked):
            current_job().checkpoint(session)
            deleted += gone
            # Not after those of which nothing may be deleted: it begins with them again.
            batches += gone > 0
            if batches == _BATCHES:
                break
        log.info("%s finished job(s) deleted", f"{deleted:,}", extra={"deleted": deleted})
        return Snooze(dt.timedelta(0)) if batches == _BATCHES else None

    return prune


def keep_house(
    registry: Registry[Any], after: dt.timedelta | None, failed_after: dt.timedelta | None
) -> None:
    """Register the task, and its schedule.

    Parameters:
        after: how long succeeded and cancelled jobs are kept; None: for ever.
        failed_after: how long failed jobs are; likewise. If nothing is deleted, the schedule is switched off.

    Raises:
        InvalidOption: it is no time, or below zero.
    """
    ages = {"prune_after": after, "prune_failed_after": failed_after}
    asked = [lifecycle.check_age(name, age) for name, age in ages.items() if age is not None]
    task = registry.register(pruning(registry.model), name=PRUNE, options=OPTIONS, retry=RETRY)
    registry.schedule(
        task,
        Every(INTERVAL) if asked else None,
        kwargs={"older_than": after, "failed_older_than": failed_after},
        overlap="skip",
    )
