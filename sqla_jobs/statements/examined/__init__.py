"""What ``sqla-jobs doctor`` asks; nothing here writes a row that stays, and each reads a bounded part.

catalog  the tables, their columns, indexes and constraints, beside those that the models would make
server   settings, sessions, snapshots and slots of the whole server, and what the role may do
vacuumed how the tables are vacuumed, and how large their indexes are
work     the jobs that are not finished, in samples; queues, workers and schedules
"""

from sqla_jobs.statements.examined.catalog import (
    columns,
    constraints,
    copied,
    copies,
    indexes,
    relations,
    wanted_names,
)
from sqla_jobs.statements.examined.server import (
    capacity,
    limits,
    moment,
    prepared,
    privileges,
    role,
    sessions,
    settings,
    slots,
)
from sqla_jobs.statements.examined.vacuumed import rows_and_indexes, vacuum_of
from sqla_jobs.statements.examined.work import (
    crashed,
    dead_workers,
    live_workers,
    paused_queues,
    queues_in_use,
    rules,
    running_jobs,
    unfinished_tasks,
)

__all__ = [
    "capacity",
    "columns",
    "constraints",
    "copied",
    "copies",
    "crashed",
    "dead_workers",
    "indexes",
    "limits",
    "live_workers",
    "moment",
    "paused_queues",
    "prepared",
    "privileges",
    "queues_in_use",
    "relations",
    "role",
    "rows_and_indexes",
    "rules",
    "running_jobs",
    "sessions",
    "settings",
    "slots",
    "unfinished_tasks",
    "vacuum_of",
    "wanted_names",
]
