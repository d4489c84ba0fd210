"""Binds a call of a task to the names of its parameters, and back."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session

from sqla_jobs.arguments.faithful import JSON, TOO_DEEP, Refused, check_text, path
from sqla_jobs.arguments.functions import names_around, signature_of, yields
from sqla_jobs.arguments.given import Given
from sqla_jobs.arguments.hidden import hidden
from sqla_jobs.arguments.objects import ObjectCodec, Reference, Wanted
from sqla_jobs.arguments.parameter import Parameter
from sqla_jobs.arguments.values import problems
from sqla_jobs.errors import (
    ArgumentsNotLoadable,
    ArgumentsNotStorable,
    InvalidArguments,
    TaskDefinitionError,
    shown,
)
from sqla_jobs.redaction import MASK, mask

_POSITIONAL_ONLY = inspect.Parameter.POSITIONAL_ONLY
_POSITIONAL = (_POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Signature:
    """What a task takes, after its Session: encodes a call to the JSON in the row and back.

    `str()` of it is the call that the task expects. It may be used by several threads at once.

    Attributes:
        task: the task's name.
        required: the names of the arguments that have no default.
        hidden: the names of those whose values no message shows.
    """

    __slots__ = ("_extra", "_parameters", "_positional", "_session", "hidden", "required", "task")

    def __init__(
        self,
        task: str,
        session: inspect.Parameter,
        parameters: Sequence[Parameter],
        hidden: Collection[str] = (),
    ) -> None:
        """Made by `Signature.of`."""
        self.task = task
        self.hidden = frozenset(hidden)
        self._session = session
        self._parameters = {p.name: p for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD}
        self._extra = next((p for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD), None)
        self._positional = [p.name for p in parameters if p.kind in _POSITIONAL]
        self.required = tuple(name for name, p in self._parameters.items() if p.required)

    @classmethod
    def of(cls, function: Any, task: str, hidden: Collection[str] = ()) -> Signature:
        """Read the signature of a task's function; its first parameter is the Session.

        A name in an annotation that is not defined yet is looked up again at the first call. The
        annotations of the Session and of the result are never looked at.

        Parameters:
            function: a function, coroutine function, method, partial or other callable object.
            task: the task's name, for messages.
            hidden: the names of the arguments whose values no message shows.

        Raises:
            TaskDefinitionError: the function cannot be a task, or values of a parameter cannot be stored.
        """
        if yields(function):
            raise TaskDefinitionError(
                f"{task} is a generator function: calling it runs nothing; expected one without yield"
            )
        try:
            shapes = list(signature_of(function).parameters.values())
        except (TypeError, ValueError) as error:
            raise TaskDefinitionError(f"{task}: {shown(function)} has no signature: {error}") from error
        for shape in shapes:
            if shape.kind is inspect.Parameter.VAR_POSITIONAL:
                raise TaskDefinitionError(
                    f"{task} takes *{shape.name}, but arguments are stored by name;"
                    f" expected a parameter for each, or one for all: {shape.name}: list[...]"
                )
        if not shapes or shapes[0].kind not in _POSITIONAL:
            found = f"the first is '{shapes[0]}'" if shapes else "there is none"
            raise TaskDefinitionError(
                f"{task}: the first parameter must be the Session: def f(session, ...); {found}"
            )
        names = names_around(function)
        return cls(task, shapes[0], [Parameter(task, shape, names) for shape in shapes[1:]], hidden)

    def encode(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, by_name: bool = False
    ) -> dict[str, JSON]:
        """The JSON that stores a call: by name, without the arguments that are left to their default.

        Nothing in it is shared with the values that were given.

        Parameters:
            args: the arguments by position, without the Session.
            kwargs: the arguments by name.
            by_name: take positional-only parameters by name as well, for a caller that knows only names.

        Raises:
            InvalidArguments: an argument is missing or unexpected, or a value does not fit its annotation.
            ArgumentsNotStorable: a value fits, but would not come back from JSONB as it is.
            TaskDefinitionError: an annotation still names what is not defined.
        """
        given = self._bound(args, kwargs, by_name)
        return {name: self._stored(name, value) for name, value in given.items()}

    def draft(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, by_name: bool = False
    ) -> tuple[dict[str, Any], Given | None]:
        """`encode` of a call whose mapped objects need not be flushed yet; and them, or None.

        Raises:
            InvalidArguments, ArgumentsNotStorable, TaskDefinitionError: as `encode`.
        """
        given = self._bound(args, kwargs, by_name)
        stored = {name: self._taken(name, value) for name, value in given.items()}
        references = {name: value for name, value in stored.items() if type(value) is Reference}
        if not references:
            return stored, None
        objects = Given(self.task, references)
        return {**stored, **objects.known()}, objects

    def _bound(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], by_name: bool) -> dict[str, Any]:
        """The arguments of a call by name."""
        if len(args) > len(self._positional):
            raise self._misfit(f"expected {len(self._positional)} arguments by position, found {len(args)}")
        given = dict(zip(self._positional, args, strict=False)) if args else {}
        if kwargs:
            for name in kwargs:
                self._check_name(name, given, by_name)
            given.update(kwargs)
        missing = [repr(name) for name in self.required if name not in given]
        if missing:
            raise self._misfit(f"missing argument{'s' * (len(missing) > 1)} {', '.join(missing)}")
        return given

    def encode_some(self, kwargs: Mapping[str, Any]) -> dict[str, JSON]:
        """`encode` of some of the arguments, by name, whatever the others are.

        Raises:
            InvalidArguments, ArgumentsNotStorable, TaskDefinitionError: as `encode`.
        """
        for name in kwargs:
            self._check_name(name, {}, by_name=True)
        return {name: self._stored(name, value) for name, value in kwargs.items()}

    def with_defaults(self, stored: Mapping[str, JSON]) -> dict[str, JSON]:
        """Stored arguments, and what would be stored for those that were left to their default.

        A default that cannot be stored is left out: no job can have been given it.
        """
        known = dict(stored)
        for name, parameter in self._parameters.items():
            if name not in known and not parameter.required:
                with suppress(ArgumentsNotStorable, InvalidArguments):
                    known[name] = self._stored(name, parameter.default)
        return known

    def decode(self, stored: Any, session: Session | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call that stored JSON stands for; nothing in it is shared with what was stored.

        Parameters:
            stored: the value of the row's `arguments`.
            session: loads mapped objects; None: the task takes none.

        Returns:
            The values of the positional-only parameters after the Session, and all others by name.

        Raises:
            ArgumentsNotLoadable: the function takes no such argument, misses one, or a value does not fit.
            RecordNotFound: a mapped object is gone.
            TaskDefinitionError: an annotation still names what is not defined.
        """
        if not isinstance(stored, Mapping):
            raise ArgumentsNotLoadable(self.task, None, stored, 'expected a JSON object, {"name": ...}')
        values = {name: self._loaded(name, value) for name, value in stored.items()}
        for name in self.required:
            if name not in values:
                reason = f"it is missing; expected {self}. A parameter that is added needs a default"
                raise ArgumentsNotLoadable(self.task, name, mask(stored, self.hidden), reason)
        for name, value in values.items():
            if type(value) is Wanted:
                assert session is not None, "whoever runs a task has a Session"
                values[name] = value.load(session, self.task, name)
        by_position = []
        for name in self._positional:
            parameter = self._parameters[name]
            if parameter.kind is not _POSITIONAL_ONLY:
                break
            by_position.append(values.pop(name, parameter.default))
        return tuple(by_position), values

    def __str__(self) -> str:
        extra = [] if self._extra is None else [self._extra]
        return (
            f"{self.task}{inspect.Signature([self._shape(p) for p in (*self._parameters.values(), *extra)])}"
        )

    def __repr__(self) -> str:
        return f"<Signature {self}>"

    @property
    def names(self) -> list[str]:
        """Those of the arguments that have one."""
        return list(self._parameters)

    def takes(self, name: str) -> bool:
        """Whether there may be an argument of this name."""
        return self._parameter(name) is not None

    def collects(self, name: str) -> bool:
        """Whether it is the parameter that collects all other keyword arguments: ``**name``."""
        return self._extra is not None and self._extra.name == name

    def takes_objects(self, name: str) -> bool:
        """Whether that argument is mapped objects, as far as its annotation is known."""
        parameter = self._parameter(name)
        with suppress(TaskDefinitionError):
            return parameter is not None and isinstance(parameter.codec, ObjectCodec)
        return False

    def seen(self, name: str, stored: Mapping[str, JSON]) -> list[Any]:
        """What the task sees of an argument: its value as it is loaded, or its default; or nothing."""
        parameter = self._parameter(name)
        if parameter is None:
            return []
        if name not in stored:
            return [] if parameter.required else [parameter.default]
        with suppress(Exception):
            return [parameter.codec.load(stored[name])]
        return []

    def _shape(self, parameter: Parameter) -> inspect.Parameter:
        return parameter.shape(MASK if parameter.name in self.hidden else None)

    def _parameter(self, name: str) -> Parameter | None:
        """The parameter that takes an argument of this name."""
        parameter = self._parameters.get(name)
        if parameter is None and (name != self._session.name or self._session.kind is _POSITIONAL_ONLY):
            return self._extra
        return parameter

    def _check_name(self, name: str, given: Mapping[str, Any], by_name: bool) -> None:
        if name in given:
            raise self._misfit(f"two values for argument {name!r}")
        parameter = self._parameter(name)
        if parameter is None:
            near = difflib.get_close_matches(name, self._parameters, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            if name == self._session.name:
                hint = "; the worker passes the Session"
            raise self._misfit(f"unexpected argument {name!r}{hint}")
        if parameter.kind is _POSITIONAL_ONLY and not by_name:
            raise self._misfit(f"argument {name!r} is positional-only; expected it by position")

    def _misfit(self, problem: str) -> InvalidArguments:
        return InvalidArguments(self.task, str(self), problem)

    def _stored(self, name: str, value: Any) -> JSON:
        taken = self._taken(name, value)
        return Given(self.task, {name: taken}).resolved()[name] if type(taken) is Reference else taken

    def _taken(self, name: str, value: Any) -> Any:
        """What is stored of a value; of mapped objects a `Reference`."""
        if name not in self.hidden:
            return self._checked(name, value)
        try:
            return self._checked(name, value)
        except (InvalidArguments, ArgumentsNotStorable) as error:
            refusal = hidden(error, name, value)
        raise refusal  # here, where the other is no context of it

    def _checked(self, name: str, value: Any) -> Any:
        parameter = self._parameters.get(name, self._extra)
        assert parameter is not None, "encode has checked the names"
        codec = parameter.codec
        try:
            if parameter is self._extra:
                check_text(name)
            return codec.store(value)
        except Refused as refused:
            raise refused.error(self.task, name) from refused.__cause__
        except ValidationError as error:
            raise self._misfit(problems(error, name)) from error
        except RecursionError as error:
            raise ArgumentsNotStorable(self.task, name, value, TOO_DEEP) from error
        except Exception as error:
            raise self._misfit(f"{name}: its validation raised {error!r}; found {shown(value)}") from error

    def _loaded(self, name: str, value: Any) -> Any:
        if name not in self.hidden:
            return self._read(name, value)
        try:
            return self._read(name, value)
        except ArgumentsNotLoadable as error:
            refusal = hidden(error, name, value)
        raise refusal

    def _read(self, name: str, value: Any) -> Any:
        parameter = self._parameter(name)
        if parameter is None:
            reason = (
                f"the task takes no such argument; expected {self}. Keep the parameter, with a default,"
                " until the jobs that were enqueued with it have run"
            )
            raise ArgumentsNotLoadable(self.task, name, value, reason)
        codec = parameter.codec
        try:
            return codec.load(value)
        except Refused as refused:
            reason = f"{path([name, *refused.where])}: {refused.reason}"
            raise ArgumentsNotLoadable(self.task, name, value, reason) from refused.__cause__
        except ValidationError as error:
            reason = f"{problems(error, name)}; expected {self}"
            raise ArgumentsNotLoadable(self.task, name, value, reason) from error
        except Exception as error:
            reason = f"its validation raised {error!r}; expected {self}"
            raise ArgumentsNotLoadable(self.task, name, value, reason) from error
