"""One job, with all that its row says."""

from __future__ import annotations

from collections.abc import Iterable

from sqla_jobs import statements
from sqla_jobs.awaited import Sync, session_of, verb
from sqla_jobs.errors import InvalidFilter
from sqla_jobs.inspection.rows import JobDetail, detail_of
from sqla_jobs.lifecycle.sent import execute
from sqla_jobs.models import JobMixin


@verb
def show_job(
    session: Sync, model: type[JobMixin], job_id: int, *, redact: Iterable[str] = ()
) -> JobDetail | None:
    """One job, with its arguments, attempts and result; None: there is none of that id. Reads only.

    Parameters:
        redact: names of arguments that are not to be seen, beside those that the row names.

    Raises:
        InvalidFilter: it is no id.
    """
    own = session_of(session, "show_job")
    if type(job_id) is not int or not -(2**63) <= job_id < 2**63:
        raise InvalidFilter("job", job_id, "the id of a job, a whole number such as 7")
    row = execute(own, model, statements.detail(model), p_id=job_id).first()
    return None if row is None else detail_of(row, redact)
