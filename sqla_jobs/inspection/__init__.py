"""What is in the queue: for the command line, the dashboard, metrics, and applications of your own.

    filters   JobFilter: which jobs are asked for; texts, how it is typed
    pages     list_jobs, by a bounded look; cursors, where it goes on
    details   show_job
    rows      JobRow, JobDetail, Page, Count
    queues    QueueRow
    workers   WorkerRow, RunningRow
    stats     Bucket
    acts      Acted

All of it only reads and locks nothing, and looks at no more jobs than it says, however many there are.
"""

from sqla_jobs.errors import InvalidFilter
from sqla_jobs.inspection.acts import Acted
from sqla_jobs.inspection.details import show_job
from sqla_jobs.inspection.filters import JobFilter
from sqla_jobs.inspection.pages import list_jobs
from sqla_jobs.inspection.queues import QueueRow
from sqla_jobs.inspection.rows import Count, JobDetail, JobRow, Page
from sqla_jobs.inspection.stats import Bucket
from sqla_jobs.inspection.workers import RunningRow, WorkerRow

__all__ = [
    "Acted",
    "Bucket",
    "Count",
    "InvalidFilter",
    "JobDetail",
    "JobFilter",
    "JobRow",
    "Page",
    "QueueRow",
    "RunningRow",
    "WorkerRow",
    "list_jobs",
    "show_job",
]
