"""Jobs that are finished, until they are pruned; and which rows of other tables keep them."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnClause,
    ColumnElement,
    DateTime,
    Executable,
    Interval,
    bindparam,
    cast,
    column,
    delete,
    func,
    literal_column,
    select,
    table,
    text,
    tuple_,
)

from sqla_jobs.statements.terms import Model, each_id, is_, job_table, now, once, one_of, rows, state
from sqla_jobs.statements.unique import is_free

PRUNE_BATCH: Final = 1000

_MOMENT: Final = DateTime(timezone=True)
_EVER: Final = literal_column("'-infinity'", _MOMENT)
_NEVER: Final = literal_column("'infinity'", _MOMENT)
_FIRST: Final = literal_column("timestamptz '0001-01-02 UTC'", _MOMENT)


@once
def prunable(model: Model, final: str, limit: int) -> Executable:
    """The next jobs that are long in a final state, oldest first: (id, finished_at). Locks nothing.

    Parameters: ``older_than``, how long; ``now``; ``p_from``, the ``finished_at`` to go on from, null at
    first; ``passed``, ids to leave out: those of that very moment which are known already. The index alone
    gives the order: by id too, a million jobs that were cancelled by one statement would be sorted for each
    batch. Index: ``ix_sqla_jobs_prune``, of which it reads ``limit`` rows, also if they are too young or of
    the next state: a range of which the planner knows no bounds it takes for a few rows, and sorts them.
    """
    job = job_table(model)
    start = func.coalesce(bindparam("p_from", type_=_MOMENT), _EVER, type_=_MOMENT)
    oldest = (
        select(job.c.id, job.c.state, job.c.finished_at)
        .where(
            tuple_(job.c.state, job.c.finished_at) >= tuple_(state(final), start),
            job.c.finished_at.is_not(None),
            job.c.id != func.all(bindparam("passed", type_=ARRAY(BigInteger))),
        )
        .order_by(job.c.state, job.c.finished_at)
        .limit(rows(limit))
        .subquery("oldest")
    )
    # Python has no datetime for a time before its calendar.
    finished_at = func.greatest(oldest.c.finished_at, _FIRST, type_=_MOMENT).label("finished_at")
    return select(oldest.c.id, finished_at).where(
        oldest.c.state == state(final), oldest.c.finished_at <= _cutoff()
    )


@once
def prune(model: Model, final: str) -> Executable:
    """Delete those of the jobs ``:ids`` that are still long in a final state; returns their ids.

    One whose unique key is for a window of time stays until that is over.

    Parameters: ``ids``, ``older_than``, ``now``. Locks the rows, passing over those that somebody has locked,
    or is about to refer to. A row that is referred to already makes it fail, or what a foreign key says is
    done. Index: the primary key.
    """
    job = job_table(model)
    each = each_id()
    free = (
        select(job.c.id)
        .where(
            is_(job.c.id, each.c.id),
            # A job may have run again since it was found. In forms that no index serves: see among_claims.
            job.c.state.op("||")(text("''")) == state(final),
            func.coalesce(job.c.finished_at, _NEVER) <= _cutoff(),
            is_free(job),
            *one_of(each),
        )
        .with_for_update(of=job, skip_locked=True)
        .cte("free")
    )
    return delete(job).where(is_(job.c.id, free.c.id)).returning(job.c.id)


def _cutoff() -> ColumnElement[Any]:
    # Not cast by itself, as others are: the server would take it for the moment itself.
    cutoff: ColumnElement[Any] = now() - cast(bindparam("older_than", type_=Interval), Interval)
    return cutoff


class Reference(NamedTuple):
    """A foreign key to the job table that may refuse the deletion of a job."""

    name: str
    """With its schema, quoted."""
    schema: str
    table: str
    column: str | None
    """Null: it is to another column than the id, or to several, or its table is not ours to read."""
    is_own: bool
    """It is the job table's own."""
    deferrable: bool
    deferred: bool
    """Unless a transaction says otherwise."""

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}"


@once
def which_table(model: Model) -> Executable:
    """The oid of the job table: its rows know, whatever its schema is called here. Locks nothing.

    Parameter: ``p_id``, any job. Index: the primary key.
    """
    job = job_table(model)
    return select(literal_column("tableoid")).where(job.c.id == bindparam("p_id", type_=BigInteger))


@once
def references() -> Executable:
    """The foreign keys that may refuse the deletion of a row, as `Reference`. Locks nothing.

    Parameter: ``oid``, the table's. Index: none; ``pg_constraint`` is as long as the database's schema. Of a
    partitioned table the foreign key itself is told, not its copies.
    """
    return text("""
        SELECT format('%I.%I', schema.nspname, fk.conname), schema.nspname, class.relname,
               CASE WHEN has_table_privilege(fk.conrelid, 'SELECT')
                     AND has_schema_privilege(schema.oid, 'USAGE')
                    THEN (SELECT own.attname
                          FROM pg_catalog.pg_attribute AS own, pg_catalog.pg_attribute AS id
                          WHERE own.attrelid = fk.conrelid AND fk.conkey = ARRAY[own.attnum]
                            AND id.attrelid = fk.confrelid AND fk.confkey = ARRAY[id.attnum]
                            AND id.attname = 'id')
               END,
               fk.conrelid = fk.confrelid, fk.condeferrable, fk.condeferred
        FROM pg_catalog.pg_constraint AS fk
        JOIN pg_catalog.pg_class AS class ON class.oid = fk.conrelid
        JOIN pg_catalog.pg_namespace AS schema ON schema.oid = class.relnamespace
        WHERE fk.confrelid = :oid AND fk.contype = 'f' AND fk.conparentid = 0 AND fk.confdeltype IN ('a', 'r')
        ORDER BY fk.oid
    """)


@once
def referred(reference: Reference) -> Executable:
    """Which of the jobs ``:ids`` rows refer to by a foreign key whose column is known. Locks nothing.

    Rows of the job table itself that are among them do not count: they go together. Index: the application's
    own on that column; without one its table is read once, and by the foreign key itself once for each job.
    """
    assert reference.column is not None
    here: ColumnClause[Any] = column(reference.column)
    row = table(reference.table, here, column("id"), schema=reference.schema).alias("referring")
    each = each_id()
    found = select(row.c[reference.column]).where(row.c[reference.column] == each.c.id)
    if reference.is_own:
        found = found.where(row.c.id != func.all(bindparam("ids", type_=ARRAY(BigInteger))))
    return select(each.c.id).where(found.exists())


@once
def check_references(names: tuple[str, ...], deferred: bool) -> Executable:
    """Check these deferrable foreign keys at once from now on, or else at the commit."""
    listed = ", ".join(names).replace(":", r"\:")  # which is no parameter's colon
    return text(f"SET CONSTRAINTS {listed} {'DEFERRED' if deferred else 'IMMEDIATE'}")
