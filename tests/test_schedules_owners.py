"""Who says what a schedule is: the code, a newer code, data; and races of several who say it at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from sqla_jobs import Jobs, Schedule, Worker, lifecycle
from sqla_jobs.lifecycle import Synced
from tests.support.server import Database
from tests.support.verbs import MINUTE, NOW
from tests.support.waiting import blocked, until
from tests.support.work import PATIENCE, SOON
from tests.test_schedules import HOUR, PRUNE, ZERO, application, names, row

OLD, NEW = application(), application(every=2 * HOUR)
OFF = application(every=ZERO)


def live(session: Session, jobs: Jobs[Any], worker: int = 1) -> None:
    """A living worker with the code of ``jobs``."""
    number = lifecycle.register(
        session, jobs.model, host="h", pid=worker, version="1", queues=None, threads=1,
        heartbeat_limit=MINUTE, **jobs.known(),
    )  # fmt: skip
    assert number


def goodbye(session: Session) -> None:
    session.execute(text("DELETE FROM sqla_jobs_workers"))


# -- data ------------------------------------------------------------------------------------------


def edit(session: Session, **values: Any) -> None:
    found = row(session)
    for name, value in values.items():
        setattr(found, name, value)
    session.flush()


@pytest.mark.parametrize(
    "values",
    [
        {"every": 3 * HOUR},
        {"every": None, "cron": "@daily"},
        {"timezone": "Europe/Paris"},
        {"arguments": {"kind": "long"}},
        {"queue": "slow"},
        {"timeout": MINUTE},
        {"overlap": "skip"},
        {"task": "another"},
    ],
    ids=lambda values: " ".join(values),
)
def test_a_row_edited_as_data_is_not_overwritten(session: Session, values: dict[str, Any]) -> None:
    OLD.sync_schedules(session, now=NOW)
    edit(session, **values)
    for code in (OLD, NEW, OFF):
        assert code.sync_schedules(session, now=NOW) == Synced(edited=("report",))
    now = row(session)
    assert {name: getattr(now, name) for name in values} == values
    assert NEW.sync_schedules(session, force=True, now=NOW) == Synced(changed=("report",))
    assert row(session).every == 2 * HOUR
    assert (row(session).cron, row(session).queue, row(session).arguments) == (None, None, {})


def test_a_row_that_is_edited_back_is_the_code_s_again(session: Session) -> None:
    OLD.sync_schedules(session, now=NOW)
    edit(session, every=3 * HOUR)
    edit(session, every=HOUR)
    assert NEW.sync_schedules(session, now=NOW) == Synced(changed=("report",))


def test_a_row_made_as_data_is_nobody_s_to_overwrite(session: Session) -> None:
    session.add(Schedule(name="report", task="report", cron="@daily"))
    for prune in (False, True):
        synced = NEW.sync_schedules(session, prune=prune, now=NOW)  # also one that is still pending
        assert (synced.edited, synced.disabled) == (("report",), ())
    assert row(session).cron == "@daily"
    assert NEW.sync_schedules(session, force=True, now=NOW) == Synced(changed=("report",))
    assert row(session).definition is not None


def test_the_switch_stays_as_it_was_thrown_while_the_rest_follows_the_code(session: Session) -> None:
    OLD.sync_schedules(session, now=NOW)
    edit(session, enabled=False)
    assert OLD.sync_schedules(session, now=NOW) == Synced()
    assert NEW.sync_schedules(session, now=NOW) == Synced(changed=("report",))
    assert (row(session).every, row(session).enabled) == (2 * HOUR, False)
    assert NEW.sync_schedules(session, force=True, now=NOW + 3 * HOUR) == Synced(changed=("report",))
    assert (row(session).enabled, row(session).next_run_at) == (True, NOW + 5 * HOUR)


# -- a rolling deploy ------------------------------------------------------------------------------


def test_an_old_process_does_not_flip_a_newer_definition_back(session: Session) -> None:
    OLD.sync_schedules(session, now=NOW)
    live(session, NEW)
    NEW.sync_schedules(session, now=NOW)
    assert OLD.sync_schedules(session, now=NOW + MINUTE) == Synced(newer=("report",))
    assert (row(session).every, row(session).next_run_at) == (2 * HOUR, NOW + 2 * HOUR)
    # With the last of the new ones the old definition comes back: that deploy has been undone.
    goodbye(session)
    assert OLD.sync_schedules(session, now=NOW + MINUTE) == Synced(changed=("report",))
    assert row(session).every == HOUR


def test_a_worker_that_died_has_no_say(session: Session) -> None:
    OLD.sync_schedules(session, now=NOW)
    live(session, NEW)
    NEW.sync_schedules(session, now=NOW)
    session.execute(text("UPDATE sqla_jobs_workers SET died_at = now()"))
    assert OLD.sync_schedules(session, now=NOW) == Synced(changed=("report",))


def test_a_definition_that_is_new_wins_at_once_also_beside_living_old_ones(session: Session) -> None:
    live(session, OLD)
    OLD.sync_schedules(session, now=NOW)
    assert NEW.sync_schedules(session, now=NOW) == Synced(changed=("report",))


def test_going_back_on_purpose_needs_no_patience_with_force(session: Session) -> None:
    OLD.sync_schedules(session, now=NOW)
    live(session, NEW)
    NEW.sync_schedules(session, now=NOW)
    assert OLD.sync_schedules(session, force=True, now=NOW) == Synced(changed=("report",))
    assert NEW.sync_schedules(session, now=NOW) == Synced(changed=("report",)), "no worker has the old one"


def test_an_old_process_does_not_bring_back_what_a_newer_one_has_switched_off(session: Session) -> None:
    OLD.sync_schedules(session, now=NOW)
    live(session, OFF)
    OFF.sync_schedules(session, now=NOW)
    assert OLD.sync_schedules(session, now=NOW) == Synced(newer=("report",))
    assert names(session) == []
    goodbye(session)
    assert OLD.sync_schedules(session, now=NOW) == Synced(added=("report",))


def test_a_worker_that_had_to_wait_for_newer_ones_to_go_writes_its_definition_then(
    database: Database,
) -> None:
    with database.sessionmaker.begin() as session:
        OLD.sync_schedules(session)
        NEW.sync_schedules(session)
        live(session, NEW)
    short = {"heartbeat_interval": 0.05 * MINUTE / 60, "heartbeat_limit": MINUTE}
    with Worker(OLD, database.engine, poll_interval=SOON, **short):
        assert database.scalar("SELECT every = '2 hours' FROM sqla_jobs_schedules WHERE name = 'report'")
        database.execute("DELETE FROM sqla_jobs_workers WHERE pid = 1")
        until(database, "SELECT every = '1 hour' FROM sqla_jobs_schedules WHERE name = 'report'")


def test_what_an_older_process_had_switched_off_it_does_not_remove_when_it_comes_back(
    database: Database,
) -> None:
    """Without a row there was nothing to remember it by: whoever had to wait for it knows."""
    with database.sessionmaker.begin() as session:
        live(session, OFF)
    written = "SELECT count(*) = 1 FROM sqla_jobs_schedules WHERE name = 'report'"
    with Worker(OLD, database.engine, poll_interval=SOON, heartbeat_interval=SOON, heartbeat_limit=MINUTE):
        assert not database.scalar(written)
        database.execute("DELETE FROM sqla_jobs_workers WHERE pid = 1")
        until(database, written)
        with database.sessionmaker.begin() as session:
            live(session, OFF)
            assert "report" in OFF.sync_schedules(session).newer
        assert database.scalar(written)
    with database.sessionmaker.begin() as session:
        assert "report" in OFF.sync_schedules(session).removed, "nobody is left who has it"


def test_who_waits_for_newer_ones_to_go_waits_for_no_lock_and_goes_on_ticking(database: Database) -> None:
    with database.sessionmaker.begin() as session:
        OLD.sync_schedules(session)
        NEW.sync_schedules(session)
        live(session, NEW)
    with (
        Worker(OLD, database.engine, poll_interval=SOON, heartbeat_interval=SOON, heartbeat_limit=MINUTE),
        database.engine.connect() as editor,
    ):
        editor.execute(text("SELECT FROM sqla_jobs_schedules WHERE name = 'report' FOR UPDATE"))
        database.execute("DELETE FROM sqla_jobs_workers WHERE pid = 1")
        database.execute(
            "INSERT INTO sqla_jobs_schedules (name, task, cron, next_run_at)"
            " SELECT 'each second', task, '* * * * * *', now() FROM sqla_jobs_schedules WHERE name = 'report'"
        )
        until(
            database,
            "SELECT count(*) >= 3 FROM sqla_jobs JOIN sqla_jobs_schedules s ON s.id = schedule_id"
            " WHERE s.name = 'each second'",
        )
        editor.rollback()
        until(database, "SELECT every = '1 hour' FROM sqla_jobs_schedules WHERE name = 'report'")


def test_nor_what_was_brought_back_by_force_beside_it(session: Session) -> None:
    live(session, OFF)
    live(session, OLD, worker=2)
    assert OLD.sync_schedules(session, now=NOW).newer == ("report",)
    assert OLD.sync_schedules(session, force=True, now=NOW) == Synced(added=("report",))
    assert OFF.sync_schedules(session, now=NOW) == Synced(newer=("report",))
    assert OFF.sync_schedules(session, force=True, now=NOW) == Synced(removed=("report",))


# -- absence ---------------------------------------------------------------------------------------


def without() -> Jobs[Any]:
    """The application when the decorator has gone, or with it the task."""
    jobs = Jobs()
    jobs.task(name="other")(lambda session: None)
    return jobs


def test_absence_switches_off_only_when_the_registry_says_so(session: Session) -> None:
    OLD.sync_schedules(session, now=NOW)
    gone = without()
    assert gone.sync_schedules(session, now=NOW) == Synced()
    assert row(session).enabled
    assert gone.sync_schedules(session, prune=True, now=NOW) == Synced(disabled=("report",))
    assert not row(session).enabled
    assert gone.sync_schedules(session, prune=True, now=NOW) == Synced()
    # It is in the code again.
    assert OLD.sync_schedules(session, now=NOW + 2 * HOUR) == Synced(changed=("report",))
    assert (row(session).enabled, row(session).next_run_at) == (True, NOW + 3 * HOUR)


def test_what_a_living_worker_has_is_not_absent(session: Session) -> None:
    live(session, NEW)
    NEW.sync_schedules(session, now=NOW)
    assert without().sync_schedules(session, prune=True, now=NOW) == Synced()
    assert row(session).enabled


def test_what_another_application_has_defined_is_not_ours_to_miss(session: Session) -> None:
    OLD.sync_schedules(session, now=NOW)
    stranger = Jobs()
    exec_in = {"__name__": "warehouse.jobs"}
    exec("def count(session): ...", exec_in)
    stranger.task(exec_in["count"])
    assert stranger.sync_schedules(session, prune=True, now=NOW) == Synced()
    assert row(session).enabled


# -- races -----------------------------------------------------------------------------------------


def at_once(database: Database, codes: list[Jobs[Any]]) -> list[Synced]:
    begin = threading.Barrier(len(codes))

    def run(code: Jobs[Any]) -> Synced:
        with database.sessionmaker.begin() as session:
            session.connection()
            begin.wait(PATIENCE)
            return code.sync_schedules(session)

    with ThreadPoolExecutor(len(codes)) as pool:
        return list(pool.map(run, codes))


def test_k19_many_processes_that_start_at_once_make_one_row_each(database: Database) -> None:
    codes = [application() for _ in range(8)]
    for code in codes:
        for number in range(5):
            code.cron("@daily", name=f"n{number}")(code.tasks["report"])
    for _ in range(5):
        database.execute("DELETE FROM sqla_jobs_schedules")
        synced = at_once(database, codes)
        assert sum(len(each.added) for each in synced) == 7
        assert not any(each.changed or each.edited or each.newer for each in synced)
        assert database.scalar("SELECT count(*) FROM sqla_jobs_schedules") == 7


def test_k19_who_syncs_while_another_does_waits_and_then_sees_what_was_written(database: Database) -> None:
    """Without the row's lock the second would write by what it has read before the first's commit."""
    with database.sessionmaker.begin() as session:
        OLD.sync_schedules(session)
    third = application(every=3 * HOUR)
    with database.sessionmaker() as first, ThreadPoolExecutor(1) as pool:
        NEW.sync_schedules(first)
        later = pool.submit(at_once, database, [third])
        until(database, blocked("= 1"))
        first.commit()
        assert later.result(PATIENCE) == [Synced(changed=("report",))]
    (written,) = database.rows(
        "SELECT every = '3 hours', definition->'superseded' FROM sqla_jobs_schedules WHERE name = 'report'"
    )
    fingerprints = [code.schedules["report"].fingerprint for code in (OLD, NEW)]
    assert written == (True, fingerprints)


def test_k19_who_makes_a_row_that_another_has_just_made_takes_it_as_it_is(database: Database) -> None:
    with database.sessionmaker() as first, ThreadPoolExecutor(1) as pool:
        OLD.sync_schedules(first)
        same = pool.submit(at_once, database, [application()])
        until(database, blocked("= 1"))
        first.commit()
        assert same.result(PATIENCE) == [Synced()]
    assert database.scalar("SELECT count(*) FROM sqla_jobs_schedules") == 2
    assert PRUNE in [name for (name,) in database.rows("SELECT name FROM sqla_jobs_schedules")]
