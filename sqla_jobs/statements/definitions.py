"""Schedules as the code defines them: compared with their rows, which may be newer, or edited."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    ColumnElement,
    DateTime,
    Executable,
    Float,
    FromClause,
    Integer,
    Interval,
    SmallInteger,
    Text,
    bindparam,
    case,
    cast,
    delete,
    exists,
    false,
    func,
    literal_column,
    not_,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert

from sqla_jobs.statements.liveness import lives
from sqla_jobs.statements.terms import Model, finite, now, once, schedule_table, worker_table

DEFINED = (
    "task", "arguments", "queue", "priority", "max_attempts", "timeout", "cron", "timezone", "every",
    "jitter", "catch_up", "overlap",
)  # fmt: skip
"""The columns that a definition says and data may say otherwise, beside ``enabled``, which is a switch."""

_SPANS = ("timeout", "every", "jitter")
_TYPES: dict[str, Any] = {
    "arguments": JSONB, "priority": SmallInteger, "max_attempts": Integer, "timeout": Interval,
    "every": Interval, "jitter": Interval, "enabled": Boolean, "definition": JSONB(none_as_null=True),
    "next_run_at": DateTime(timezone=True),
}  # fmt: skip


@once
def standing_schedules(model: Model, lock: bool, wait: bool = True) -> Executable:
    """The schedules of ``names``, and whether they are as their ``definition`` has written them.

    Parameters: ``names``, ``now``. Index: ``uq_sqla_jobs_schedules_name``. Locks nothing; with ``lock`` the
    rows, in the order of their names, so that two who want the same ones do not wait for each other. Without
    ``wait`` those that somebody has locked are passed over.
    """
    row = schedule_table(model)
    found = (
        select(
            row.c.id,
            row.c.name,
            row.c.definition,
            row.c.enabled,
            row.c.cron,
            row.c.timezone,
            func.extract("epoch", row.c.every).cast(Float).label("every"),
            case((row.c.next_run_at.is_not(None), finite(row.c.next_run_at))).label("next_run_at"),
            _edited(row).label("edited"),
            now().label("now"),
        )
        .where(row.c.name == func.any(bindparam("names", type_=ARRAY(Text))))
        .order_by(row.c.name)
    )
    return found.with_for_update(key_share=True, skip_locked=not wait) if lock else found


def _edited(row: FromClause) -> ColumnElement[bool]:
    """Whether a column is not what the definition has written, which may be by an older version's columns."""
    of_row = func.jsonb_build_object(
        *(
            each
            for name in DEFINED
            for each in (
                literal_column(f"'{name}'", Text),
                func.extract("epoch", row.c[name]) if name in _SPANS else row.c[name],
            )
        ),
        type_=JSONB,
    )
    written = (
        func.jsonb_each(row.c.definition["values"]).table_valued("key", "value").render_derived("written")
    )
    differs = of_row.op("->")(written.c.key).is_distinct_from(written.c.value)
    return exists(select(literal_column("1")).select_from(written).where(differs))


@once
def clock() -> Executable:
    """The time by the database's clock. Parameter: ``now``. Locks nothing."""
    return select(now())


@once
def asserted(model: Model) -> Executable:
    """Which definitions of ``names`` living workers have: names and fingerprints. Locks nothing.

    Parameter: ``names``. A few rows, so no index.
    """
    worker = worker_table(model)
    each = func.jsonb_each_text(worker.c.schedules).table_valued("key", "value").render_derived("each")
    return (
        select(each.c.key, each.c.value)
        .select_from(worker.join(each, true()))
        .where(lives(worker), each.c.key == func.any(bindparam("names", type_=ARRAY(Text))))
        .distinct()
    )


def _values() -> dict[str, Any]:
    names = (*DEFINED, "enabled", "definition", "next_run_at")
    return {name: bindparam(f"p_{name}", type_=_TYPES.get(name, Text)) for name in names}


@once
def define(model: Model) -> Executable:
    """A new schedule of the code's; returns its id, or nothing: somebody has just made one of this name.

    Parameters: ``p_name`` and the columns, ``p_<column>``. Waits for whoever inserts the same name.
    """
    row = schedule_table(model)
    made = insert(row).values(name=bindparam("p_name", type_=Text), **_values())
    return made.on_conflict_do_nothing(index_elements=[row.c.name]).returning(row.c.id)


@once
def redefine(model: Model) -> Executable:
    """Write a definition to the schedule ``p_id``. Parameters: the columns, and ``now``. Locks the row."""
    row = schedule_table(model)
    mine = row.c.id == bindparam("p_id", type_=BigInteger)
    return update(row).where(mine).values(**_values(), updated_at=now())


@once
def undefine(model: Model) -> Executable:
    """Remove the schedules ``ids``; their jobs stay. Locks the rows. Index: the primary key."""
    row = schedule_table(model)
    return delete(row).where(row.c.id == func.any(bindparam("ids", type_=ARRAY(BigInteger))))


@once
def disable_absent(model: Model) -> Executable:
    """Switch off what an application has defined and does not define any more; returns the names.

    Its own are those of its ``tasks``, and those whose definition is from one of its ``packages``. One that
    a living worker has in its code is not absent: that may be a newer process than this.

    Parameters: ``names`` (that are defined), ``tasks``, ``packages``, ``now``. Locks the rows. The table is
    small: no index.
    """
    row, worker = schedule_table(model), worker_table(model)

    def among(name: str) -> ColumnElement[Any]:
        return func.any(bindparam(name, type_=ARRAY(Text)))

    held = exists(select(worker.c.id).where(lives(worker), worker.c.schedules.has_key(row.c.name)))
    absent = cast(literal_column("""'{"absent": true}'"""), JSONB)
    return (
        update(row)
        .where(
            row.c.enabled,
            row.c.definition.is_not(None),
            or_(row.c.task == among("tasks"), row.c.definition["package"].astext == among("packages")),
            row.c.name != func.all(bindparam("names", type_=ARRAY(Text))),
            not_(held),
        )
        .values(enabled=false(), definition=row.c.definition.op("||")(absent), updated_at=now())
        .returning(row.c.name)
    )
