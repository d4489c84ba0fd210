"""Why a job has no result to give."""

from __future__ import annotations

from sqla_jobs.errors.root import JobsError, shown


class ResultError(JobsError):
    """`Task.result` has none to give.

    Attributes:
        job_id: the job that was asked for.
        task: the task's name.
    """

    def __init__(self, job_id: int, task: str, detail: str) -> None:
        super().__init__(f"job {job_id} ({task}) {detail}")
        self.job_id = job_id
        self.task = task


class JobNotFinished(ResultError):
    """The job waits, or runs.

    Attributes:
        state: `scheduled`, `queued` or `running`.
    """

    def __init__(self, job_id: int, task: str, state: str) -> None:
        super().__init__(job_id, task, f"is {state}: it has no result yet")
        self.state = state


class JobFailed(ResultError):
    """The job has failed for good. What its last attempt raised is no exception here, but text.

    Attributes:
        error: the class of the last error, for example `ValueError`; None: the row does not say.
        message: what it said; likewise.
        traceback: of that error; likewise.
    """

    def __init__(
        self,
        job_id: int,
        task: str,
        error: str | None = None,
        message: str | None = None,
        traceback: str | None = None,
    ) -> None:
        why = "" if error is None else f": {error}: {message}" if message else f": {error}"
        super().__init__(job_id, task, f"has failed{why}")
        self.error = error
        self.message = message
        self.traceback = traceback


class JobCancelled(ResultError):
    """The job was cancelled, by somebody or by itself.

    Attributes:
        reason: of the `Cancel` that it ended in; None: it had not begun.
    """

    def __init__(self, job_id: int, task: str, reason: str | None = None) -> None:
        super().__init__(job_id, task, f"was cancelled: {reason}" if reason else "was cancelled")
        self.reason = reason


class NoResult(ResultError):
    """The job has succeeded, and its row holds no result: it ran when the task did not keep them yet."""

    def __init__(self, job_id: int, task: str) -> None:
        super().__init__(
            job_id, task, "has succeeded without a result: it ran when its task had no result=True"
        )


class ResultNotLoadable(ResultError):
    """The result in the row does not fit the return annotation that the task has now.

    Attributes:
        value: what the row holds.
        reason: why it does not fit.
    """

    def __init__(self, job_id: int, task: str, value: object, reason: str) -> None:
        super().__init__(job_id, task, f"has a result that cannot be loaded from {shown(value)}: {reason}")
        self.value = value
        self.reason = reason
