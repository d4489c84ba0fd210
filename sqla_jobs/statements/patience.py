"""How long a statement may take, for who only looks, or acts while somebody watches."""

from __future__ import annotations

from sqlalchemy import Executable, Text, bindparam, func, literal_column, select

from sqla_jobs.statements.terms import once


@once
def limit_time() -> Executable:
    """Until the transaction ends, let the server end each statement that takes longer. Locks nothing.

    Parameter: ``p_time``, a text such as ``500ms``. Waiting for a lock counts.
    """
    longest = bindparam("p_time", type_=Text)
    return select(func.set_config(literal_column("'statement_timeout'"), longest, literal_column("true")))
