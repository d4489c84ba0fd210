"""What is in the queue: for the command line, the dashboard, metrics, and applications of your own.

    filters   JobFilter: which jobs are asked for; texts, how it is typed
    pages     list_jobs, by a bounded look; cursors, where it goes on
    details   show_job
    rows      JobRow, JobDetail, Page, Count
    counts    count_jobs, count_states
    queues    list_queues
    workers   list_workers
    stats     stats, in buckets of time
    acts      act, on many of them

But for the last all of it only reads and locks nothing; and all of it looks at no more jobs than it says.
"""

from sqla_jobs.errors import InvalidFilter
from sqla_jobs.inspection.acts import Act, Acted, act
from sqla_jobs.inspection.counts import count_jobs, count_states
from sqla_jobs.inspection.details import show_job
from sqla_jobs.inspection.filters import JobFilter
from sqla_jobs.inspection.pages import list_jobs
from sqla_jobs.inspection.queues import QueueRow, list_queues
from sqla_jobs.inspection.rows import Count, JobDetail, JobRow, Page
from sqla_jobs.inspection.stats import Bucket, stats
from sqla_jobs.inspection.workers import RunningRow, WorkerRow, list_workers

__all__ = [
    "Act",
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
    "act",
    "count_jobs",
    "count_states",
    "list_jobs",
    "list_queues",
    "list_workers",
    "show_job",
    "stats",
]
