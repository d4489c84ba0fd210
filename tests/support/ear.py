"""A connection of a test's own that hears what workers are told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import psycopg
from psycopg import sql

from tests.support.server import Database

_END = "nothing more"
_numbers = count()


class Ear:
    """Listens on one channel."""

    def __init__(self, connection: psycopg.Connection[Any], channel: str) -> None:
        self._connection = connection
        self._channel = channel
        connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))

    def heard(self) -> list[str]:
        """What was told by transactions that are committed, since the last time that this was asked."""
        # They are told in the order of their commits, so that whatever comes before our own is all there is.
        end = f"{_END} {next(_numbers)}"
        self._connection.execute("SELECT pg_notify(%s, %s)", (self._channel, end))
        payloads: list[str] = []
        for notify in self._connection.notifies(timeout=30):
            if notify.payload == end:
                return payloads
            payloads.append(notify.payload)
        raise AssertionError(f"the server tells nothing: {payloads}")

    def next(self) -> str:
        """The next payload, waited for; of somebody who tells it later."""
        for notify in self._connection.notifies(timeout=30, stop_after=1):
            return notify.payload
        raise AssertionError("nothing was told")


@contextmanager
def ear(database: Database, channel: str = "sqla_jobs") -> Iterator[Ear]:
    with psycopg.connect(database.server.libpq(database.name), autocommit=True) as connection:
        yield Ear(connection, channel)
