"""Jobs and its tasks: what can be one, under which name, and what stays of the function."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase, Session

from sqla_jobs import Job, JobMixin, Jobs, RetryPolicy, Task
from sqla_jobs.errors import (
    DefinitionError,
    InvalidOption,
    InvalidQueueName,
    TaskAlreadyRegistered,
    TaskDefinitionError,
    UnknownTask,
)
from sqla_jobs.tasks import PRUNE


@pytest.fixture
def jobs() -> Jobs[Job]:
    return Jobs()


def send(session: Session, to: str, *, copies: int = 1) -> str:
    """Send it."""
    return f"{to} x {copies} by {session}"


def own(jobs: Jobs[Job]) -> dict[str, Any]:
    """The application's tasks, without the library's."""
    return {name: task for name, task in jobs.tasks.items() if name != PRUNE}


# -- names and options -----------------------------------------------------------------------------


def test_a_task_is_named_after_its_function(jobs: Jobs[Job]) -> None:
    task = jobs.task(send)
    assert task.name == f"{__name__}.send"
    assert repr(task) == f"<Task {__name__}.send>"
    assert own(jobs) == {task.name: task}


def test_a_task_may_be_named_otherwise(jobs: Jobs[Job]) -> None:
    task = jobs.task(name="mail: résumé")(send)
    assert task.name == "mail: résumé"
    assert jobs.find("mail: résumé") is task


def test_the_decorator_works_with_and_without_options(jobs: Jobs[Job]) -> None:
    retry = RetryPolicy(max_attempts=2)

    @jobs.task
    def bare(session: Session) -> None: ...

    @jobs.task()
    def called(session: Session) -> None: ...

    @jobs.task(queue="mail", priority=5, retry=retry)
    def full(session: Session) -> None: ...

    for task in (bare, called):
        assert (task.options.queue, task.options.priority, task.retry) == ("default", 0, RetryPolicy())
    assert (full.options.queue, full.options.priority, full.retry) == ("mail", 5, retry)
    assert {task.rpartition(".")[2] for task in own(jobs)} == {"bare", "called", "full"}


def test_the_tasks_cannot_be_changed_from_outside(jobs: Jobs[Job]) -> None:
    tasks: Any = jobs.tasks
    with pytest.raises(TypeError):
        tasks["a"] = jobs.task(send)


def test_a_name_is_registered_once_and_the_message_says_where(jobs: Jobs[Job]) -> None:
    jobs.task(name="mail")(send)
    with pytest.raises(TaskAlreadyRegistered, match=r"'mail' .* by .*test_tasks\.py, line \d+: rename"):
        jobs.task(name="mail")(lambda session: None)
    assert jobs.find("mail").function is send
    other = Jobs()
    assert other.task(name="mail")(send).name == "mail"


def test_a_function_may_be_two_tasks(jobs: Jobs[Job]) -> None:
    """The name is what a job knows; the function's first task is what `find` gives."""
    fast = jobs.task(name="fast", queue="fast")(send)
    slow = jobs.task(name="slow", queue="slow")(send)
    assert (fast.options.queue, slow.options.queue) == ("fast", "slow")
    assert jobs.find(send) is fast


# -- what can be a task ----------------------------------------------------------------------------


class Mailer:
    """Callable, and with attributes that a Task has too."""

    def __init__(self) -> None:
        self.job = self.enqueue = self.name = "its own"

    def __call__(self, session: Session, to: str) -> str:
        return f"{to} called"

    def send(self, session: Session, to: str) -> str:
        return f"{to} by method"

    @staticmethod
    def static(session: Session, to: str) -> str:
        return f"{to} static"


def test_any_callable_can_be_a_task_if_it_has_a_name(session: Session, jobs: Jobs[Job]) -> None:
    mailer = Mailer()
    callables: dict[str, Any] = {
        "object": mailer,
        "partial": functools.partial(send, copies=3),
        "lambda": lambda session, to: f"{to} lambda",
        "method": mailer.send,
        "static": Mailer.static,
    }
    for name, function in callables.items():
        task = jobs.task(name=name)(function)
        assert task.name == name
        assert task.job("a").arguments == {"to": "a"}
        assert task(session, "a") == function(session, "a")
        assert jobs.find(function) is task
    assert jobs.task(Mailer.send.__get__(mailer)).name == f"{__name__}.Mailer.send"
    assert jobs.find(mailer.send).name == "method"


@pytest.mark.parametrize(
    "nameless",
    [Mailer(), functools.partial(send, to="a"), lambda session: None],
    ids=["object", "partial", "λ"],
)
def test_what_has_no_name_is_refused_until_it_is_given_one(jobs: Jobs[Job], nameless: Any) -> None:
    with pytest.raises(TaskDefinitionError, match=r"no name that a worker could find.*name='…'"):
        jobs.task(nameless)
    with pytest.raises(TaskDefinitionError, match="no name"):
        jobs.find(nameless)
    jobs.task(name="given")(nameless)


@pytest.mark.parametrize("name", ["", "  ", "a\x00b", "\ud800", 5, b"mail"])
def test_a_name_must_be_a_text_that_a_row_can_hold(jobs: Jobs[Job], name: Any) -> None:
    with pytest.raises(TaskDefinitionError, match="expected a text"):
        jobs.task(name=name)(send)


async def stream(session: Session) -> AsyncIterator[int]:
    yield 1


def generate(session: Session) -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (stream, "an async generator"),
        (generate, "a generator"),
    ],
)
def test_a_function_whose_call_runs_nothing_is_refused(jobs: Jobs[Job], function: Any, kind: str) -> None:
    with pytest.raises(TaskDefinitionError, match=kind):
        jobs.task(name="lazy")(function)


@pytest.mark.parametrize("thing", [5, "mail", object()])
def test_what_cannot_be_called_is_refused(jobs: Jobs[Job], thing: Any) -> None:
    """Such as a name that was given by position."""
    with pytest.raises(TaskDefinitionError, match="expected a function"):
        jobs.task(thing)
    with pytest.raises(TaskDefinitionError, match="expected a function"):
        jobs.task(name="thing")(thing)


def test_a_task_is_no_function_to_make_a_task_of(jobs: Jobs[Job]) -> None:
    task: Any = jobs.task(send)
    with pytest.raises(TaskDefinitionError, match="is a task already"):
        Jobs().task(name="again")(task)
    assert Jobs().task(name="again")(task.function).name == "again"


def test_the_first_parameter_is_the_session(jobs: Jobs[Job]) -> None:
    with pytest.raises(TaskDefinitionError, match="the first parameter must be the Session"):
        jobs.task(name="none")(lambda: None)  # type: ignore[misc, arg-type]
    with pytest.raises(TaskDefinitionError, match="the first parameter must be the Session"):
        jobs.register(lambda *, session: None, name="keyword")


@pytest.mark.parametrize(
    "options", [{"queue": "a b"}, {"priority": 40_000}, {"retry": 5}, {"retry": "never"}]
)
def test_a_wrong_option_is_refused_at_the_definition(jobs: Jobs[Job], options: dict[str, Any]) -> None:
    with pytest.raises(InvalidQueueName if "queue" in options else InvalidOption, match="expected"):
        jobs.task(name="mail", **options)(send)
    assert not own(jobs)


def test_what_is_refused_is_a_definition_error() -> None:
    """One class to catch them all."""
    for error in (TaskDefinitionError, TaskAlreadyRegistered, InvalidOption, InvalidQueueName):
        assert issubclass(error, DefinitionError)


# -- it stays a function ---------------------------------------------------------------------------


def test_a_task_is_still_the_function(session: Session, jobs: Jobs[Job]) -> None:
    task = jobs.task(send)
    assert task(session, "a", copies=2) == send(session, "a", copies=2)
    assert (task.__name__, task.__qualname__, task.__module__) == ("send", "send", __name__)  # type: ignore[attr-defined]
    assert task.__doc__ == "Send it."
    assert inspect.signature(task) == inspect.signature(send)
    assert inspect.unwrap(task) is send
    assert typing.get_type_hints(inspect.unwrap(task)) == typing.get_type_hints(send)
    assert callable(task)


def test_arguments_may_bear_the_names_of_the_apis_own_parameters(session: Session, jobs: Jobs[Job]) -> None:
    """`session` and the task's name are positional-only throughout, and so is `self`."""

    def odd(s: Session, self: int, task: int, session: int, name: int = 0) -> int:
        return self + task + session

    arguments = {"self": 1, "task": 2, "session": 3}
    task = jobs.task(name="odd")(odd)
    assert task(session, **arguments) == 6
    assert task.job(**arguments).arguments == arguments
    assert task.enqueue(session, **arguments).arguments == arguments
    assert jobs.enqueue(session, "odd", **arguments).arguments == arguments
    assert jobs.enqueue(session, "unknown", **arguments).arguments == arguments


def test_using_gives_a_copy_and_chains(jobs: Jobs[Job]) -> None:
    task = jobs.task(name="mail", queue="mail")(send)
    slow = task.using(queue="slow")
    urgent = slow.using(priority=9)
    assert isinstance(urgent, Task)
    assert [t.options.queue for t in (task, slow, urgent)] == ["mail", "slow", "slow"]
    assert [t.options.priority for t in (task, slow, urgent)] == [0, 0, 9]
    assert urgent.name == "mail"
    assert inspect.signature(urgent) == inspect.signature(send)
    assert own(jobs) == {"mail": task}
    assert jobs.find(urgent) is task


# -- the registry ----------------------------------------------------------------------------------


def test_an_unknown_task_is_told_with_those_that_come_near(jobs: Jobs[Job]) -> None:
    jobs.task(name="shop.mail.send")(send)
    for near in ("shop.mail.sent", "mail.send"):
        with pytest.raises(UnknownTask, match=r"did you mean 'shop\.mail\.send'"):
            jobs.find(near)
    with pytest.raises(UnknownTask, match="2 other tasks are"):
        jobs.find("zzz")


class Base(DeclarativeBase):
    metadata = MetaData()


class Unmapped(JobMixin):
    """A mixin that is no model."""


@pytest.mark.parametrize("model", [Base, Unmapped, JobMixin, dict, "Job", Job(task="t")], ids=repr)
def test_the_model_must_be_a_mapped_job(model: Any) -> None:
    with pytest.raises(InvalidOption, match=r"expected a mapped class with JobMixin"):
        Jobs(model=model)


def test_a_task_without_policy_of_its_own_has_the_default(jobs: Jobs[Job]) -> None:
    policy = RetryPolicy(max_attempts=3)
    jobs.task(name="given", retry=policy)(send)
    jobs.task(name="plain")(send)
    assert jobs.policy_for("given") is policy
    assert jobs.policy_for("plain") == jobs.policy_for("unknown") == RetryPolicy()
