"""What is due: promote scheduled jobs, and say when to look again."""

from __future__ import annotations

import datetime as dt

from sqlalchemy.orm import Session

from sqla_jobs import lifecycle
from sqla_jobs.models import JobMixin


def tick(
    session: Session, model: type[JobMixin], *, now: dt.datetime | None = None
) -> tuple[int, dt.timedelta | None]:
    """Promote what is due; returns how many jobs, and the time until the next one is (None: none waits).

    At most 1,000 are promoted: while the time returned is not positive, tick again in a new transaction.
    """
    promoted = lifecycle.promote(session, model, now=now)
    return promoted, lifecycle.next_due(session, model, now=now)
