"""Worker processes that are killed at random points of thousands of jobs: nothing lost, nothing doubled.

    SQLA_JOBS_TEST_CRASH_SEED=4711 python -m pytest tests/test_crash.py

repeats the schedule of a run; where exactly its kills land is also a matter of the machine's load.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from sqla_jobs import Job, RetryPolicy, lifecycle
from tests.support.crash_phases import Phase
from tests.support.killer import Killer, Workers
from tests.support.server import Database
from tests.support.waiting import until

JOBS = 5_000
PLENTY = 1_500
"""While it kills, so many jobs are left: some process is at every point."""
PROCESSES = 3
SEED = int(os.environ.get("SQLA_JOBS_TEST_CRASH_SEED") or random.SystemRandom().randrange(10**6))

POINTS = (Phase.CLAIM, Phase.JOB, Phase.FINISH, Phase.COMMIT)
IN_A_GROUP = (Phase.GROUP_JOB, Phase.GROUP_BETWEEN, Phase.GROUP_FINISH, Phase.GROUP_COMMIT)
WORKER = [
    "worker",
    "tests.support.crash_app:jobs",
    *("--threads", "2", "--log-level", "error"),
    *("--poll-interval", "0.05", "--heartbeat-interval", "0.3", "--heartbeat-limit", "2"),
]


def schedule(chance: random.Random) -> list[Phase | None]:
    """Two kills at each point of a job's life, in both lanes, and six anywhere."""
    points: list[Phase | None] = [*POINTS * 2, *IN_A_GROUP * 2, *[None] * 6]
    chance.shuffle(points)
    return points


class Feeder:
    """Half of the jobs are of the fast lane; some of these are slow, and some fail, each now and then."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.jobs = 0

    def feed(self, number: int) -> None:
        self._database.execute(
            "INSERT INTO sqla_jobs (task) SELECT"
            " (ARRAY['write', 'fast', 'write', 'flaky', 'write', 'fast', 'write', 'slow'])[1 + i % 8]"
            " FROM generate_series(1, :n) AS i",
            n=number,
        )
        self.jobs += number

    def keep_plenty(self) -> None:
        left = self._database.scalar("SELECT count(*) FROM sqla_jobs WHERE state IN ('scheduled', 'queued')")
        self.feed(max(0, PLENTY - left))


def go_by(database: Database, dead: Sequence[int]) -> None:
    """Let the time go by after which these processes are dead, and others forget that somebody has just died.

    For as long as they know, they keep the fast lane closed.
    """
    unknown = f"pid IN ({', '.join(map(str, dead))}) AND died_at IS NULL"
    database.execute(
        "UPDATE sqla_jobs_workers SET heartbeat_at = heartbeat_at - interval '1 hour', locked = false"
        f" WHERE {unknown}"
    )
    # The others have to be a while at work before they judge anybody.
    with database.sessionmaker.begin() as session:
        lifecycle.rescue(
            session, Job, lambda _: RetryPolicy(max_attempts=1_000, max_crashes=1_000, base=timedelta(0))
        )
    until(database, f"SELECT count(*) = 0 FROM sqla_jobs_workers WHERE {unknown}", 60)
    database.execute("UPDATE sqla_jobs_workers SET died_at = died_at - interval '1 minute'")


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="needs waitid, to see a process stand still")
@pytest.mark.timeout(300)
def test_kills_at_random_points_lose_and_double_nothing(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    feeder = Feeder(database)
    feeder.feed(JOBS)
    chance = random.Random(SEED)
    environment = {"DATABASE_URL": database.url_string}
    with Workers(PROCESSES, WORKER, tmp_path, environment) as workers:
        killer = Killer(workers, chance, feeder.keep_plenty)
        kills = schedule(chance)
        try:
            dead: list[int] = []
            for point in kills:
                # Others die while somebody is dead and not found yet; but nobody is in a group then.
                if dead and (point in IN_A_GROUP or chance.random() < 0.2):
                    go_by(database, dead)
                dead.append(killer.kill_one(point))
            until(database, "SELECT count(*) = 0 FROM sqla_jobs WHERE state <> 'succeeded'", 60)
            # The dead are known as such, and no living process is counted among them.
            living = f"SELECT count(*) = {PROCESSES} FROM sqla_jobs_workers WHERE died_at IS NULL"
            until(database, living, 60)
            assert workers.end() == [0] * PROCESSES
        finally:
            with capsys.disabled():
                print(f"\ntests/test_crash.py: seed {SEED}, {feeder.jobs} jobs, kills: {_shown(killer)}")
    assert killer.landed.total() == len(kills) >= 20
    assert all(killer.landed[point] for point in (*POINTS, *IN_A_GROUP)), killer.landed
    (counted,) = database.rows("SELECT count(*), count(DISTINCT job_id) FROM effects")
    assert counted == (feeder.jobs, feeder.jobs)
    states = database.rows("SELECT state, count(*) FROM sqla_jobs GROUP BY state")
    assert states == [("succeeded", feeder.jobs)]
    assert database.scalar("SELECT count(*) FROM sqla_jobs_workers WHERE died_at IS NULL") == 0
    # Each kill cost the jobs of two threads at most, and some of them one: that of the point it was aimed at.
    crashes = database.scalar("SELECT sum(crashes) FROM sqla_jobs")
    assert len(POINTS) <= crashes <= 2 * len(kills)
    # In a group it costs nobody anything, and a job that fails in one is tried again.
    tried = database.scalar("SELECT count(*) FROM sqla_jobs WHERE task = 'flaky' AND attempt > 1 + crashes")
    assert tried > 0
    assert database.scalar("SELECT sum(attempt - crashes) = count(*) FROM sqla_jobs WHERE task <> 'flaky'")


def _shown(killer: Killer) -> str:
    return ", ".join(f"{number} in {phase.name.lower()}" for phase, number in sorted(killer.landed.items()))
