"""The verbs. Each is a plain function whose first argument is a Session.

None of them begins, commits or rolls back: the transaction is the caller's. An async caller runs
them with ``AsyncSession.run_sync``.

    sent       how a statement is sent
    jobs       enqueue, claim or take, finish, promote, in the order of a job's life
    groups     claim_either, claim_group, join, finish_group: the fast lane; exchange: several of the other
    limits     claim_counted: jobs of tasks with a limit
    enqueued   insert, enqueue_many: without a flush
    unique     enqueue_unique, enqueue_many_unique: or whoever holds the key
    cancels    cancel, of one job or of all that wait
    retries    retry, of one job that is over or waits
    results    left, progress: what became of a job, or how far it has come
    deletes    delete, of one job; removals: what foreign keys say to that
    batches    cancel_many, retry_many, delete_many: of jobs that somebody has chosen
    prunes     prune, of all that finished long ago
    definitions  sync, disable_absent: the schedules of the code, written to their rows
    schedules  next_times, due_schedules, busy_schedules, make_due: their jobs; list_schedules
    pauses     pause, resume, paused, open_queues
    filters    index_of_claims: whether there is one for those of a filter
    by_hand    run_schedule, switch_schedule: for whoever looks after schedules
    workers    register, heartbeat, goodbye; rescue, for who says none of these any more; health
"""

from sqla_jobs.lifecycle.batches import Batch, cancel_many, delete_many, retry_many
from sqla_jobs.lifecycle.by_hand import run_schedule, switch_schedule
from sqla_jobs.lifecycle.cancels import Cancelled, cancel, cancel_waiting
from sqla_jobs.lifecycle.definitions import Definition, Synced, disable_absent, sync
from sqla_jobs.lifecycle.deletes import ANY_STATE, Deleted, delete
from sqla_jobs.lifecycle.enqueued import Tell, can_insert, enqueue_many, insert
from sqla_jobs.lifecycle.filters import index_of_claims
from sqla_jobs.lifecycle.groups import claim_either, claim_group, exchange, finish_group, join, remove
from sqla_jobs.lifecycle.jobs import (
    Claimed,
    Mark,
    Standing,
    Written,
    cancel_requests,
    claim,
    enqueue,
    finish,
    has_work,
    hold,
    next_due,
    promote,
    remaining,
    standing,
    take,
    unfinished,
)
from sqla_jobs.lifecycle.limits import Counted, Limited, claim_counted, limit_key
from sqla_jobs.lifecycle.pauses import open_queues, pause, paused, resume
from sqla_jobs.lifecycle.prunes import check_age, prune
from sqla_jobs.lifecycle.results import Left, left, progress
from sqla_jobs.lifecycle.retries import Retried, retry
from sqla_jobs.lifecycle.schedules import (
    Advance,
    DueSchedule,
    Knowledge,
    NextTimes,
    ScheduleShown,
    Tick,
    busy_schedules,
    due_schedules,
    list_schedules,
    make_due,
    next_times,
)
from sqla_jobs.lifecycle.sent import LeftOut, overhear, target
from sqla_jobs.lifecycle.unique import (
    Clock,
    enqueue_in_savepoint,
    enqueue_many_unique,
    enqueue_unique,
    is_keyed,
)
from sqla_jobs.lifecycle.workers import (
    Health,
    Rescued,
    deny_lock,
    give_back_strays,
    goodbye,
    health,
    heartbeat,
    register,
    rescue,
    unheld,
)

__all__ = [
    "ANY_STATE",
    "Advance",
    "Batch",
    "Cancelled",
    "Claimed",
    "Clock",
    "Counted",
    "Definition",
    "Deleted",
    "DueSchedule",
    "Health",
    "Knowledge",
    "Left",
    "LeftOut",
    "Limited",
    "Mark",
    "NextTimes",
    "Rescued",
    "Retried",
    "ScheduleShown",
    "Standing",
    "Synced",
    "Tell",
    "Tick",
    "Written",
    "busy_schedules",
    "can_insert",
    "cancel",
    "cancel_many",
    "cancel_requests",
    "cancel_waiting",
    "check_age",
    "claim",
    "claim_counted",
    "claim_either",
    "claim_group",
    "delete",
    "delete_many",
    "deny_lock",
    "disable_absent",
    "due_schedules",
    "enqueue",
    "enqueue_in_savepoint",
    "enqueue_many",
    "enqueue_many_unique",
    "enqueue_unique",
    "exchange",
    "finish",
    "finish_group",
    "give_back_strays",
    "goodbye",
    "has_work",
    "health",
    "heartbeat",
    "hold",
    "index_of_claims",
    "insert",
    "is_keyed",
    "join",
    "left",
    "limit_key",
    "list_schedules",
    "make_due",
    "next_due",
    "overhear",
    "next_times",
    "open_queues",
    "pause",
    "paused",
    "progress",
    "promote",
    "prune",
    "register",
    "remaining",
    "remove",
    "rescue",
    "resume",
    "retry",
    "retry_many",
    "run_schedule",
    "standing",
    "switch_schedule",
    "sync",
    "take",
    "target",
    "unfinished",
    "unheld",
]
