"""A job queue for applications that use SQLAlchemy, Alembic and PostgreSQL."""

import sys as _sys

from sqla_jobs.errors import Cancel, Snooze
from sqla_jobs.jobs import Jobs
from sqla_jobs.lifecycle import Cancelled, Deleted, Retried, Synced
from sqla_jobs.meter import Progress
from sqla_jobs.models import Job, JobMixin, Schedule, metadata
from sqla_jobs.outcome import JobState
from sqla_jobs.policy import RetryPolicy
from sqla_jobs.runner import Finished
from sqla_jobs.tasks import Limit, Task, current_job
from sqla_jobs.verbs import cancel, delete, pause, prune, resume, retry
from sqla_jobs.worker import Worker

if "alembic.autogenerate" in _sys.modules:  # imported from an env.py: teach autogenerate our tables
    import sqla_jobs.alembic  # noqa: F401

__all__ = [
    "Cancel",
    "Cancelled",
    "Deleted",
    "Finished",
    "Job",
    "JobMixin",
    "JobState",
    "Jobs",
    "Limit",
    "Progress",
    "Retried",
    "RetryPolicy",
    "Schedule",
    "Snooze",
    "Synced",
    "Task",
    "Worker",
    "cancel",
    "current_job",
    "delete",
    "metadata",
    "pause",
    "prune",
    "resume",
    "retry",
]
