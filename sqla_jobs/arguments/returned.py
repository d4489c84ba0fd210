"""What a task returns, kept in the row as its arguments are."""

from __future__ import annotations

import contextlib
import inspect
import json
import typing
from collections.abc import Callable
from typing import Any, Final

from pydantic import ValidationError
from sqlalchemy.orm import Session

from sqla_jobs.arguments.faithful import TOO_DEEP, Refused, path
from sqla_jobs.arguments.functions import names_around, signature_of
from sqla_jobs.arguments.objects import Reference, Unknown, Wanted
from sqla_jobs.arguments.parameter import codec_of, why
from sqla_jobs.arguments.values import UNIONS, Codec, problems, resolved
from sqla_jobs.errors import Cancel, ResultNotStorable, Snooze, TaskDefinitionError
from sqla_jobs.outcome import Result

LARGEST: Final = 1_000_000
"""Bytes of JSON. The row is written and read as a whole, by each look at its job."""

_RESULT: Final = "result"
_SIGNALS: Final = (Snooze, Cancel)


class Returned:
    """The results of one task: stored and loaded by its return annotation.

    A name in it that is not defined yet is looked up again at the first result. `Snooze` and `Cancel` in a
    union are left out: they are no results.

    Parameters:
        function: the task's function; of a coroutine function the annotation is that of what is awaited.
        task: its name, for messages.

    Raises:
        TaskDefinitionError: there is no annotation, or values of its type cannot be stored.
    """

    __slots__ = ("_annotation", "_codec", "_names", "_task")

    def __init__(self, function: Any, task: str) -> None:
        self._task = task
        self._annotation = signature_of(function).return_annotation
        if self._annotation is inspect.Signature.empty:
            raise TaskDefinitionError(
                f"{task} has result=True, and nothing says what it returns; expected a return annotation, as"
                " in def f(session, ...) -> int"
            )
        self._names = names_around(function)
        self._codec: Codec | None = None
        with contextlib.suppress(NameError, AttributeError):
            self._codec = self._build()

    @property
    def codec(self) -> Codec:
        """How they are stored.

        Raises:
            TaskDefinitionError: the annotation still names what is not defined.
        """
        if self._codec is None:
            try:
                self._codec = self._build()
            except (NameError, AttributeError) as error:
                raise TaskDefinitionError(
                    f"{self._task}: the return annotation '{self}' cannot be resolved: {error}; expected"
                    " names at the top level of its module, imported outside `if TYPE_CHECKING:`"
                ) from error
        return self._codec

    def __str__(self) -> str:
        annotation = getattr(self._annotation, "__forward_arg__", self._annotation)
        return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)

    def _build(self) -> Codec:
        """Raises NameError or AttributeError for what is not defined yet."""
        try:
            return codec_of(_without_signals(resolved(self._annotation, self._names)))
        except (NameError, AttributeError):
            raise
        except Exception as error:
            raise TaskDefinitionError(
                f"{self._task}: with result=True what it returns, '{self}', cannot be stored: {why(error)}."
                " Return the primary key, or a type that pydantic supports (a dataclass, a BaseModel, a list,"
                " ...)"
            ) from error

    def store(self, value: Any, session: Session) -> Result:
        """What the row is to hold of it; nothing in it is shared with the value.

        Parameters:
            session: the job's; flushed for a mapped object that has no primary key yet.

        Raises:
            ResultNotStorable: the value does not fit the annotation, would not come back from JSONB as it is,
                or is too large.
            TaskDefinitionError: the annotation still names what is not defined.
        """
        codec = self.codec
        stored = self._guarded(value, lambda: codec.store(value))
        if type(stored) is Reference:
            if _lacks_a_key(stored):
                session.flush()
            stored = self._guarded(value, stored.stored)
        text = json.dumps(stored, ensure_ascii=False, separators=(",", ":"))
        size = len(text.encode())
        if size > LARGEST:
            reason = (
                f"its JSON has {size:,} bytes, and may have {LARGEST:,}; keep it in a table of yours, or a"
                " file, and return the key"
            )
            raise self._refusal(value, reason)
        return Result(stored, text)

    def _guarded(self, value: Any, store: Callable[[], Any]) -> Any:
        try:
            return store()
        except Refused as refused:
            where = path([_RESULT, *refused.where])
            raise ResultNotStorable(self._task, where, refused.value, refused.reason) from refused.__cause__
        except ValidationError as error:
            raise self._refusal(value, f"{problems(error, _RESULT)}; expected '{self}'") from error
        except RecursionError as error:
            raise self._refusal(value, TOO_DEEP) from error

    def _refusal(self, value: object, reason: str) -> ResultNotStorable:
        return ResultNotStorable(self._task, _RESULT, value, reason)

    def load(self, text: str, session: Session, refuse: Callable[[object, str], Exception]) -> Any:
        """The value of which a row holds the JSON.

        Parameters:
            session: loads mapped objects.
            refuse: makes the error of what does not fit the annotation, from what was found and why.

        Raises:
            RecordNotFound: a mapped object is gone.
            TaskDefinitionError: the annotation still names what is not defined.
        """
        codec = self.codec
        stored: Any = text
        try:
            stored = json.loads(text)
            value = codec.load(stored)
        except Refused as refused:
            where = path([_RESULT, *refused.where])
            raise refuse(stored, f"{where}: {refused.reason}") from refused.__cause__
        except ValidationError as error:
            raise refuse(stored, f"{problems(error, _RESULT)}; expected '{self}'") from error
        except Exception as error:  # of its own validation; or of JSON that is not from here
            raise refuse(stored, f"{type(error).__name__}: {error}") from error
        return value.load(session, self._task, _RESULT) if type(value) is Wanted else value


def _lacks_a_key(given: Reference) -> bool:
    try:
        given.stored()
    except Unknown:
        return True
    except Refused:
        return False
    return False


def _without_signals(annotation: Any) -> Any:
    if typing.get_origin(annotation) not in UNIONS:
        return annotation
    kept = tuple(each for each in typing.get_args(annotation) if each not in _SIGNALS)
    return typing.Union[kept] if kept else annotation  # noqa: UP007 - of so many as there are
