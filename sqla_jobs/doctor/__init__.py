"""What is wrong with a queue and its database, with a cure for each: ``sqla-jobs doctor``.

finding      Finding, and the codes that there are
schema       the revision, and which tables are there
definitions  columns, indexes, constraints and defaults beside those that the models make
privileges   what the connecting role may do, and see
settings     of the server: durability, autovacuum; its clock
vacuum       dead rows, and indexes that have grown out of proportion
horizon      what is open for so long that VACUUM must keep dead rows for it
connections  how many there are and have to be; the pool; a pooler in between
people       workers: none, dead ones; what is running
work         tasks and queues that nobody serves, jobs that wait, or have killed their process
schedules    those that can make no job
examination  all of these, each in a transaction of its own
"""

from sqla_jobs.doctor.examination import CHECKS, Check, Report, examine, look
from sqla_jobs.doctor.finding import CODES, Finding, Severity

__all__ = ["CHECKS", "CODES", "Check", "Finding", "Report", "Severity", "examine", "look"]
