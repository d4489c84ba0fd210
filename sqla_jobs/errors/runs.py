"""What becomes of a run: recorded in the job's `attempts`, or the claim is lost."""

from __future__ import annotations

from datetime import timedelta

from sqla_jobs.errors.root import JobsError, shown


class JobError(JobsError):
    """An error of a job rather than of a call: found in the `attempts` of the job's row."""


class ArgumentsNotLoadable(JobError):
    """The arguments in the row do not fit the signature of the code that would run them.

    Attributes:
        task: the task's name.
        argument: the argument's name, or None if the row holds no arguments by name at all.
        value: what the row holds.
        reason: why the task cannot take it, and what to do.
    """

    def __init__(self, task: str, argument: str | None, value: object, reason: str) -> None:
        what = "the arguments" if argument is None else f"argument {argument!r}"
        super().__init__(f"{task}: {what} cannot be loaded from {shown(value)}: {reason}")
        self.task = task
        self.argument = argument
        self.value = value
        self.reason = reason


class RecordNotFound(JobError, LookupError):
    """A mapped object that the job was given, by its identity, is not there when the job runs.

    Attributes:
        task: the task's name.
        argument: where in the arguments, for example `orders[2]`.
        model: the name of the mapped class.
        key: the primary key, as text.
    """

    def __init__(self, task: str, argument: str, model: str, key: str) -> None:
        super().__init__(
            f"{task}: {argument} is {model} {key}, which is not there: it was deleted since, or not committed"
        )
        self.task = task
        self.argument = argument
        self.model = model
        self.key = key


class JobEscaped(JobError):
    """The job ended the transaction that its worker owns, so its writes may be committed or gone."""

    def __init__(self, detail: str = "the job ended the transaction that its worker owns") -> None:
        super().__init__(detail)


class WorkerDied(JobError):
    """The process that ran the job is gone; the job's writes were rolled back with its connection."""

    def __init__(self, detail: str = "the worker died while it ran the job") -> None:
        super().__init__(detail)


class JobTimeout(JobError):
    """The job ran longer than its timeout, and was interrupted; its writes are rolled back.

    Attributes:
        timeout: how long it may run.
    """

    def __init__(self, timeout: timedelta) -> None:
        super().__init__(f"the job ran longer than its timeout of {timeout}")
        self.timeout = timeout


class ResultNotStorable(JobError):
    """What a task returned cannot be kept as its result, so the attempt has failed.

    Attributes:
        task: the task's name.
        where: in what it returned, for example `result[3].price`.
        reason: why it does not fit, or would be lost or changed, and what to do.
    """

    def __init__(self, task: str, where: str, value: object, reason: str) -> None:
        super().__init__(f"{task}: {where} = {shown(value)} cannot be kept: {reason}")
        self.task = task
        self.where = where
        self.reason = reason


class ClaimLost(JobsError):
    """Somebody else has taken over the job: everything that this attempt wrote is rolled back.

    Attributes:
        job_id: the job, if known.
    """

    def __init__(self, job_id: int | None = None, detail: str = "") -> None:
        which = "the job" if job_id is None else f"job {job_id}"
        super().__init__(detail or f"the claim on {which} is lost: somebody else has taken it over")
        self.job_id = job_id
