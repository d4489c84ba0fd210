"""Everything that this library raises on purpose, and the two signals a task may raise or return.

JobsError
  x DefinitionError                  the application's code says something that cannot work
    - TaskDefinitionError              a function that cannot be a task
    - TaskAlreadyRegistered            a second task of the same name
    - InvalidOption       (ValueError) a queue, priority, delay, ... out of its range
      - InvalidQueueName
      - InvalidSchedule                  a cron line, a time zone or an interval that cannot be
  x EnqueueError                     this call cannot become a job
    - InvalidArguments    (TypeError)  the call does not fit the task's signature
    - ArgumentsNotStorable             it fits, but JSONB would lose or change a value
  x UnknownTask           (LookupError)
  x JobError                         recorded in a job's attempts
    - ArgumentsNotLoadable             the row does not fit the signature of the code that runs it
    - RecordNotFound      (LookupError)  an object that it was given by identity is gone
    - JobEscaped                       the job ended the transaction that its worker owns
    - WorkerDied                       the process that ran the job is gone
    - JobTimeout                       it ran longer than its timeout, and was interrupted
    - ResultNotStorable                what it returned does not fit, or JSONB would lose or change it
  x ResultError                      task.result(): there is none to give
    - JobNotFinished                   it waits, or runs
    - JobFailed
    - JobCancelled
    - NoResult                         it has succeeded, and kept none
    - ResultNotLoadable                the row's does not fit the code that asks for it
  x ClaimLost                        somebody else has taken over the job
  x JobNotFound           (LookupError)  no job has this id
  x DuplicateJob                     another job holds the unique key of this one
  x SchemaError                      the tables are missing, or of another revision
  x ConfigurationError               nothing says which database, which module, ...

Cancel, Snooze, GiveBack             signals: none is an error, nor a JobsError
"""

from __future__ import annotations

import copyreg
import difflib
import reprlib
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

__all__ = [
    "ArgumentsNotLoadable",
    "ArgumentsNotStorable",
    "Cancel",
    "ClaimLost",
    "ConfigurationError",
    "DefinitionError",
    "DuplicateJob",
    "EnqueueError",
    "GiveBack",
    "InvalidArguments",
    "InvalidOption",
    "InvalidQueueName",
    "InvalidSchedule",
    "JobCancelled",
    "JobError",
    "JobEscaped",
    "JobFailed",
    "JobNotFinished",
    "JobNotFound",
    "JobTimeout",
    "JobsError",
    "NoResult",
    "RecordNotFound",
    "ResultError",
    "ResultNotLoadable",
    "ResultNotStorable",
    "SchemaError",
    "Snooze",
    "TaskAlreadyRegistered",
    "TaskDefinitionError",
    "UnknownTask",
    "WorkerDied",
    "shown",
]

_LONGEST_SNOOZE = timedelta(days=36_525)


class _Shortener(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:  # noqa: ARG002 - what reprlib calls
        # repr() itself refuses an int of more than sys.get_int_max_str_digits() digits
        if x.bit_length() > 1000:
            return f"<int of {x.bit_length()} bits>"
        return repr(x)


_shortener = _Shortener()
_shortener.maxlevel = 4
_shortener.maxstring = _shortener.maxother = 160
_shortener.maxlist = _shortener.maxtuple = _shortener.maxdict = _shortener.maxset = 8


def shown(value: object) -> str:
    """`repr(value)` for a message: at most 200 characters, and never an error of its own."""
    text = _shortener.repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


class JobsError(Exception):
    """The base of every error of this library.

    What an error was made of stays on it as attributes, and it can be pickled and copied.
    """

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        # Exception's own way calls the constructor with the finished message, which takes the pieces.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class DefinitionError(JobsError):
    """A mistake in the application's code, raised where the code says it."""


class TaskDefinitionError(DefinitionError):
    """A function that cannot be a task: no Session parameter, `*args`, a type that cannot be stored, ..."""


class TaskAlreadyRegistered(DefinitionError):
    """Two tasks of one name: a worker could not tell which of them a job means.

    Attributes:
        name: the name that is taken.
    """

    def __init__(self, name: str, by: str = "") -> None:
        super().__init__(
            f"a task named {name!r} is already registered{f' by {by}' if by else ''}:"
            ' rename the function, or give one of them a name of its own, @jobs.task(name="...")'
        )
        self.name = name


class InvalidOption(DefinitionError, ValueError):
    """An option out of its range: queue, priority, delay, attempts, a cron line, ...

    Raised at the definition or in `using()`, not when the job runs.
    """


class InvalidQueueName(InvalidOption):
    """A queue's name that is empty, too long or has other characters than letters, digits, `_ - .`."""


class InvalidSchedule(InvalidOption):
    """A cron line, a time zone or an interval that says no time.

    Attributes:
        field: what is wrong: `minute`, `day of week`, `cron line`, `timezone`, `interval`, ...
        found: what is there.
        expected: what could stand there.
        line: the cron line, or None if that is not what is wrong.
        schedule: the name of the schedule, if it has one already.
    """

    def __init__(
        self,
        field: str,
        found: object,
        expected: str,
        line: str | None = None,
        schedule: str | None = None,
    ) -> None:
        whose = "" if schedule is None else f"schedule {shown(schedule)}: "
        of = "" if line is None else f"cron line {shown(line)}: "
        super().__init__(f"{whose}{of}{field} is {shown(found)}; expected {expected}")
        self.field = field
        self.found = found
        self.expected = expected
        self.line = line
        self.schedule = schedule

    def of(self, schedule: str) -> InvalidSchedule:
        """The same error, said of a schedule of this name."""
        return InvalidSchedule(self.field, self.found, self.expected, self.line, schedule)


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


class UnknownTask(JobsError, LookupError):
    """No task of this name is registered here.

    Attributes:
        name: the name that was looked for.
        known: the names that are registered.
    """

    def __init__(self, name: str, known: Iterable[str] = ()) -> None:
        self.name = name
        self.known = tuple(sorted(known))
        near = difflib.get_close_matches(name, self.known, n=3, cutoff=0.8)
        tail = name.rpartition(".")[2]
        near += [other for other in self.known if other.rpartition(".")[2] == tail and other not in near][:3]
        if near:
            hint = f"did you mean {' or '.join(map(repr, near))}?"
        elif self.known:
            hint = f"{len(self.known)} other tasks are."
        else:
            hint = "no task is."
        super().__init__(
            f"no task named {name!r} is registered; {hint} Is its module imported by the worker?"
        )


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


class ClaimLost(JobsError):
    """Somebody else has taken over the job: everything that this attempt wrote is rolled back.

    Attributes:
        job_id: the job, if known.
    """

    def __init__(self, job_id: int | None = None, detail: str = "") -> None:
        which = "the job" if job_id is None else f"job {job_id}"
        super().__init__(detail or f"the claim on {which} is lost: somebody else has taken it over")
        self.job_id = job_id


class SchemaError(JobsError):
    """The job tables or their version marker are missing, or of an older or newer revision than this code."""


class ConfigurationError(JobsError):
    """Something that only the caller can say was not said: no database URL, no such module, ..."""


class Cancel(Exception):
    """Stop this job for good: its state becomes `cancelled`, and it is not tried again.

    Raised, it rolls the job's writes back; returned, they are kept.

    >>> def charge(session, order_id):
    ...     order = session.get(Order, order_id)
    ...     if order is None:
    ...         raise Cancel("the order was deleted")

    Parameters:
        reason: kept in the job's `attempts`.

    Raises:
        InvalidOption: the reason is not text.
    """

    def __init__(self, reason: str = "") -> None:
        if not isinstance(reason, str):
            raise InvalidOption(f"Cancel(reason) is {shown(reason)}: expected text, for example str(error)")
        super().__init__(reason)
        self.reason = reason


class GiveBack(Exception):
    """The worker ends the job before it is through: its writes are rolled back, and it is ``queued`` again.

    Raised by the worker, not by tasks. The attempt does not count.

    Parameters:
        reason: kept in the job's `attempts`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Snooze(Exception):
    """Run this job again later; the attempt does not count.

    Raised, it rolls the job's writes back; returned, they are kept.

    >>> def fetch_report(session, report_id):
    ...     if not ready(report_id):
    ...         return Snooze(timedelta(minutes=5))

    Parameters:
        delay: how long from now; zero is allowed, at most 100 years.

    Raises:
        InvalidOption: the delay is not a timedelta, is negative or too long.
    """

    def __init__(self, delay: timedelta) -> None:
        if not isinstance(delay, timedelta):
            raise InvalidOption(
                f"Snooze(delay) is {shown(delay)}: expected a timedelta, for example timedelta(minutes=5)"
            )
        if not timedelta(0) <= delay <= _LONGEST_SNOOZE:
            raise InvalidOption(
                f"Snooze(delay) is {delay!r}: expected zero to {_LONGEST_SNOOZE.days} days;"
                " to stop the job for good, raise Cancel"
            )
        super().__init__(delay)
        self.delay = delay
