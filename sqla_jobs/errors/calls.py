"""What is wrong with a call: it cannot become a job, or there is no such job."""

from __future__ import annotations

from sqla_jobs.errors.root import JobsError, shown


class EnqueueError(JobsError):
    """This call cannot become a job; nothing was added to the Session."""


class InvalidArguments(EnqueueError, TypeError):
    """The call does not fit the task's signature: missing, unexpected, or a value of another type.

    Attributes:
        task: the task's name.
        call: the call that was expected, for example `send_receipt(order_id: int)`.
        problem: what is wrong with the one that was made.
    """

    def __init__(self, task: str, call: str, problem: str) -> None:
        super().__init__(f"{call}: {problem}")
        self.task = task
        self.call = call
        self.problem = problem


class ArgumentsNotStorable(EnqueueError):
    """A value that fits, but would not come back from JSONB as it is.

    Attributes:
        task: the task's name.
        argument: where in the arguments, for example `order.items[3].price`.
        reason: why it would be lost or changed, and what to do.
    """

    def __init__(self, task: str, argument: str, value: object, reason: str) -> None:
        super().__init__(f"{task}: {argument} = {shown(value)} cannot be stored: {reason}")
        # The value itself is not kept: it is what cannot be stored, so often cannot be pickled either.
        self.task = task
        self.argument = argument
        self.reason = reason


class JobNotFound(JobsError, LookupError):
    """No job has this id: it never had one, or it was pruned.

    Attributes:
        job_id: the id.
    """

    def __init__(self, job_id: int) -> None:
        super().__init__(f"there is no job {job_id}: it was pruned, or never was, or is not committed yet")
        self.job_id = job_id


class DuplicateJob(JobsError):
    """Another job holds the unique key of this one.

    Attributes:
        unique_key: the key, as it is in the rows.
        holder: the id of the job that holds it; None: this transaction cannot see it, or not any more.
        job_id: the job that cannot have it; None: it is not in the table.
    """

    def __init__(self, unique_key: str, holder: int | None = None, job_id: int | None = None) -> None:
        who = "the job" if job_id is None else f"job {job_id}"
        by = "a job that this transaction does not see" if holder is None else f"job {holder}"
        super().__init__(
            f"{who} cannot have the unique key {unique_key}, which is held by {by}: wait until that one lets"
            " go of it, or cancel it"
        )
        self.unique_key = unique_key
        self.holder = holder
        self.job_id = job_id
