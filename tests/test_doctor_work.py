"""What the doctor says of workers, jobs, queues and schedules."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs, Worker
from sqla_jobs.doctor.people import check_dead_workers, check_running, check_workers
from sqla_jobs.doctor.schedules import check_schedules
from sqla_jobs.doctor.work import check_crashes, check_queues, check_tasks
from tests.support.doctor import add, codes, employ, heal, report, see
from tests.support.server import Database
from tests.support.waiting import until

MINUTES_20 = "20 min"


def application() -> Jobs[Any]:
    jobs: Jobs[Any] = Jobs(prune_after=None)

    @jobs.task(name="t", timeout=timedelta(seconds=10))
    def t(session: Session) -> None: ...

    return jobs


def test_a_worker_and_all_that_it_makes_is_in_order(database: Database) -> None:
    """A real one, with its own schedule, which has run a job; while it lives, and when it has gone."""
    jobs: Jobs[Any] = Jobs()

    @jobs.task(name="t")
    def t(session: Session) -> None: ...

    with Worker(jobs, database.engine, threads=2):
        until(database, "SELECT count(*) = 1 FROM sqla_jobs_workers WHERE locked")
        with Session(database.engine) as session:
            jobs.enqueue(session, "t")
            jobs.using(delay=timedelta(days=1)).enqueue(session, "t")
            session.commit()
        until(database, "SELECT count(*) = 1 FROM sqla_jobs WHERE state = 'succeeded'")
        assert report(database) == set()
        assert report(database, Job, jobs) == set()


# -- workers -------------------------------------------------------------------------------------------


def test_jobs_without_any_worker(database: Database) -> None:
    assert see(check_workers, database) == []
    add(database, 3)
    [found] = see(check_workers, database)
    assert (found.code, found.severity, found.data["jobs"]) == ("no-worker", "warning", 3)
    [found] = see(check_workers, database, later=1000)
    assert found.severity == "error"
    employ(database)
    assert see(check_workers, database) == []
    assert codes(see(check_workers, database, later=60)) == ["no-worker"], "it lives no more by then"


def test_schedules_without_any_worker(database: Database) -> None:
    schedule(database, "nightly", cron="0 3 * * *")
    [found] = see(check_workers, database)
    assert (found.severity, found.data["schedules"]) == ("warning", 1)
    database.execute("UPDATE sqla_jobs_schedules SET enabled = false")
    assert see(check_workers, database) == []


def test_the_rows_of_dead_workers(database: Database) -> None:
    employ(database, beat="20 s")
    assert see(check_dead_workers, database) == []
    employ(database, beat="40 s")
    employ(database, beat="40 s", locked=True)
    [found] = see(check_dead_workers, database)
    assert (found.code, found.severity, found.data["worker"]) == ("worker-dead", "warning", 2)
    database.execute("UPDATE sqla_jobs_workers SET died_at = statement_timestamp() WHERE id = 2")
    [found] = see(check_dead_workers, database)
    assert (found.severity, found.data["worker"]) == ("info", 2)
    found = see(check_dead_workers, database, later=280)
    assert [(each.severity, each.data["worker"]) for each in found] == [
        ("warning", 1), ("warning", 2), ("warning", 3),
    ]  # fmt: skip


def test_jobs_that_run_far_beyond_their_timeout(database: Database) -> None:
    employ(database)
    run = {"state": "running", "worker_id": 1}
    add(database, **run, timeout="1 minute")
    add(database, **run)
    database.execute("UPDATE sqla_jobs SET started_at = statement_timestamp()")
    # The worker is to live all the time.
    database.execute("UPDATE sqla_jobs_workers SET heartbeat_at = statement_timestamp() + interval '1 hour'")
    assert see(check_running, database, later=170) == []
    [found] = see(check_running, database, later=190)
    assert (found.code, found.data["job"], found.data["timeout"]) == ("job-overdue", 1, 60)
    assert found.cure == "sqla-jobs jobs cancel 1"
    found = see(check_running, database, registry=application(), later=190)
    assert [(each.data["job"], each.data["timeout"]) for each in found] == [(1, 60), (2, 10)]


@pytest.mark.parametrize("worker", [None, 1, 99])
def test_jobs_that_run_under_nobody(database: Database, worker: int | None) -> None:
    employ(database, beat="40 s")
    add(database, state="running", worker_id=worker)
    [found] = see(check_running, database)
    assert (found.code, found.data["job"], found.data["worker"]) == ("job-ownerless", 1, worker)
    database.execute("UPDATE sqla_jobs_workers SET heartbeat_at = statement_timestamp()")
    assert codes(see(check_running, database)) == ([] if worker == 1 else ["job-ownerless"])


# -- tasks ---------------------------------------------------------------------------------------------


def test_tasks_that_no_living_worker_knows(database: Database) -> None:
    employ(database, tasks='["other"]', beat="40 s")
    employ(database, tasks='["t", "sqla_jobs.prune"]')
    add(database, 2)
    add(database, 3, task="gone")
    add(database, 4, task="gone", state="scheduled")
    add(database, 1, task="other", state="running", worker_id=2)
    database.execute("INSERT INTO sqla_jobs (task, state, finished_at) VALUES ('old', 'failed', now())")
    found = see(check_tasks, database)
    assert [(each.code, each.data["task"], each.data["number"]) for each in found] == [
        ("task-unknown", "gone", 7),
        ("task-unknown", "other", 1),
    ]
    employ(database, tasks='["gone", "other"]')
    assert see(check_tasks, database) == []


def test_a_worker_that_does_not_say_what_it_knows_may_know_all(database: Database) -> None:
    employ(database)
    add(database, task="gone")
    assert codes(see(check_tasks, database)) == ["task-unknown"]
    employ(database, tasks=None)
    assert see(check_tasks, database) == []


def test_without_workers_the_application_is_asked(database: Database) -> None:
    add(database)
    add(database, task="gone; rm -rf /")
    assert see(check_tasks, database) == []
    [found] = see(check_tasks, database, registry=application())
    assert "'gone; rm -rf /'" in found.cure


def test_of_very_many_tasks_some_are_named(database: Database) -> None:
    employ(database)
    database.execute("INSERT INTO sqla_jobs (task) SELECT 'task' || i FROM generate_series(1, 30) AS i")
    found = see(check_tasks, database)
    assert len(found) == 21
    assert found[-1].data == {"tasks": 30}


def test_of_very_many_jobs_some_are_counted(database: Database) -> None:
    employ(database)
    add(database, 10_001, task="gone")
    [found] = see(check_tasks, database)
    assert (found.data["number"], found.data["exact"]) == (10_000, False)
    assert "10,000 or more jobs" in found.found


def test_jobs_that_have_killed_their_process(database: Database) -> None:
    add(database, crashes=1)
    add(database, crashes=2, state="scheduled")
    add(database)
    found = see(check_crashes, database)
    assert [(each.code, each.data["job"], each.data["crashes"]) for each in found] == [
        ("job-crashes", 2, 2),
        ("job-crashes", 1, 1),
    ]
    database.execute("UPDATE sqla_jobs SET state = 'failed', finished_at = now()")
    assert see(check_crashes, database) == []


# -- queues --------------------------------------------------------------------------------------------


def test_a_queue_that_nobody_serves(database: Database) -> None:
    employ(database, queues='["mail"]')
    employ(database, queues='["slow"]', beat="40 s")
    add(database, queue="mail")
    add(database, queue="sqla_jobs")
    add(database, 1200, queue="slow")
    [found] = see(check_queues, database)
    assert (found.code, found.data["queue"], found.data["exact"]) == ("queue-unserved", "slow", False)
    assert "1,000 or more jobs" in found.found
    employ(database)
    assert see(check_queues, database) == [], "it serves all"


def test_a_queue_whose_workers_do_not_keep_up(database: Database) -> None:
    employ(database)
    add(database, queue="mail", since="14 min")
    assert see(check_queues, database) == []
    add(database, queue="mail", since="16 min", priority=-5)
    [found] = see(check_queues, database)
    assert (found.code, found.data["queue"], found.data["number"]) == ("queue-waits", "mail", 2)
    assert found.data["waits"] == pytest.approx(16 * 60, abs=30)


def test_a_queue_that_was_paused_and_forgotten(database: Database) -> None:
    employ(database)
    database.execute(
        "INSERT INTO sqla_jobs_queues VALUES ('mail', statement_timestamp() - interval '70 min')"
    )
    add(database, queue="mail", since="50 min")
    assert see(check_queues, database) == []
    add(database, queue="mail", since="80 min")
    [found] = see(check_queues, database)
    assert (found.code, found.data["queue"]) == ("queue-paused", "mail")
    heal(database, found)
    assert codes(see(check_queues, database)) == ["queue-waits"]


def test_one_that_was_paused_just_now_is_left_alone(database: Database) -> None:
    employ(database)
    database.execute("INSERT INTO sqla_jobs_queues VALUES ('mail', statement_timestamp())")
    add(database, queue="mail", since="80 min")
    assert see(check_queues, database) == []


# -- schedules -----------------------------------------------------------------------------------------


def schedule(database: Database, name: str, task: str = "t", timed: bool = True, **values: Any) -> None:
    row = {"name": name, "task": task, **values}
    database.execute(
        f"INSERT INTO sqla_jobs_schedules ({', '.join(row)}, next_run_at)"
        f" VALUES ({', '.join(f':{each}' for each in row)},"
        f" {'statement_timestamp() + interval $$1 h$$' if timed else 'NULL'})",
        **row,
    )


def test_schedules_that_are_in_order(database: Database) -> None:
    employ(database)
    schedule(database, "nightly", cron="0 3 * * *")
    schedule(database, "often", every="5 min")
    schedule(database, "new", every="5 min", timed=False)
    schedule(database, "off", cron="no rule", enabled=False)
    assert see(check_schedules, database) == []


@pytest.mark.parametrize(
    "rule",
    [
        {"cron": "61 3 * * *"},
        {"cron": "0 3 * * *", "timezone": "Mars/Olympus"},
        {"every": "0.5 s"},
        {"every": "9999999 years"},
    ],
    ids=["cron", "zone", "too often", "too seldom"],
)
def test_a_rule_that_cannot_be_read(database: Database, rule: dict[str, str]) -> None:
    employ(database)
    schedule(database, "it's\x1b[31m", timed=False, **rule)
    [found] = see(check_schedules, database)
    assert (found.code, found.severity, found.data["task"]) == ("schedule-unreadable", "error", "t")
    heal(database, found)
    database.execute("UPDATE sqla_jobs_schedules SET timezone = 'UTC'")
    assert see(check_schedules, database) == []


def test_a_schedule_that_nobody_knows(database: Database) -> None:
    schedule(database, "nightly", task="gone", cron="0 3 * * *")
    assert see(check_schedules, database) == []
    assert codes(see(check_schedules, database, registry=application())) == ["schedule-orphaned"]
    employ(database)
    [found] = see(check_schedules, database)
    assert (found.code, found.data) == ("schedule-orphaned", {"schedule": "nightly", "task": "gone"})
    assert found.cure.endswith("sqla-jobs schedules disable nightly")


def test_a_schedule_to_which_nobody_gives_a_time(database: Database) -> None:
    schedule(database, "nightly", cron="0 3 * * *", timed=False)
    database.execute("UPDATE sqla_jobs_schedules SET updated_at = updated_at - interval '2 min'")
    assert see(check_schedules, database) == [], "no worker lives, and that is another finding"
    employ(database)
    [found] = see(check_schedules, database)
    assert (found.code, found.severity) == ("schedule-untimed", "warning")
    heal(database, found)
    assert see(check_schedules, database) == []
