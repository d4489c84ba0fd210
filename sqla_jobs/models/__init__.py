"""The mapped tables: ``Job`` (or your own, by ``JobMixin``), ``Schedule``, ``WorkerProcess``, ``Queue``.

    terms      what the models are made of: defaults, named constraints, the merge of table arguments
    storage    storage parameters, for each version of SQLAlchemy
    job        the job table
    beside     schedules, worker processes, queues
    recurring  what a flush checks of a schedule
    version    the function that says which revision the tables are at
    mapped     the default models, and those that are made once for each other schema

Every constraint and index bears an explicit name in ``conv()``, so that an application's naming
convention changes nothing and Alembic's comparison stays clean. Every column but ``task`` has a
server default or is nullable: ``INSERT INTO sqla_jobs (task) VALUES ('…')`` from any language is a
complete job.
"""

from sqla_jobs.models.beside import QueueMixin, ScheduleMixin, WorkerProcessMixin
from sqla_jobs.models.job import JobMixin
from sqla_jobs.models.mapped import (
    Base,
    Companions,
    Job,
    Queue,
    Schedule,
    WorkerProcess,
    companions,
    create_all,
    metadata,
)
from sqla_jobs.models.recurring import CATCH_UP, OVERLAP, RESOLUTION, check_schedule, rule_of
from sqla_jobs.models.terms import DEFAULT_QUEUE, INFO, QUEUE_PATTERN, check_queue
from sqla_jobs.models.version import SCHEMA_VERSION, marker, marker_ddl

__all__ = [
    "CATCH_UP",
    "DEFAULT_QUEUE",
    "INFO",
    "OVERLAP",
    "QUEUE_PATTERN",
    "RESOLUTION",
    "SCHEMA_VERSION",
    "Base",
    "Companions",
    "Job",
    "JobMixin",
    "Queue",
    "QueueMixin",
    "Schedule",
    "ScheduleMixin",
    "WorkerProcess",
    "WorkerProcessMixin",
    "check_queue",
    "check_schedule",
    "companions",
    "create_all",
    "marker",
    "marker_ddl",
    "metadata",
    "rule_of",
]
