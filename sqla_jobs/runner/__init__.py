"""A job's run: claim, run, finish. What follows is decided in ``outcome``, written by ``lifecycle``.

once        in the caller's transaction
lane        in a worker's own transactions, the claim's and the job's
ends        what a run there comes to, before it is recorded
recorder    outcomes apart from the transaction of the run
group       several of a worker's in one transaction
exchange    the claims of all threads, and the finishes of jobs that wrote nothing, in one statement
limits      which tasks' limits are reached, and the claims that count
trail       where the next claim looks
kept        the connection of the lane's claims
sessions    the Sessions that the application gives
run         call the task in its scope
failures    what an error of the database means
"""

from sqla_jobs.runner.exchange import Peers, Turn
from sqla_jobs.runner.failures import is_transient
from sqla_jobs.runner.group import Groups, Pace, check_level
from sqla_jobs.runner.lane import RERUNS, Follow, Runner
from sqla_jobs.runner.limits import Slots
from sqla_jobs.runner.once import work_once
from sqla_jobs.runner.run import CANCELLED, Finished, facts, finished, milliseconds

__all__ = [
    "CANCELLED",
    "RERUNS",
    "Finished",
    "Follow",
    "Groups",
    "Pace",
    "Peers",
    "Runner",
    "Slots",
    "Turn",
    "check_level",
    "facts",
    "finished",
    "is_transient",
    "milliseconds",
    "work_once",
]
