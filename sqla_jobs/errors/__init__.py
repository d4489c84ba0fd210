"""Everything that this library raises on purpose, and the two signals a task may raise or return.

JobsError
  x DefinitionError                  the application's code says something that cannot work
    - TaskDefinitionError              a function that cannot be a task
    - TaskAlreadyRegistered            a second task of the same name
    - InvalidOption       (ValueError) a queue, priority, delay, ... out of its range
      - InvalidQueueName
      - InvalidFilter                    of jobs: an unknown state, an age that is none
      - InvalidSchedule                  a cron line, a time zone or an interval that cannot be
  x EnqueueError                     this call cannot become a job
    - InvalidArguments    (TypeError)  the call does not fit the task's signature
    - ArgumentsNotStorable             it fits, but JSONB would lose or change a value
  x UnknownTask           (LookupError)
  x JobError                         recorded in a job's attempts
    - ArgumentsNotLoadable             the row does not fit the signature of the code that runs it
    - RecordNotFound      (LookupError)  an object that it was given by identity is gone
    - JobEscaped                       the job ended the transaction that its worker owns
    - WorkerDied                       the process that ran the job is gone
    - JobTimeout                       it ran longer than its timeout, and was interrupted
    - ResultNotStorable                what it returned does not fit, or JSONB would lose or change it
  x ResultError                      task.result(): there is none to give
    - JobNotFinished                   it waits, or runs
    - JobFailed
    - JobCancelled
    - NoResult                         it has succeeded, and kept none
    - ResultNotLoadable                the row's does not fit the code that asks for it
  x ClaimLost                        somebody else has taken over the job
  x JobNotFound           (LookupError)  no job has this id
  x DuplicateJob                     another job holds the unique key of this one
  x SchemaError                      the tables are missing, or of another revision
  x ConfigurationError               nothing says which database, which module, ...

Cancel, Snooze, GiveBack             signals: none is an error, nor a JobsError
"""

from __future__ import annotations

from sqla_jobs.errors.application import (
    ConfigurationError,
    DefinitionError,
    InvalidFilter,
    InvalidOption,
    InvalidQueueName,
    InvalidSchedule,
    SchemaError,
    TaskAlreadyRegistered,
    TaskDefinitionError,
    UnknownTask,
)
from sqla_jobs.errors.calls import (
    ArgumentsNotStorable,
    DuplicateJob,
    EnqueueError,
    InvalidArguments,
    JobNotFound,
)
from sqla_jobs.errors.results import (
    JobCancelled,
    JobFailed,
    JobNotFinished,
    NoResult,
    ResultError,
    ResultNotLoadable,
)
from sqla_jobs.errors.root import (
    JobsError,
    shown,
)
from sqla_jobs.errors.runs import (
    ArgumentsNotLoadable,
    ClaimLost,
    JobError,
    JobEscaped,
    JobTimeout,
    RecordNotFound,
    ResultNotStorable,
    WorkerDied,
)
from sqla_jobs.errors.signals import (
    Cancel,
    GiveBack,
    Snooze,
)

__all__ = [
    "ArgumentsNotLoadable",
    "ArgumentsNotStorable",
    "Cancel",
    "ClaimLost",
    "ConfigurationError",
    "DefinitionError",
    "DuplicateJob",
    "EnqueueError",
    "GiveBack",
    "InvalidArguments",
    "InvalidFilter",
    "InvalidOption",
    "InvalidQueueName",
    "InvalidSchedule",
    "JobCancelled",
    "JobError",
    "JobEscaped",
    "JobFailed",
    "JobNotFinished",
    "JobNotFound",
    "JobTimeout",
    "JobsError",
    "NoResult",
    "RecordNotFound",
    "ResultError",
    "ResultNotLoadable",
    "ResultNotStorable",
    "SchemaError",
    "Snooze",
    "TaskAlreadyRegistered",
    "TaskDefinitionError",
    "UnknownTask",
    "WorkerDied",
    "shown",
]

# In rows, pickles and tracebacks they bear the name by which they are imported, whichever file they are in.
for _name in __all__:
    globals()[_name].__module__ = __name__
