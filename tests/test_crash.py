"""Worker processes that are killed at random points of thousands of jobs: nothing lost, nothing doubled.

    SQLA_JOBS_TEST_CRASH_SEED=4711 python -m pytest tests/test_crash.py

repeats the schedule of a run; where exactly its kills land is also a matter of the machine's load.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.support.crash_phases import Phase
from tests.support.killer import Killer, Workers
from tests.support.server import Database
from tests.support.waiting import until

JOBS = 5_000
PROCESSES = 3
SEED = int(os.environ.get("SQLA_JOBS_TEST_CRASH_SEED") or random.SystemRandom().randrange(10**6))

POINTS = (Phase.CLAIM, Phase.JOB, Phase.FINISH, Phase.COMMIT)
WORKER = [
    "worker",
    "tests.support.crash_app:jobs",
    *("--threads", "2", "--log-level", "error"),
    *("--poll-interval", "0.05", "--heartbeat-interval", "0.3", "--heartbeat-limit", "2"),
]


def schedule(chance: random.Random) -> list[tuple[int, Phase | None]]:
    """(after so many effects, where): four kills at each point of a job's life, and eight anywhere."""
    points: list[Phase | None] = [*POINTS * 4, *[None] * 8]
    chance.shuffle(points)
    after = sorted(chance.sample(range(JOBS // 50, JOBS - JOBS // 50), len(points)))
    return list(zip(after, points, strict=True))


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="needs waitid, to see a process stand still")
@pytest.mark.timeout(300)
def test_kills_at_random_points_lose_and_double_nothing(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database.execute("INSERT INTO sqla_jobs (task) SELECT 'write' FROM generate_series(1, :n)", n=JOBS)
    chance = random.Random(SEED)
    environment = {"DATABASE_URL": database.url_string}
    with Workers(PROCESSES, WORKER, tmp_path, environment) as workers:
        killer = Killer(workers, chance)
        kills = schedule(chance)
        try:
            for effects, point in kills:
                until(database, f"SELECT count(*) >= {effects} FROM effects", 60)
                killer.kill_one(point)
            until(database, "SELECT count(*) = 0 FROM sqla_jobs WHERE state <> 'succeeded'", 60)
            # The dead are known as such, and no living process is counted among them.
            living = f"SELECT count(*) = {PROCESSES} FROM sqla_jobs_workers WHERE died_at IS NULL"
            until(database, living, 60)
            assert workers.end() == [0] * PROCESSES
        finally:
            with capsys.disabled():
                print(f"\ntests/test_crash.py: seed {SEED}, kills: {_shown(killer)}")
    assert killer.landed.total() == len(kills) >= 20
    assert all(killer.landed[point] for point in POINTS), killer.landed
    (counted,) = database.rows("SELECT count(*), count(DISTINCT job_id) FROM effects")
    assert counted == (JOBS, JOBS)
    states = database.rows("SELECT state, count(*) FROM sqla_jobs GROUP BY state")
    assert states == [("succeeded", JOBS)]
    assert database.scalar("SELECT count(*) FROM sqla_jobs_workers WHERE died_at IS NULL") == 0
    # Each kill cost the jobs of two threads at most, and some of them one: that of the point it was aimed at.
    crashes = database.scalar("SELECT sum(crashes) FROM sqla_jobs")
    assert len(POINTS) <= crashes <= 2 * len(kills)


def _shown(killer: Killer) -> str:
    return ", ".join(f"{number} in {phase.name.lower()}" for phase, number in sorted(killer.landed.items()))
