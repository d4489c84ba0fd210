"""The bounds of a transaction that somebody waits for."""

from __future__ import annotations

import datetime as dt

from sqlalchemy.orm import Session

from sqla_jobs.lifecycle.sent import Model, execute
from sqla_jobs.statements.patience import bound_transaction as bound


def bound_transaction(session: Session, model: Model, limit: dt.timedelta, *, read_only: bool) -> dt.datetime:
    """Let no statement of the Session's transaction take longer, nor wait for a lock half as long.

    What is beyond it fails with SQLSTATE 57014 or 55P03. Returns the database's time.

    Parameters:
        read_only: the server refuses whatever would write, until the transaction ends.
    """
    milliseconds = max(1, int(limit / dt.timedelta(milliseconds=1)))
    found = execute(
        session,
        model,
        bound(),
        p_limit=str(milliseconds),
        p_lock=str(max(1, milliseconds // 2)),
        p_read_only=read_only,
    )
    now: dt.datetime = found.scalar()
    return now
