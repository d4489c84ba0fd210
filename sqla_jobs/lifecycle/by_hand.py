"""The verbs of whoever looks after schedules: run one now, switch it on or off."""

from __future__ import annotations

import datetime as dt

from sqlalchemy.orm import Session

from sqla_jobs import statements, wakeup
from sqla_jobs.lifecycle.sent import Model, execute


def run_schedule(
    session: Session,
    model: Model,
    name: str,
    *,
    queue: str | None = None,
    priority: int | None = None,
    meta: str | None = None,
    now: dt.datetime | None = None,
) -> tuple[int, str] | None:
    """Make a job of a schedule now, beside its ticks; returns its id and queue (None: there is none).

    Parameters:
        queue, priority: of its task, for a schedule that says none; None: as those of its last job.
        meta: of a job of its task, JSON; None: what its last job redacts.
    """
    row = execute(
        session, model, statements.run_schedule(model),
        p_name=name, p_queue=queue, p_priority=priority, p_meta=meta, now=now,
    ).first()  # fmt: skip
    if row is None:
        return None
    wakeup.announce(session, model, [wakeup.queued(row.queue)])
    return int(row.id), str(row.queue)


def switch_schedule(
    session: Session, model: Model, name: str, *, enabled: bool, now: dt.datetime | None = None
) -> bool:
    """Switch a schedule on or off; False: there is none of that name.

    One that comes back does not make up for what was due meanwhile.
    """
    statement = statements.switch_schedule(model)
    found = execute(session, model, statement, p_name=name, p_enabled=enabled, now=now).first()
    if found is not None:
        wakeup.announce(session, model, [wakeup.SCHEDULED])
    return found is not None
