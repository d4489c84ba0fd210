"""What a run in the ordinary lane comes to, when it is not recorded yet."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from sqlalchemy.exc import DBAPIError

from sqla_jobs.errors import ClaimLost
from sqla_jobs.outcome import Outcome
from sqla_jobs.runner.failures import is_conflict, is_lost, is_transient
from sqla_jobs.scope import Ran


class Rerun(Enum):
    """What may follow instead of an end."""

    AGAIN = "run the job again, its claim still holds"


@dataclass(frozen=True)
class Refused:
    """A run whose transaction did not come to its end, and is gone with all that it wrote."""

    error: BaseException
    ran: Ran
    outcome: Outcome | None
    """What its commit would have recorded; None: it did not come that far."""
    touched: bool
    checkpointed: bool = False
    """Whether an earlier part of it is committed, so that it must not run again under the same claim."""
    stood: bool = True
    """Whether its savepoint was set; if not, the pool gave it a connection that was dead already."""

    @property
    def may_stand(self) -> bool:
        """Whether its commit may have taken effect: the connection was lost in it, or a hook raised."""
        if self.outcome is None or isinstance(self.error, ClaimLost):
            return False
        return is_lost(self.error) or not isinstance(self.error, DBAPIError)

    @property
    def held_only_the_finish(self) -> bool:
        return self.outcome is not None and (self.ran.error is not None or not self.touched)

    @property
    def is_nobodys_fault(self) -> bool:
        """Whether what was refused may go through if it is sent again."""
        if self.held_only_the_finish:
            return is_transient(self.error)
        before_or_after = self.outcome is not None or not self.stood
        return is_conflict(self.error) or (before_or_after and is_lost(self.error))


@dataclass(frozen=True)
class Untouched:
    """A run that succeeded and has sent nothing to the database."""

    ran: Ran
    outcome: Outcome
