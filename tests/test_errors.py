"""Errors keep their pieces, survive pickle and copy, and say what to do."""

import copy
import pickle
from datetime import timedelta

import pytest

from sqla_jobs import errors
from sqla_jobs.errors import (
    ArgumentsNotLoadable,
    ArgumentsNotStorable,
    Cancel,
    ClaimLost,
    ConfigurationError,
    DefinitionError,
    DuplicateJob,
    EnqueueError,
    GiveBack,
    InvalidArguments,
    InvalidFilter,
    InvalidOption,
    InvalidQueueName,
    InvalidSchedule,
    JobCancelled,
    JobError,
    JobEscaped,
    JobFailed,
    JobNotFinished,
    JobNotFound,
    JobsError,
    JobTimeout,
    NoResult,
    RecordNotFound,
    ResultError,
    ResultNotLoadable,
    ResultNotStorable,
    SchemaError,
    Snooze,
    TaskAlreadyRegistered,
    TaskDefinitionError,
    UnknownTask,
    WorkerDied,
    shown,
)

EXAMPLES = [
    JobsError("anything"),
    DefinitionError("a mistake"),
    TaskDefinitionError("shop.f takes *args"),
    TaskAlreadyRegistered("shop.f"),
    TaskAlreadyRegistered("shop.f", "other.f"),
    InvalidOption("priority 'high'; expected a number"),
    InvalidQueueName("queue name 'a b'; expected letters"),
    InvalidFilter("state", "lost", "one of queued, running"),
    InvalidSchedule("interval", 0, "a timedelta above zero"),
    InvalidSchedule("minute", "61", "0 to 59", "61 * * * *"),
    EnqueueError("not now"),
    InvalidArguments("shop.f", "shop.f(a: int)", "missing argument 'a'"),
    ArgumentsNotStorable("shop.f", "order.at", object(), "it would come back as text"),
    UnknownTask("shop.f", ["shop.g"]),
    JobError("broken"),
    ArgumentsNotLoadable("shop.f", "a", {"x": [1]}, "it is missing"),
    ArgumentsNotLoadable("shop.f", None, [1], "expected an object"),
    RecordNotFound("shop.f", "orders[2]", "Order", "7"),
    JobEscaped(),
    JobEscaped("the job ended its savepoint"),
    WorkerDied(),
    WorkerDied("worker 7 gave no heartbeat"),
    JobTimeout(timedelta(seconds=5)),
    ResultNotStorable("shop.f", "result[3].price", object(), "it would come back as text"),
    ResultError(7, "shop.f", "has none"),
    JobNotFinished(7, "shop.f", "running"),
    JobFailed(7, "shop.f"),
    JobFailed(7, "shop.f", "ValueError"),
    JobFailed(7, "shop.f", "ValueError", "no such order", "Traceback ..."),
    JobCancelled(7, "shop.f"),
    JobCancelled(7, "shop.f", "the order is gone"),
    NoResult(7, "shop.f"),
    ResultNotLoadable(7, "shop.f", {"x": [1]}, "it is no number"),
    JobNotFound(7),
    DuplicateJob("k"),
    DuplicateJob("k", 7, 8),
    GiveBack("its worker stopped"),
    ClaimLost(),
    ClaimLost(7),
    ClaimLost(7, "somebody else has job 7"),
    SchemaError("no tables"),
    ConfigurationError("no URL"),
    Cancel(),
    Cancel("the order is gone"),
    Snooze(timedelta(minutes=5)),
    Snooze(timedelta(0)),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickled(error: Exception, protocol: int) -> None:
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.args == error.args
    assert vars(again) == vars(error)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copied(error: Exception, copied) -> None:
    again = copied(error)
    assert type(again) is type(error)
    assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))


def test_every_class_has_an_example_a_docstring_and_a_place_in_the_tree() -> None:
    classes = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and value.__module__ == errors.__name__
    }
    public = {cls for cls in classes if not cls.__name__.startswith("_")}
    assert {type(error) for error in EXAMPLES} == public
    assert {cls.__name__ for cls in public} | {"shown"} == set(errors.__all__)
    for cls in public:
        assert cls.__doc__
        assert cls.__name__ in (errors.__doc__ or "")


def test_the_tree() -> None:
    for cls in (
        DefinitionError,
        EnqueueError,
        UnknownTask,
        JobError,
        ClaimLost,
        ResultError,
        SchemaError,
        ConfigurationError,
    ):
        assert cls.__bases__[0] is JobsError
    for cls in (TaskDefinitionError, TaskAlreadyRegistered, InvalidOption):
        assert cls.__bases__[0] is DefinitionError
    for cls in (InvalidArguments, ArgumentsNotStorable):
        assert cls.__bases__[0] is EnqueueError
    for cls in (ArgumentsNotLoadable, JobEscaped, WorkerDied, ResultNotStorable):
        assert cls.__bases__ == (JobError,)
    for cls in (JobNotFinished, JobFailed, JobCancelled, NoResult, ResultNotLoadable):
        assert cls.__bases__ == (ResultError,)
    assert issubclass(InvalidOption, ValueError)
    assert issubclass(InvalidQueueName, InvalidOption)
    assert issubclass(InvalidArguments, TypeError)
    assert issubclass(UnknownTask, LookupError)
    for signal in (Cancel, Snooze):
        assert signal.__bases__ == (Exception,)


def test_an_unknown_task_names_those_that_look_like_it() -> None:
    error = UnknownTask("shop.jobs.send_reciept", ["shop.jobs.send_receipt", "shop.jobs.bill"])
    assert error.name == "shop.jobs.send_reciept"
    assert error.known == ("shop.jobs.bill", "shop.jobs.send_receipt")
    assert "did you mean 'shop.jobs.send_receipt'?" in str(error)
    assert "imported by the worker" in str(error)


def test_an_unknown_task_may_have_moved_to_another_module() -> None:
    assert "'company.mailing.receipts.send_receipt'" in str(
        UnknownTask("a.send_receipt", ["company.mailing.receipts.send_receipt", "company.bill"])
    )


def test_an_unknown_task_among_strangers_and_among_none() -> None:
    assert "2 other tasks are" in str(UnknownTask("shop.f", ["zzz.qqq", "yyy.qqq"]))
    assert "no task is" in str(UnknownTask("shop.f"))


def test_a_name_that_is_taken_says_by_whom() -> None:
    assert "'shop.f' is already registered by other.f" in str(TaskAlreadyRegistered("shop.f", "other.f"))
    assert 'name="..."' in str(TaskAlreadyRegistered("shop.f"))


@pytest.mark.parametrize("delay", [5, 5.0, "5", None, True, timedelta(seconds=-1), timedelta.max])
def test_snooze_takes_only_a_timedelta_that_makes_sense(delay: object) -> None:
    with pytest.raises(InvalidOption, match="expected") as caught:
        Snooze(delay)  # type: ignore[arg-type]
    assert "timedelta" in str(caught.value)


def test_cancel_takes_only_text() -> None:
    with pytest.raises(InvalidOption, match=r"expected text, for example str\(error\)"):
        Cancel(ValueError("x"))  # type: ignore[arg-type]
    assert Cancel("gone").reason == "gone"


def test_what_is_shown_is_short_and_never_raises() -> None:
    class Rude:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    loop: list[object] = []
    loop.append(loop)
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (Rude(), loop, deep, "x" * 10_000, 10**100_000, [Rude()] * 1000, {Rude(): deep}, "\ud800"):
        assert 0 < len(shown(value)) <= 200
    # Taken apart from the inside, since freeing it at once is deep as well.
    while deep:
        deep = deep.pop()  # type: ignore[assignment]
    assert shown("abc") == "'abc'"
    assert shown(-7) == "-7"
