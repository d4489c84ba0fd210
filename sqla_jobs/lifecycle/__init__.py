"""The verbs. Each is a plain function whose first argument is a Session.

None of them begins, commits or rolls back: the transaction is the caller's. An async caller runs
them with ``AsyncSession.run_sync``.

    jobs       enqueue, claim or take, finish, promote, in the order of a job's life
    cancels    cancel, of one job or of all that wait
    workers    register, heartbeat, goodbye; rescue, for who says none of these any more; health
"""

from sqla_jobs.lifecycle.cancels import Cancelled, cancel, cancel_waiting
from sqla_jobs.lifecycle.jobs import (
    Claimed,
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
    "Rescued",
    "Standing",
    "Written",
    "cancel",
    "cancel_requests",
    "cancel_waiting",
    "claim",
    "deny_lock",
    "enqueue",
    "finish",
    "give_back_strays",
    "goodbye",
    "has_work",
    "health",
    "heartbeat",
    "hold",
    "next_due",
    "promote",
    "register",
    "remaining",
    "rescue",
    "standing",
    "take",
    "target",
    "unheld",
]
