"""Who is told of the runs of jobs, beside the log and the hooks: metrics and traces.

What they are is nobody's business here: they are handed down. Where there are none nothing is made for them.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol, TypeVar

from sqla_jobs.errors import InvalidOption, shown
from sqla_jobs.errors.signals import Interrupted
from sqla_jobs.lifecycle import Claimed
from sqla_jobs.outcome import Clean, JobState
from sqla_jobs.redaction import log_error
from sqla_jobs.tasks.current import RunningJob, observed_by

T = TypeVar("T")

_MEANT_FOR_US: Final = (Interrupted, KeyboardInterrupt)
"""What is raised in the thread from outside: to end the job, or the program."""


class Run(Protocol):
    """What an observer makes of one run of a job. What it raises is logged, and changes nothing."""

    def enter(self) -> None:
        """The task is about to be called, in this thread and context; again, after a conflict."""

    def leave(self) -> None:
        """It has returned, or raised; in the same thread and context."""

    def over(self, state: JobState | None, error: BaseException | None) -> None:
        """What became of the run is recorded; in ``work_once``, where the commit is the caller's, written.

        Parameters:
            state: what the row says now; None: nothing is recorded of this run: its claim was taken over, or
                the group that it was in is undone, and it runs again.
            error: what it raised, or the signal that it gave.
        """


class Observer(Protocol):
    """Is told of the jobs that a worker runs, in the threads that run them: it must not take its time."""

    def begins(self, job: RunningJob, waited: float, meta: str | None) -> Run:
        """A job is about to be run.

        Parameters:
            waited: seconds since it could have been begun: it was due, and enqueued.
            meta: the JSON of its row's ``meta``; None: there is none.
        """
        ...

    def rescued(self, job: RunningJob, state: JobState, error: BaseException | None) -> None:
        """A job of a dead worker was taken from it, and is now in this state; committed."""

    def joins(self, state: Callable[[], str]) -> None:
        """A worker starts, whose state can be asked for."""


class Tracing(Observer, Protocol):
    """An observer that also knows what a job was enqueued by."""

    def carried(self) -> Mapping[str, str] | None:
        """What a job that is made here and now keeps in ``meta["trace"]``; None: nothing."""
        ...

    def enqueuing(self, task: str, /) -> AbstractContextManager[Callable[[int, str], object]]:
        """Around the making and enqueueing of one job; what it gives is told the job's id and queue."""
        ...


class Watch:
    """One run, and all who observe it.

    It may have two that record its end: the thread that runs it, and the one that does so in its stead. The
    first to have recorded something tells; that nothing was recorded is only told when both are through.
    """

    __slots__ = ("_clean", "_lock", "_recorders", "_runs", "_told")

    def __init__(self, runs: Sequence[Run], clean: Clean | None) -> None:
        self._runs = runs
        self._clean = clean
        self._lock = threading.Lock()
        self._recorders = 1
        self._told = False

    def around(self, body: Callable[[], T], /) -> T:
        """Call the task."""
        entered: list[Run] = []
        try:
            entered.extend(run for run in self._runs if _calls(self._clean, run.enter))
            return body()
        finally:
            for run in reversed(entered):
                _calls(self._clean, run.leave)

    def share(self) -> Watch:
        """Somebody else may record its end, too, and calls `over`."""
        with self._lock:
            self._recorders += 1
        return self

    def over(self, state: JobState | None, error: BaseException | None) -> None:
        """One of those who record it is through."""
        with self._lock:
            self._recorders -= 1
            tells = not self._told and (state is not None or self._recorders == 0)
            self._told = self._told or tells
        if tells:
            for run in self._runs:
                _calls(self._clean, run.over, state, error)


class Watching:
    """All who observe the jobs of a worker, or of ``work_once``; its threads share it."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers
        self._open: dict[tuple[int, int], Watch] = {}

    def begin(self, job: Claimed, view: RunningJob, *, claimed: bool) -> Watch:
        """A job is about to be run.

        Parameters:
            claimed: its row says when it was claimed; False: it is run in the claim's own transaction, and
                how long it has waited is told by the clock of this machine.
        """
        began = job.started_at if claimed and job.started_at is not None else dt.datetime.now(dt.timezone.utc)
        waited = max(0.0, (began - max(job.run_at, job.created_at)).total_seconds())
        runs = []
        for observer in self._observers:
            try:
                runs.append(observer.begins(view, waited, job.meta))
            except _MEANT_FOR_US:
                raise
            except BaseException as error:
                message = "an observer failed; the job runs without it"
                log_error(logging.ERROR, message, error=error, clean=view.clean)
        watch = Watch(runs, view.clean)
        observed_by(view, watch)
        if claimed:
            self._open[job.id, job.claim] = watch
        return watch

    def end(self, job: Claimed, watch: Watch, state: JobState | None, error: BaseException | None) -> None:
        """A run that was begun as claimed is over, for the thread that has run it."""
        self._open.pop((job.id, job.claim), None)
        watch.over(state, error)

    def shared(self, job: Claimed) -> Watch | None:
        """The run of a claimed job whose end somebody else is about to record; None: it is over."""
        watch = self._open.get((job.id, job.claim))
        return watch and watch.share()

    def rescued(self, job: RunningJob, state: JobState, error: BaseException | None) -> None:
        """A job was taken from a dead worker."""
        for observer in self._observers:
            _calls(job.clean, observer.rescued, job, state, error)

    def joins(self, state: Callable[[], str]) -> None:
        """A worker starts."""
        for observer in self._observers:
            _calls(None, observer.joins, state)


ObserverT = TypeVar("ObserverT", bound="Observer | None")


def check_observer(name: str, given: ObserverT, *names: str) -> ObserverT:
    """Raise InvalidOption if this can be no observer."""
    for method in ("begins", "rescued", "joins", *names) if given is not None else ():
        if not callable(getattr(given, method, None)):
            raise InvalidOption(
                f"{name} is {shown(given)}, which has no {method}(); expected, from sqla_jobs.metrics,"
                " Prometheus(jobs) for Worker(observers=[…]), or Tracing() for Jobs(tracing=…)"
            )
    return given


def _calls(clean: Clean | None, call: Callable[..., object], *arguments: Any) -> bool:
    """Call an observer; False: it failed."""
    try:
        call(*arguments)
    except _MEANT_FOR_US:
        raise
    except BaseException as error:  # SystemExit, too: it would be taken for the job's, or end the thread
        error.__context__ = None  # that of the job, whose text is not for every log
        log_error(logging.ERROR, "an observer failed; the job's outcome stands", error=error, clean=clean)
        return False
    return True
