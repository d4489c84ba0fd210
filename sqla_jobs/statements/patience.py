"""How long a statement may take, for who only looks, or acts while somebody watches."""

from __future__ import annotations

from sqlalchemy import Boolean, Executable, Text, bindparam, cast, func, literal_column, select

from sqla_jobs.statements.terms import once


@once
def limit_time() -> Executable:
    """Until the transaction ends, let the server end each statement that takes longer. Locks nothing.

    Parameter: ``p_time``, a text such as ``500ms``. Waiting for a lock counts.
    """
    longest = bindparam("p_time", type_=Text)
    return select(func.set_config(literal_column("'statement_timeout'"), longest, literal_column("true")))


@once
def bound_transaction() -> Executable:
    """Bound the statements of this transaction and their waits for locks, make it read-only or not; the time.

    Parameters: ``p_limit``, milliseconds; ``p_lock``, likewise; ``p_read_only``. All three end with the
    transaction. Returns the database's time first. Locks nothing and reads no table.
    """
    settings = {
        "statement_timeout": bindparam("p_limit", type_=Text),
        "lock_timeout": bindparam("p_lock", type_=Text),
        "transaction_read_only": cast(bindparam("p_read_only", type_=Boolean), Text),
    }
    return select(
        func.statement_timestamp(), *[func.set_config(name, value, True) for name, value in settings.items()]
    )
