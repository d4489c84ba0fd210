"""The pool of a worker that the command line starts."""

from __future__ import annotations

import time
from typing import Any, Final

from sqlalchemy import Engine, event
from sqlalchemy.exc import InvalidatePoolError

PAUSE: Final = 1.0
"""Seconds that a connection may have been in the pool and be taken for alive."""


def ping_after_a_pause(engine: Engine) -> None:
    """Ask a connection whether it is alive before it is used, if it has not been used for a second.

    ``pool_pre_ping`` asks each time. For a worker that is busy, whose every job takes a connection, that is
    a tenth of all it does; and what an outage has killed has waited in the pool as long as the outage took.
    The way of doing it is SQLAlchemy's own: https://docs.sqlalchemy.org/en/21/core/pooling.html, "Custom /
    Legacy Pessimistic Ping".
    """
    used_at = "sqla_jobs_used_at"
    dialect = engine.dialect

    def see(_: Any, record: Any) -> None:
        record.info[used_at] = time.monotonic()

    def ask(driver: Any, record: Any, _: Any) -> None:
        if time.monotonic() < record.info.get(used_at, 0.0) + PAUSE:
            return
        try:
            dialect.do_ping(driver)
        except dialect.loaded_dbapi.Error as error:
            if not dialect.is_disconnect(error, driver, None):
                raise
            # The pool opens another in its place, and forgets all that were made before.
            raise InvalidatePoolError from error

    event.listen(engine, "connect", see)
    event.listen(engine, "checkin", see)
    event.listen(engine, "checkout", ask)
