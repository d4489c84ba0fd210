"""Notifications: what is told on the channel of a job table, and the connection that listens there."""

from __future__ import annotations

import hashlib
from typing import Final
from weakref import WeakKeyDictionary

from sqlalchemy import ARRAY, Dialect, Executable, Text, bindparam, case, column, func, select, table, text

from sqla_jobs.statements.terms import Model, job_table, once

CHANNEL: Final = "sqla_jobs"
_LONGEST: Final = 63


@once
def channel(model: Model) -> str:
    """The channel of a job table: ``sqla_jobs``, or ``sqla_jobs_<schema>`` if the model names a schema.

    The server refuses a name of more than 63 bytes: such a schema is told by its MD5.
    """
    return channel_in(job_table(model).schema)


def channel_in(schema: str | None) -> str:
    """The channel of the job table in a schema."""
    if schema is None:
        return CHANNEL
    name = f"{CHANNEL}_{schema}"
    if len(name.encode()) > _LONGEST:
        name = f"{CHANNEL}_{hashlib.md5(schema.encode(), usedforsecurity=False).hexdigest()}"
    return name


@once
def notify() -> Executable:
    """Notify ``channels`` of ``payloads``, two lists of the same length; delivered at the commit.

    Locks nothing until the commit, which takes a lock on the server's whole queue of notifications. The
    server itself drops what is the same twice in a transaction.
    """
    told = (
        func.unnest(bindparam("channels", type_=ARRAY(Text)), bindparam("payloads", type_=ARRAY(Text)))
        .table_valued("channel", "payload")
        .render_derived("told")
    )
    return select(func.pg_notify(told.c.channel, told.c.payload))


def notify_once(dialect: Dialect) -> str:
    """`notify` of one ``payload`` on one ``channel``, as the driver takes it."""
    if dialect not in _notify_once:
        told = func.pg_notify(bindparam("channel", type_=Text), bindparam("payload", type_=Text))
        _notify_once[dialect] = str(select(told).compile(dialect=dialect))
    return _notify_once[dialect]


_notify_once: WeakKeyDictionary[Dialect, str] = WeakKeyDictionary()


@once
def listen(model: Model) -> Executable:
    """Listen on the channel of a job table, for as long as this connection lives."""
    quoted = channel(model).replace('"', '""')
    return text('LISTEN "{}"'.format(quoted.replace(":", r"\:")))  # which is no parameter's colon


@once
def keep_alive() -> Executable:
    """Keep an idle connection for as long as its client is there, and no longer.

    The server notices within half a minute that the machine has vanished; until then it would keep its
    locks. On a Unix socket the first three mean nothing, and older servers do not know the last.
    """
    settings = {
        "tcp_keepalives_idle": "15",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
        "idle_session_timeout": "0",
    }
    known = table("pg_settings", column("name", Text), schema="pg_catalog")
    value = case(settings, value=known.c.name)
    return select(func.set_config(known.c.name, value, False)).where(known.c.name.in_(settings))


@once
def backend() -> Executable:
    """The server process that answers: a pooler between us and it says another one."""
    return select(func.pg_backend_pid())
