"""One job: claim, run, finish. What follows is decided in ``outcome``, written by ``lifecycle``.

once        in the caller's transaction
lane        in a worker's own transactions, the claim's and the job's
kept        the connection of the lane's claims
run         call the task in its scope
failures    what an error of the database means
"""

from sqla_jobs.runner.failures import is_transient
from sqla_jobs.runner.lane import RERUNS, Runner
from sqla_jobs.runner.once import work_once
from sqla_jobs.runner.run import CANCELLED, Finished, facts, finished

__all__ = ["CANCELLED", "RERUNS", "Finished", "Runner", "facts", "finished", "is_transient", "work_once"]
