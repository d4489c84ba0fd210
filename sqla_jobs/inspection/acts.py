"""Retry, cancel or delete many jobs, a bounded batch at a time."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from sqla_jobs import lifecycle
from sqla_jobs.awaited import Sync, session_of
from sqla_jobs.awaited import verb as awaitable
from sqla_jobs.errors import InvalidFilter
from sqla_jobs.inspection.filters import JobFilter
from sqla_jobs.inspection.pages import LOOK, MOST, Walk, check_number
from sqla_jobs.models import JobMixin

Act = Literal["retry", "cancel", "delete"]

_ACTS: Final[tuple[str, ...]] = get_args(Act)


@dataclass(frozen=True, kw_only=True)
class Acted:
    """What became of a batch."""

    done: int
    """Retried, cancelled (or asked to, where they run) or deleted."""
    passed: dict[str, int] = field(default_factory=dict)
    """How many were left as they were, by the reason: see `act`."""
    next: str | None = None
    """Where to go on; None: nothing follows."""


@awaitable
def act(
    session: Sync,
    model: type[JobMixin],
    verb: Act,
    *,
    ids: Iterable[int] | None = None,
    where: JobFilter | None = None,
    cursor: str | None = None,
    limit: int = 500,
    now: dt.datetime | None = None,
) -> Acted:
    """Retry, cancel or delete jobs, a batch of them, in the Session's transaction.

    Of many, commit and go on with ``next`` until that is None: what a batch has locked is locked until the
    commit. Waits for nobody who has a job locked.

    Parameters:
        verb: see `sqla_jobs.retry`, `cancel`, `delete`.
        ids: these jobs, at most ``limit``.
        where: or all that satisfy a filter, in the order of `list_jobs`. One that is in none of its states
            any more when its turn comes is left alone.
        cursor: ``next`` of the batch before.
        limit: jobs of a batch, at most 1,000.
        now: what the time is taken to be; None: the database's clock.

    Returns:
        With the reasons for which jobs were passed over: ``busy`` (somebody has it locked), ``gone``,
        ``changed`` (into another state than was asked for); of a cancel ``finished``; of a retry ``queued``,
        ``running``, ``succeeded`` and ``duplicate`` (another job holds its unique key); of a delete
        ``running`` and ``referenced`` (by a row whose foreign key does not let it go).

    Raises:
        InvalidFilter: no such verb; neither ids nor a filter, or both; ids that are none, or too many.
    """
    own = session_of(session, "act")
    if verb not in _ACTS:
        raise InvalidFilter("verb", verb, f"one of {', '.join(_ACTS)}")
    check_number("limit", limit, 1, MOST)
    if (ids is None) == (where is None):
        raise InvalidFilter("what to act on", "nothing" if ids is None else "both", "ids, or a filter")
    own.flush()
    following = None
    given: dict[str, Any] = {} if verb == "delete" else {"now": now}
    if where is not None:
        page = Walk(own, model, where, now).page(cursor, limit, LOOK)
        chosen, following = [each.id for each in page.jobs], page.next
        if where.states:
            given["states"] = [each.value for each in where.states]
    else:
        chosen = _checked(ids, limit)
    if not chosen:
        return Acted(done=0, next=following)
    many: Any = {
        "retry": lifecycle.retry_many,
        "cancel": lifecycle.cancel_many,
        "delete": lifecycle.delete_many,
    }
    done, passed = many[verb](own, model, chosen, **given)
    return Acted(done=len(done), passed=dict(Counter(passed.values())), next=following)


def _checked(ids: Any, limit: int) -> list[int]:
    chosen = list(dict.fromkeys(ids))
    if len(chosen) > limit:
        raise InvalidFilter("ids", f"{len(chosen):,} of them", f"at most {limit:,}, the limit, at a time")
    for each in chosen:
        if type(each) is not int or not -(2**63) <= each < 2**63:
            raise InvalidFilter("ids", each, "the ids of jobs, whole numbers such as 7")
    return chosen
