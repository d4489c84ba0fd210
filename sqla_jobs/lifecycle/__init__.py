"""The verbs. Each is a plain function whose first argument is a Session.

None of them begins, commits or rolls back: the transaction is the caller's. An async caller runs
them with ``AsyncSession.run_sync``.

    jobs       enqueue, claim or take, finish, promote, in the order of a job's life
    groups     claim_either, join, finish_group: the fast lane; exchange: several of the ordinary one
    enqueued   insert, enqueue_many: without a flush
    cancels    cancel, of one job or of all that wait
    prunes     prune, of all that finished long ago
    workers    register, heartbeat, goodbye; rescue, for who says none of these any more; health
"""

from sqla_jobs.lifecycle.cancels import Cancelled, cancel, cancel_waiting
from sqla_jobs.lifecycle.enqueued import can_insert, enqueue_many, insert
from sqla_jobs.lifecycle.groups import claim_either, exchange, finish_group, join, remove
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
    target,
)
from sqla_jobs.lifecycle.prunes import prune
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
    "Cancelled",
    "Claimed",
    "Health",
    "Mark",
    "Rescued",
    "Standing",
    "Written",
    "can_insert",
    "cancel",
    "cancel_requests",
    "cancel_waiting",
    "claim",
    "claim_either",
    "deny_lock",
    "enqueue",
    "enqueue_many",
    "exchange",
    "finish",
    "finish_group",
    "give_back_strays",
    "goodbye",
    "has_work",
    "health",
    "heartbeat",
    "hold",
    "insert",
    "join",
    "next_due",
    "promote",
    "prune",
    "register",
    "remaining",
    "remove",
    "rescue",
    "standing",
    "take",
    "target",
    "unheld",
]
