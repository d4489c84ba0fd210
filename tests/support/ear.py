"""A connection of a test's own that hears what workers are told."""

from __future__ import annotations

import select
import time
from collections import deque
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
        self._payloads: deque[str] = deque()
        # What comes with the answer to a statement; older drivers keep it for nobody else.
        connection.add_notify_handler(lambda notify: self._payloads.append(notify.payload))
        connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))

    def heard(self) -> list[str]:
        """What was told by transactions that are committed, since the last time that this was asked."""
        # They are told in the order of their commits, so that whatever comes before our own is all there is.
        end = f"{_END} {next(_numbers)}"
        self._connection.execute("SELECT pg_notify(%s, %s)", (self._channel, end))
        payloads = []
        while (payload := self.next()) != end:
            payloads.append(payload)
        return payloads

    def next(self) -> str:
        """The next payload, waited for; of somebody who tells it later."""
        deadline = time.monotonic() + 30
        pgconn = self._connection.pgconn
        self._take()  # what a statement has read beyond its answer
        while not self._payloads:
            readable, _, _ = select.select([pgconn.socket], [], [], max(0.0, deadline - time.monotonic()))
            assert readable, "nothing was told"
            pgconn.consume_input()
            self._take()
        return self._payloads.popleft()

    def _take(self) -> None:
        while (notify := self._connection.pgconn.notifies()) is not None:
            self._payloads.append(notify.extra.decode())


@contextmanager
def ear(database: Database, channel: str = "sqla_jobs") -> Iterator[Ear]:
    """A connection that listens on a channel."""
    with psycopg.connect(database.server.libpq(database.name), autocommit=True) as connection:
        yield Ear(connection, channel)
