"""The verbs. Each is a plain function whose first argument is a Session.

None of them begins, commits or rolls back: the transaction is the caller's. An async caller runs
them with ``AsyncSession.run_sync``.

    jobs       enqueue, claim or take, finish, promote, in the order of a job's life
    workers    register, heartbeat, goodbye; rescue, for who says none of these any more
"""

from sqla_jobs.lifecycle.jobs import (
    Claimed,
    Standing,
    Written,
    claim,
    enqueue,
    finish,
    has_work,
    next_due,
    promote,
    remaining,
    standing,
    take,
    target,
)
from sqla_jobs.lifecycle.workers import Rescued, give_back_strays, goodbye, heartbeat, register, rescue

__all__ = [
    "Claimed",
    "Rescued",
    "Standing",
    "Written",
    "claim",
    "enqueue",
    "finish",
    "give_back_strays",
    "goodbye",
    "has_work",
    "heartbeat",
    "next_due",
    "promote",
    "register",
    "remaining",
    "rescue",
    "standing",
    "take",
    "target",
]
