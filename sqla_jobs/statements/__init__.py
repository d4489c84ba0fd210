"""Every SQL statement: functions that return SQLAlchemy statements, by the state of the jobs they look for.

    enqueued     enqueue, enqueue_many, set_arguments: not in the table yet
    queued       claim, take, take_due: the next jobs to run
    grouped      claim_either, claim_group, join, finish_group: the fast lane
    running      finish, finish_running, remove, exchange, hold, standing, running_under, cancel_requests,
                 orphans: under a claim
    scheduled    promote, next_due: waiting for their time
    cancelled    seize, glance, cancel, cancel_waiting: not wanted any more
    retried      stopped, retry: to run once more
    batches      seize_all, cancel_seized, retry_seized, delete_seized: many that somebody has chosen
    unique       window, window_of, holders: unique keys
    results      result, progress: what a job has come to
    finished     prunable, prune, and references, referred, which_table, check_references: what keeps a row
    unfinished   remaining, has_work, unfinished: what is left to do
    by_hand      run_schedule, switch_schedule
    limits       choose, without_key, set_keys, try_keys, begin, at_work: jobs of tasks with a limit
    pauses       pause, resume, paused, open_queues, all_queues
    liveness     lock, unlock, say_locked, say_unlocked, unheld: which of them hold their lock
    definitions  standing_schedules, asserted, define, redefine, undefine, disable_absent: those of the code
    schedules    next_times, due, busy_schedules, make_due, advance, all_schedules: schedules and their jobs
    looks        edge, stretch, queued_page, running_page: the jobs of a list, by a bounded look
    lines        the orders of jobs that an index has
    counts       number_of, numbers_by_state, queue_heads, queue_depths, …: counted up to a limit
    buckets      finished_by_bucket, times_by_bucket: what finished when
    wanted       wanted, schedule_id: which of them
    details      detail: what is shown of a job
    notices      notify, listen, and what the listening connection needs
    workers      register, heartbeat, goodbye, bury, forget, known, health, all_workers: the processes
    filters      which jobs a worker claims: a condition of the application's own
    examined     what the doctor asks: the catalog, the server, samples of the work; a package
    patience     limit_time, bound_transaction: how long a statement may take
    claim_index  index_ddl, explain_claim, plan_by_index: the index of a filtered claim
    terms        what the statements are made of

Each is built once per model and cached. They are Core statements on the models' tables, so that an
application's ORM events and loader criteria do not reach into the queue's own book-keeping.

The database's clock decides. Each statement that needs the time takes the parameter ``now``; null
means ``statement_timestamp()``: not ``clock_timestamp()``, which is volatile and defeats an index,
nor ``now()``, which stands still in a long transaction. A parameter that would have a column's name
is prefixed, ``p_id``: in an UPDATE SQLAlchemy takes the plain name for a value to set.

Row locks on jobs are ``FOR NO KEY UPDATE``: plain ``FOR UPDATE`` conflicts with the ``FOR KEY SHARE``
that an application's foreign key takes on the job, so that workers would skip such a job, and the
application's insert would wait for the worker.

A prepared statement keeps the plan that it was given, perhaps while the table was small, until the next
ANALYZE. So each of them is written for one plan and leaves the planner, as far as it can, none that
would be cheaper on a small table and ruinous on a large one. tests/test_plans.py holds them to it.
"""

from sqla_jobs.statements.batches import cancel_seized, delete_seized, retry_seized, seize_all, states_of
from sqla_jobs.statements.buckets import finished_by_bucket, times_by_bucket
from sqla_jobs.statements.by_hand import run_schedule, switch_schedule
from sqla_jobs.statements.cancelled import cancel, cancel_waiting, glance, seize
from sqla_jobs.statements.claim_index import UNFILTERED, explain_claim, index_ddl, plan_by_index
from sqla_jobs.statements.counts import (
    by_queue,
    finished_since,
    number_of,
    numbers_by_state,
    queue_depths,
    queue_heads,
)
from sqla_jobs.statements.definitions import (
    asserted,
    clock,
    define,
    disable_absent,
    redefine,
    standing_schedules,
    undefine,
)
from sqla_jobs.statements.details import detail
from sqla_jobs.statements.enqueued import (
    ENQUEUED,
    Source,
    enqueue,
    enqueue_many,
    left_to_the_table,
    set_arguments,
)
from sqla_jobs.statements.filters import Filter, filter_of
from sqla_jobs.statements.finished import (
    PRUNE_BATCH,
    Reference,
    check_references,
    prunable,
    prune,
    references,
    referred,
    which_table,
)
from sqla_jobs.statements.grouped import claim_either, claim_group, finish_group, join
from sqla_jobs.statements.limits import at_work, begin, choose, set_keys, try_keys, without_key
from sqla_jobs.statements.lines import DUE, FINISHED, IN_QUEUE, NEWEST, OLDEST, QUEUED, RUNNING, TICKS, Line
from sqla_jobs.statements.liveness import lock, say_locked, say_unlocked, unheld, unlock
from sqla_jobs.statements.looks import edge, queued_page, running_page, stretch, tied
from sqla_jobs.statements.notices import backend, channel, channel_in, keep_alive, listen, notify, notify_once
from sqla_jobs.statements.patience import limit_time
from sqla_jobs.statements.pauses import all_queues, open_queues, pause, paused, resume
from sqla_jobs.statements.queued import claim, take, take_due
from sqla_jobs.statements.results import progress, result
from sqla_jobs.statements.retried import retry, stopped
from sqla_jobs.statements.running import (
    cancel_requests,
    check_constraints,
    exchange,
    finish,
    finish_running,
    hold,
    orphans,
    remove,
    running_under,
    standing,
)
from sqla_jobs.statements.scheduled import next_due, promote
from sqla_jobs.statements.schedules import (
    TICK_BATCH,
    advance,
    all_schedules,
    busy_schedules,
    due,
    make_due,
    next_times,
)
from sqla_jobs.statements.terms import (
    CLAIMED,
    IS_NEW,
    IS_NEXT,
    IS_ORDINARY,
    PROMOTE_BATCH,
    RESCUE_BATCH,
    Model,
    after,
    delay_of,
    job_table,
    now,
)
from sqla_jobs.statements.unfinished import has_work, remaining, unfinished
from sqla_jobs.statements.unique import holders, window, window_of
from sqla_jobs.statements.wanted import schedule_id, wanted
from sqla_jobs.statements.workers import (
    all_workers,
    bury,
    forget,
    goodbye,
    health,
    heartbeat,
    known,
    register,
)

__all__ = [
    "CLAIMED",
    "UNFILTERED",
    "Filter",
    "explain_claim",
    "filter_of",
    "index_ddl",
    "plan_by_index",
    "ENQUEUED",
    "IS_NEW",
    "IS_NEXT",
    "IS_ORDINARY",
    "PROMOTE_BATCH",
    "PRUNE_BATCH",
    "RESCUE_BATCH",
    "Model",
    "Reference",
    "Source",
    "TICK_BATCH",
    "advance",
    "after",
    "all_schedules",
    "asserted",
    "at_work",
    "backend",
    "begin",
    "bury",
    "busy_schedules",
    "cancel",
    "cancel_requests",
    "cancel_waiting",
    "channel",
    "channel_in",
    "check_constraints",
    "check_references",
    "choose",
    "claim",
    "clock",
    "DUE",
    "FINISHED",
    "Line",
    "IN_QUEUE",
    "NEWEST",
    "OLDEST",
    "QUEUED",
    "RUNNING",
    "TICKS",
    "define",
    "detail",
    "edge",
    "all_queues",
    "all_workers",
    "by_queue",
    "cancel_seized",
    "delete_seized",
    "retry_seized",
    "seize_all",
    "states_of",
    "finished_by_bucket",
    "times_by_bucket",
    "finished_since",
    "number_of",
    "numbers_by_state",
    "queue_depths",
    "queue_heads",
    "queued_page",
    "running_page",
    "schedule_id",
    "stretch",
    "tied",
    "wanted",
    "delay_of",
    "disable_absent",
    "due",
    "enqueue",
    "enqueue_many",
    "claim_either",
    "claim_group",
    "exchange",
    "finish",
    "forget",
    "finish_group",
    "finish_running",
    "glance",
    "goodbye",
    "has_work",
    "health",
    "heartbeat",
    "hold",
    "holders",
    "job_table",
    "join",
    "keep_alive",
    "known",
    "left_to_the_table",
    "listen",
    "limit_time",
    "lock",
    "make_due",
    "next_due",
    "next_times",
    "notify",
    "notify_once",
    "now",
    "open_queues",
    "orphans",
    "pause",
    "paused",
    "progress",
    "promote",
    "prunable",
    "prune",
    "references",
    "referred",
    "redefine",
    "register",
    "remaining",
    "remove",
    "result",
    "resume",
    "retry",
    "run_schedule",
    "running_under",
    "seize",
    "set_arguments",
    "set_keys",
    "say_locked",
    "say_unlocked",
    "standing",
    "standing_schedules",
    "stopped",
    "switch_schedule",
    "take",
    "take_due",
    "try_keys",
    "undefine",
    "unfinished",
    "unheld",
    "unlock",
    "which_table",
    "window",
    "window_of",
    "without_key",
]
