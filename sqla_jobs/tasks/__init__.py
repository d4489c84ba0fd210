"""Tasks: functions whose calls become jobs, the registry of an application's tasks, and the running job.

options     how a job is enqueued: queue, priority, when, how often
task        Task: a registered function
registry    Registry: the tasks of an application, its job model, its Sessions; enqueue by name
made, one   make a job object, enqueue it
many        enqueue_many: new jobs at once
current     RunningJob and current_job()
"""

from sqla_jobs.tasks.current import RunningJob, as_current, current_job, running
from sqla_jobs.tasks.many import enqueue_many
from sqla_jobs.tasks.options import UNSET, Options, check_queue, check_queues
from sqla_jobs.tasks.registry import ByName, Registry, ScopedSessions, Sessions, sessions_of
from sqla_jobs.tasks.task import Task

__all__ = [
    "UNSET",
    "ByName",
    "Options",
    "Registry",
    "RunningJob",
    "ScopedSessions",
    "Sessions",
    "Task",
    "as_current",
    "check_queue",
    "check_queues",
    "current_job",
    "enqueue_many",
    "running",
    "sessions_of",
]
