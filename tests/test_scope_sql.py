"""What jobs send as SQL: whatever ends the transaction is refused, and nothing else is.

SQL that goes by the driver's own cursor is not seen before it is sent. If it ended the savepoint or the
transaction that is noticed when the job ends; what it committed stays.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from sqla_jobs.scope.sql import ends_transaction
from tests.support.contain import Case, Lab, add, each
from tests.support.models import Item
from tests.support.server import Database

ESCAPED = "JobEscaped"
SWALLOWED = "PendingRollbackError"
HELD: list[Any] = []  # what jobs keep beyond their end

# -- told apart --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "COMMIT",
        "commit;",
        "  \n\tCommit Work",
        "COMMIT AND CHAIN",
        "COMMIT PREPARED 'x'",
        "END",
        "END TRANSACTION",
        "ABORT",
        "ROLLBACK",
        "ROLLBACK AND CHAIN",
        "ROLLBACK WORK",
        "PREPARE TRANSACTION 'x'",
        "prepare  transaction 'x'",
        "SELECT 1; COMMIT",
        "SELECT 1;COMMIT; SELECT 2",
        "-- why\nCOMMIT",
        "--\n-- END\n  END",
        "/* why */ COMMIT",
        "/**/COMMIT",
        "/* a /* nested */ comment */ COMMIT",
        "/* ' */ COMMIT; /* ' */",
        "SELECT ';'; COMMIT",
        "SELECT 'it''s'; COMMIT",
        r"SELECT E'it\'s'; COMMIT; SELECT ''",
        r"SELECT e'\\'; COMMIT; SELECT ''",
        r"SELECT '\'; COMMIT; SELECT ''",
        "SELECT date'2024-01-01'; COMMIT; SELECT ''",
        'SELECT 1 AS """"; COMMIT',
        "SELECT $$a$$; COMMIT; SELECT $$b$$",
        "SELECT $a$ $$ $a$; COMMIT; SELECT $$ $$",
        "SELECT x$a$ FROM t; COMMIT; SELECT y$a$ FROM t",
        "ROLLBACK /* TO SAVEPOINT x */",
        "CREATE TABLE t (id int); COMMIT",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END; COMMIT",
    ],
)
def test_ends_the_transaction(sql: str) -> None:
    assert ends_transaction(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "SELECT 1",
        "SELECT 'COMMIT'",
        "SELECT '; COMMIT; '",
        "SELECT 'it''s; COMMIT'",
        r"SELECT E'it\'s; COMMIT; '",
        "SELECT $$; COMMIT; $$",
        "SELECT $body$ $$; COMMIT; $$ $body$",
        'SELECT 1 AS "; COMMIT; "',
        "SELECT 1 -- ; COMMIT",
        "SELECT 1 /* ; COMMIT */",
        "SELECT 1 /* /* */ ; COMMIT */",
        "SELECT CASE WHEN true THEN 1 END",
        'SELECT commit, "end", rollback FROM work',
        "UPDATE t SET commit = 1",
        "SELECT commit.id FROM commit",
        "SELECT 1; SELECT rollback FROM t",
        "ROLLBACK TO SAVEPOINT x",
        "rollback to x",
        "ROLLBACK WORK TO SAVEPOINT x",
        "ROLLBACK TRANSACTION TO x",
        "ROLLBACK /* not all */ TO x",
        "SAVEPOINT x",
        "RELEASE SAVEPOINT x",
        "PREPARE query AS SELECT 1",
        "DO $$ BEGIN COMMIT; END $$",  # refused by the server
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; END",
        "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS 'BEGIN PERFORM 1; END'",
        "BEGIN",  # a warning of the server's, no more
    ],
)
def test_does_not_end_the_transaction(sql: str) -> None:
    assert not ends_transaction(sql)


# -- sent through the Session ------------------------------------------------------------------------


def sends(sql: str) -> Callable[[Session], None]:
    def body(s: Session) -> None:
        add(s, "a")
        s.execute(text(sql))
        add(s, "b")

    body.__name__ = sql
    return body


BOTH = {"a", "b"}
REFUSED_BY_US = [
    Case(sends(sql), "failed", error=ESCAPED)
    for sql in (
        "ROLLBACK",
        "-- why\nCOMMIT",
        "SELECT 1; COMMIT",
        "COMMIT AND CHAIN",
        "PREPARE TRANSACTION 'x'",
        "RELEASE SAVEPOINT sa_savepoint_1",
        "RELEASE sa_savepoint_1; SAVEPOINT sa_savepoint_1",
    )
]
REFUSED_BY_THE_SERVER = [
    Case(sends("DO $$ BEGIN COMMIT; END $$"), "failed", error="InternalError"),
    Case(sends("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"), "failed", error="InternalError"),
    Case(sends("SET TRANSACTION READ ONLY"), "failed", error="InternalError"),
    Case(sends("ROLLBACK TO SAVEPOINT nowhere"), "failed", error="OperationalError"),
    Case(sends("DISCARD ALL"), "failed", error="InternalError"),
]
SENT = [
    Case(sends(sql), "succeeded", BOTH)
    for sql in (
        "SELECT 'it''s; COMMIT'",
        "SELECT $$; COMMIT; $$",
        "SELECT E'\\'; COMMIT; --'",
        "BEGIN",
        "SET LOCAL work_mem = '1MB'",
        "SAVEPOINT mine",
        "SAVEPOINT mine; RELEASE SAVEPOINT mine",
    )
] + [Case(sends("DO $$ BEGIN INSERT INTO items (name) VALUES ('c'); END $$"), "succeeded", BOTH | {"c"})]

# -- sent by the driver's own cursor -----------------------------------------------------------------


def driver(s: Session) -> Any:
    return s.connection().connection.dbapi_connection


def ours(s: Session) -> str:
    return s.connection().get_nested_transaction()._savepoint


def drives(sql: str, *, then: str = "b", raises: bool = False) -> Callable[[Session], None]:
    def body(s: Session) -> None:
        add(s, "a")
        driver(s).execute(sql.format(ours=ours(s)))
        if then:
            add(s, then)
        if raises:
            raise ValueError

    body.__name__ = f"{sql} {then}{' raises' if raises else ''}"
    return body


def commits_by_cursor_then_uses_the_session(s: Session) -> None:
    add(s, "a")
    driver(s).execute("COMMIT")
    for step in (s.commit, s.rollback, lambda: add(s, "b")):
        with suppress(SQLAlchemyError):
            step()


def shadows_our_savepoint(s: Session) -> None:
    add(s, "a")
    driver(s).execute(f"SAVEPOINT {ours(s)}")
    add(s, "b")


def shadows_our_savepoint_and_raises(s: Session) -> None:
    shadows_our_savepoint(s)
    raise ValueError


def catches_an_error_of_the_cursor(s: Session) -> None:
    add(s, "a")
    with suppress(Exception):
        driver(s).execute("SELECT 1/0")


def begins_by_the_driver(s: Session) -> None:
    with driver(s).transaction():
        driver(s).execute("INSERT INTO items (name) VALUES ('a')")
    with driver(s).cursor().copy("COPY items (name) FROM STDIN") as copy:
        copy.write_row(("b",))


def switches_the_driver_to_autocommit(s: Session) -> None:
    add(s, "a")
    driver(s).autocommit = True


def closes_the_driver(s: Session) -> None:
    add(s, "a")
    driver(s).close()


def leaves_a_query_running(s: Session) -> None:
    add(s, "a")
    HELD.append(driver(s).cursor().stream("SELECT generate_series(1, 100000)"))
    next(HELD[-1])


# What is committed unseen is there when the job runs again, by itself.
COMMITTED: dict[str, Any] = {"group": ("failed", {"a"}, "IntegrityError"), "commits_others": True}
DRIVEN = [
    Case(drives("COMMIT", then=""), "failed", {"a"}, ESCAPED, escapes=True, **COMMITTED),
    Case(drives("COMMIT"), "failed", {"a"}, ESCAPED, escapes=True, **COMMITTED),
    Case(drives("COMMIT", raises=True), "failed", {"a"}, ESCAPED, escapes=True, **COMMITTED),
    Case(drives("COMMIT AND CHAIN"), "failed", {"a"}, ESCAPED, escapes=True, **COMMITTED),
    Case(commits_by_cursor_then_uses_the_session, "failed", {"a"}, ESCAPED, escapes=True, **COMMITTED),
    Case(drives("ROLLBACK", then=""), "failed", error=ESCAPED, escapes=True),
    Case(drives("ROLLBACK"), "failed", error=ESCAPED, escapes=True),
    Case(drives("ROLLBACK; BEGIN"), "failed", error=ESCAPED, escapes=True),
    Case(drives("RELEASE {ours}"), "failed", error=ESCAPED, escapes=True),
    Case(drives("RELEASE {ours}", raises=True), "failed", error=ESCAPED, escapes=True),
    Case(drives("RELEASE {ours}; SAVEPOINT {ours}", then=""), "succeeded", {"a"}),
    Case(drives("ROLLBACK TO {ours}"), "succeeded", {"b"}),
    Case(drives("ROLLBACK TO {ours}", raises=True), "failed", error="ValueError"),
    Case(shadows_our_savepoint, "succeeded", BOTH),
    Case(catches_an_error_of_the_cursor, "failed", error=SWALLOWED),
    Case(begins_by_the_driver, "succeeded", BOTH),
    Case(switches_the_driver_to_autocommit, "failed", error="ProgrammingError"),
    Case(closes_the_driver, "failed", error="OperationalError", escapes=True),
]

# -- isolation level and other options ---------------------------------------------------------------


def asks_for_a_level_first(s: Session) -> None:
    s.connection(execution_options={"isolation_level": "SERIALIZABLE"})
    add(s, "a")


def asks_for_a_level_and_goes_on(s: Session) -> None:
    with suppress(Exception):
        s.connection(execution_options={"isolation_level": "SERIALIZABLE"})
    with suppress(Exception):
        add(s, "a")


def asks_for_autocommit_and_takes_it_from_the_root(s: Session) -> None:
    with suppress(Exception):
        s.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
    root: Any = s.get_transaction()
    with suppress(Exception):
        root.connection(None).execute(insert(Item).values(name="a"))
    raise ValueError


def asks_for_a_level_later(s: Session) -> None:
    add(s, "a")
    s.connection(execution_options={"isolation_level": "SERIALIZABLE"})


def asks_the_connection_for_autocommit(s: Session) -> None:
    add(s, "a")
    s.connection().execution_options(isolation_level="AUTOCOMMIT")


def streams_on_the_connection(s: Session) -> None:
    add(s, "a")
    s.connection().execution_options(stream_results=True)
    s.execute(select(Item)).all()


def translates_the_schema(s: Session) -> None:
    add(s, "a")
    s.connection().execution_options(schema_translate_map={None: "nowhere"})


OPTIONS = [
    # A caller's connection is established already: SQLAlchemy warns, and leaves the level as it is.
    Case(asks_for_a_level_first, "failed", error=ESCAPED, once=("succeeded", {"a"}, None)),
    Case(asks_for_a_level_and_goes_on, "failed", error=ESCAPED, once=("succeeded", {"a"}, None)),
    Case(
        asks_for_autocommit_and_takes_it_from_the_root,
        "failed",
        error=ESCAPED,
        once=("failed", set(), "ValueError"),
    ),
    Case(asks_for_a_level_later, "succeeded", {"a"}),
    Case(asks_the_connection_for_autocommit, "failed", error="InvalidRequestError"),
    Case(streams_on_the_connection, "succeeded", {"a"}),
    Case(translates_the_schema, "succeeded", {"a"}),
]

CASES = REFUSED_BY_US + REFUSED_BY_THE_SERVER + SENT + DRIVEN + OPTIONS
pytestmark = pytest.mark.filterwarnings("ignore:Connection is already established:sqlalchemy.exc.SAWarning")


@each(CASES)
def test_run_by_a_worker(case: Case, lab_database: Database) -> None:
    case.check_by_worker(lab_database)
    HELD.clear()


@each(CASES)
def test_run_in_the_callers_transaction(case: Case, lab_database: Database) -> None:
    case.check_by_work_once(lab_database)
    HELD.clear()


@pytest.mark.timeout(20)
def test_a_query_left_running_is_not_waited_for(lab_database: Database) -> None:
    """It holds the driver's lock: whatever is sent next would wait for it in this very thread, for ever."""
    case = Case(leaves_a_query_running, "failed", error=ESCAPED, escapes=True)
    case.check_by_work_once(lab_database)
    case.check_by_worker(lab_database)
    HELD.clear()


def test_a_worker_leaves_nothing_of_a_failed_job_even_if_it_shadows_our_savepoint(
    lab_database: Database,
) -> None:
    """In a caller's transaction ROLLBACK TO goes to the job's savepoint; a worker rolls back all of it."""
    run = Lab(lab_database).by_worker(shadows_our_savepoint_and_raises)
    assert (run.state, run.items, run.error) == ("failed", set(), "ValueError")


def test_a_finish_that_the_job_has_spoilt_takes_its_writes_along(lab_database: Database) -> None:
    def hides_the_job_table(s: Session) -> None:
        add(s, "a")
        s.execute(text("SET LOCAL search_path = pg_catalog"))

    run = Lab(lab_database).by_worker(hides_the_job_table)
    assert (run.state, run.items, run.error) == ("failed", set(), "ProgrammingError")
    run = Lab(lab_database).by_work_once(hides_the_job_table)
    assert isinstance(run.raised, SQLAlchemyError)
    assert (run.state, run.items, run.kept) == ("queued", set(), False)
