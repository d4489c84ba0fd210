"""All bodies of the tests of the scope once more, as coroutines: on a worker's event loop, and in the
transaction of an AsyncSession. First as they are, by `run_sync`; then the 22 as one writes them there.

What becomes of each is the same as of an ordinary task.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from tests import test_scope_bodies, test_scope_errors, test_scope_savepoints, test_scope_sql
from tests.support.contain import Case, Lab, each
from tests.support.models import Item
from tests.support.server import Database

CASES = [
    *test_scope_bodies.CASES,
    *test_scope_savepoints.CONTAINED,
    *test_scope_savepoints.SAVEPOINT,
    *test_scope_savepoints.TRANSACTION,
    *test_scope_savepoints.OWN,
    *test_scope_sql.CASES,
    *test_scope_errors.CASES,
]

pytestmark = [
    # What SQLAlchemy itself has to say of such code.
    pytest.mark.filterwarnings("ignore:Connection is already established:sqlalchemy.exc.SAWarning"),
    pytest.mark.filterwarnings("ignore:Session's state has been changed on:sqlalchemy.exc.SAWarning"),
    pytest.mark.filterwarnings("ignore:nested transaction already deassociated:sqlalchemy.exc.SAWarning"),
]


NOT_THERE = {
    "begins_by_the_driver": "the context manager is psycopg's own, which has to be awaited",
    "detaches_the_connection": "SQLAlchemy leaves the connection to the garbage collector, which warns of it",
}


@each([case for case in CASES if case.body.__name__ not in NOT_THERE])
def test_as_it_is_on_a_loop(case: Case, lab_database: Database) -> None:
    case.check_by_loop(lab_database)
    test_scope_savepoints.HELD.clear()
    test_scope_sql.HELD.clear()


# -- the 22, as one writes them -----------------------------------------------------------------------


async def a_plain(s: AsyncSession) -> None:
    s.add(Item(name="a"))


async def a_commit(s: AsyncSession, lab: Lab) -> None:
    s.add(Item(name="a"))
    await s.commit()
    lab.look()
    s.add(Item(name="b"))


async def a_commit_raise(s: AsyncSession, lab: Lab) -> None:
    s.add(Item(name="a"))
    await s.commit()
    lab.look()
    raise ValueError("boom")


async def a_rollback(s: AsyncSession, lab: Lab) -> None:
    s.add(Item(name="a"))
    await s.flush()
    await s.rollback()
    lab.look()
    s.add(Item(name="b"))


async def a_close(s: AsyncSession, lab: Lab) -> None:
    s.add(Item(name="a"))
    await s.flush()
    await s.close()
    lab.look()
    s.add(Item(name="b"))


async def a_swallow(s: AsyncSession, lab: Lab) -> None:
    s.add(Item(name="a"))
    await s.flush()
    try:
        s.add(Item(name="dup"))
        await s.flush()
    except IntegrityError:
        pass
    lab.look()


async def a_swallow_more(s: AsyncSession) -> None:
    try:
        s.add(Item(name="dup"))
        await s.flush()
    except IntegrityError:
        pass
    s.add(Item(name="b"))
    await s.flush()


async def a_swallow_rollback(s: AsyncSession, lab: Lab) -> None:
    s.add(Item(name="a"))
    await s.flush()
    try:
        s.add(Item(name="dup"))
        await s.flush()
    except IntegrityError:
        await s.rollback()
    lab.look()
    s.add(Item(name="b"))


async def a_core_err(s: AsyncSession, lab: Lab) -> None:
    s.add(Item(name="a"))
    await s.flush()
    with suppress(DBAPIError):
        await s.execute(text("SELECT 1/0"))
    lab.look()


async def a_nested_ok(s: AsyncSession, lab: Lab) -> None:
    async with s.begin_nested():
        s.add(Item(name="a"))
    try:
        async with s.begin_nested():
            s.add(Item(name="dup"))
            await s.flush()
    except IntegrityError:
        pass
    lab.look()
    s.add(Item(name="b"))


async def a_nested_left_open(s: AsyncSession) -> None:
    await s.begin_nested()
    s.add(Item(name="a"))


async def a_nested_failed_left(s: AsyncSession) -> None:
    await s.begin_nested()
    try:
        s.add(Item(name="dup"))
        await s.flush()
    except IntegrityError:
        pass


async def a_raise(s: AsyncSession) -> None:
    s.add(Item(name="a"))
    await s.flush()
    raise ValueError("boom")


async def a_with_begin(s: AsyncSession, lab: Lab) -> None:
    async with s.begin():
        s.add(Item(name="a"))
    lab.look()


async def a_conn_commit(s: AsyncSession, lab: Lab) -> None:
    s.add(Item(name="a"))
    await s.flush()
    await (await s.connection()).commit()
    lab.look()


async def a_conn_rollback(s: AsyncSession, lab: Lab) -> None:
    s.add(Item(name="a"))
    await s.flush()
    await (await s.connection()).rollback()
    lab.look()


async def a_sql_commit(s: AsyncSession, lab: Lab) -> None:
    s.add(Item(name="a"))
    await s.flush()
    await s.execute(text("COMMIT"))
    lab.look()


async def a_raw_commit(s: AsyncSession, lab: Lab) -> None:
    s.add(Item(name="a"))
    await s.flush()
    raw = await (await s.connection()).get_raw_connection()
    driver: Any = raw.driver_connection
    await driver.commit()
    lab.look()


async def a_autocommit(s: AsyncSession, lab: Lab) -> None:
    await s.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
    lab.look()


async def a_invalidate(s: AsyncSession, lab: Lab) -> None:
    s.add(Item(name="a"))
    await s.flush()
    await s.invalidate()
    lab.look()


async def a_expired(s: AsyncSession, lab: Lab) -> None:
    item = Item(name="a")
    s.add(item)
    await s.commit()
    lab.look()
    await s.refresh(item)
    assert item.name == "a"
    assert item.id


async def a_other_tx(_: AsyncSession, lab: Lab) -> None:
    engine = create_async_engine(lab.database.url)
    async with AsyncSession(engine) as other, other.begin():
        other.add(Item(name="independent"))
    await engine.dispose()
    raise ValueError("boom")


def _same(case: Case) -> Case:
    """What becomes of an ordinary body, for the coroutine of that name."""
    body = globals()["a" + case.body.__name__[1:]]
    return Case(body, case.state, case.items, case.error, case.escapes, case.during, case.once)


COROUTINES = [_same(case) for case in test_scope_bodies.CASES]


@each(COROUTINES)
def test_on_a_loop(case: Case, lab_database: Database) -> None:
    case.check_by_loop(lab_database)


@each(COROUTINES)
def test_in_the_callers_transaction(case: Case, lab_database: Database) -> None:
    case.check_by_work_once(lab_database, is_async=True)


def test_there_are_22_coroutines() -> None:
    assert len({name for name in globals() if name.startswith("a_")}) == len(COROUTINES) == 22
