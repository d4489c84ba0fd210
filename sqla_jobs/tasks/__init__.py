"""Tasks: functions whose calls become jobs, the registry of an application's tasks, and the running job.

options     how a job is enqueued: queue, priority, when, how often
task        Task: a registered function
schedules   what a decorator makes of a task and a rule
registry    Registry: the tasks of an application, its job model, its Sessions; enqueue by name
redacted    arguments that are not to be shown
recurring   Recurring: a registry with @jobs.every and @jobs.cron
kinds       ordinary functions and coroutine functions
sessions    what makes the Sessions of a worker
unique      Unique: which jobs are taken for the same one
limits      Limit: how many of a task's jobs may run at once
keys        what both are derived from arguments by
made, one   make a job object, enqueue it
meta        what its row says beside its call
many        enqueue_many: new jobs at once
current     RunningJob and current_job()
observed    who is told of the runs of jobs: metrics and traces
housekeeping  the library's own task and its schedule
"""

from sqla_jobs.tasks.current import RunningJob, as_current, current_job, progressed, running, took
from sqla_jobs.tasks.housekeeping import OWN_QUEUE, PRUNE, keep_house
from sqla_jobs.tasks.limits import Limit
from sqla_jobs.tasks.many import enqueue_many
from sqla_jobs.tasks.meta import meta_text
from sqla_jobs.tasks.observed import Observer, Run, Tracing, Watch, Watching, check_observer
from sqla_jobs.tasks.options import GROUP_SIZES, UNSET, Missing, Options, check_queues
from sqla_jobs.tasks.recurring import Recurring
from sqla_jobs.tasks.redacted import redaction
from sqla_jobs.tasks.registry import ByName, Registry
from sqla_jobs.tasks.sessions import (
    AsyncSessions,
    InnerSessions,
    ScopedSessions,
    Sessions,
    async_maker,
    async_of,
    sessions_of,
    shut,
)
from sqla_jobs.tasks.task import Task
from sqla_jobs.tasks.unique import By, Scope

__all__ = [
    "GROUP_SIZES",
    "OWN_QUEUE",
    "PRUNE",
    "UNSET",
    "AsyncSessions",
    "By",
    "ByName",
    "InnerSessions",
    "Limit",
    "Missing",
    "Observer",
    "Options",
    "Registry",
    "RunningJob",
    "Recurring",
    "Run",
    "ScopedSessions",
    "Scope",
    "Sessions",
    "Task",
    "Tracing",
    "Watch",
    "Watching",
    "as_current",
    "async_maker",
    "async_of",
    "check_observer",
    "shut",
    "check_queues",
    "current_job",
    "enqueue_many",
    "keep_house",
    "meta_text",
    "progressed",
    "redaction",
    "running",
    "sessions_of",
    "took",
]
