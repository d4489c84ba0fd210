"""A job's run: claim, run, finish. What follows is decided in ``outcome``, written by ``lifecycle``.

once        in the caller's transaction
lane        in a worker's own transactions, the claim's and the job's
group       several of a worker's in one transaction
exchange    the claims of all threads, and the finishes of jobs that wrote nothing, in one statement
trail       where the next claim may begin to look
kept        the connection of the lane's claims
run         call the task in its scope
failures    what an error of the database means
"""

from sqla_jobs.runner.exchange import Peers
from sqla_jobs.runner.failures import is_transient
from sqla_jobs.runner.group import Groups, Pace, check_level
from sqla_jobs.runner.lane import RERUNS, Follow, Runner
from sqla_jobs.runner.once import work_once
from sqla_jobs.runner.run import CANCELLED, Finished, facts, finished

__all__ = [
    "CANCELLED",
    "RERUNS",
    "Finished",
    "Follow",
    "Groups",
    "Pace",
    "Peers",
    "Runner",
    "check_level",
    "facts",
    "finished",
    "is_transient",
    "work_once",
]
