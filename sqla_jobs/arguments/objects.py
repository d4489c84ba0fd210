"""Mapped objects as arguments: the row holds the primary key, and the job's Session loads the object.

ObjectCodec   a parameter whose annotation is a mapped class, or a list of one
Reference     what was given to it: objects, whose primary keys may not be known before a flush
Wanted        what a row holds of it: primary keys, for a Session to load
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from types import NoneType
from typing import Annotated, Any

import sqlalchemy
from pydantic import ValidationError
from pydantic_core import InitErrorDetails
from sqlalchemy import ColumnElement
from sqlalchemy.orm import InstanceState, Mapper, Session

from sqla_jobs.arguments.faithful import JSON, Refused, is_mapped, path
from sqla_jobs.arguments.values import UNIONS, Codec, Plain, Typed, problems, resolved
from sqla_jobs.errors import RecordNotFound, shown

Key = tuple[Any, ...]
Saved = Callable[[InstanceState[Any]], bool]
"""Whether the flush that is under way has written an object; its state does not say so yet."""


class Unknown(Refused):
    """An object whose primary key is not known before it is flushed."""


class ObjectCodec:
    """A parameter that takes objects of a mapped class, by their identity.

    Parameters:
        cls: the mapped class.
        many: whether it takes a list of them.
        optional: whether it takes None as well.
    """

    def __init__(self, cls: type[Any], *, many: bool, optional: bool) -> None:
        self.cls: Any = cls
        self.many = many
        self._optional = optional

    @classmethod
    def of(cls, annotation: Any) -> ObjectCodec | None:
        """The codec of ``Order``, ``list[Order]``, or either with None; None: it is another annotation."""
        annotation = _bare(annotation)
        optional = False
        if typing.get_origin(annotation) in UNIONS:
            choices = typing.get_args(annotation)
            kept = [each for each in choices if each is not NoneType]
            if len(kept) != 1:
                return None
            optional, annotation = True, _bare(kept[0])
        many = typing.get_origin(annotation) is list
        if many:
            annotation = _bare(typing.get_args(annotation)[0])
        if isinstance(annotation, type) and is_mapped(annotation):
            return cls(annotation, many=many, optional=optional)
        return None

    def store(self, value: Any) -> Reference | None:
        """Raises ValidationError for what is no such object."""
        if value is None and self._optional:
            return None
        given: list[Any] = [value]
        if self.many:
            if not isinstance(value, list):
                raise _misfit({"type": "list_type", "loc": (), "input": value})
            given = [*value]
        known_as = _identity_class(self.cls)
        for number, each in enumerate(given):
            if not isinstance(each, self.cls) or _identity_class(each.__class__) is not known_as:
                where = (number,) if self.many else ()
                name = self.cls.__qualname__
                raise _misfit({"type": "is_instance_of", "loc": where, "input": each, "ctx": {"class": name}})
        return Reference(self, given)

    def load(self, stored: Any) -> Wanted | None:
        """Raises Refused or ValidationError for what is no primary key."""
        if stored is None and self._optional:
            return None
        if self.many and not isinstance(stored, list):
            raise Refused(stored, "expected a list of primary keys")
        keys: list[Key] = []
        given: Any = stored if self.many else [stored]
        for number, each in enumerate(given):
            try:
                keys.append(self._loaded(each))
            except Refused as refused:
                if self.many:
                    refused.where.insert(0, number)
                raise
        return Wanted(self, keys)

    def stored(self, key: Key) -> JSON:
        """A primary key as the row holds it: of several columns, a list."""
        parts = [codec.store(part) for codec, part in zip(self._codecs, key, strict=True)]
        return parts[0] if len(parts) == 1 else parts

    def _loaded(self, stored: Any) -> Key:
        codecs = self._codecs
        parts = stored if len(codecs) > 1 else [stored]
        if not isinstance(parts, list) or len(parts) != len(codecs):
            names = ", ".join(_key_names(_mapper(self.cls)))
            raise Refused(stored, f"expected the primary key of {self.cls.__qualname__}: [{names}]")
        return tuple(codec.load(part) for codec, part in zip(codecs, parts, strict=True))

    @cached_property
    def _codecs(self) -> list[Codec]:
        mapper = _mapper(self.cls)
        return [_codec(mapper, column) for column in mapper.primary_key]


def _bare(annotation: Any) -> Any:
    while typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    return annotation


def _misfit(problem: InitErrorDetails) -> ValidationError:
    return ValidationError.from_exception_data("object", [problem])


# -- what was given ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Reference:
    """What a call gives to such a parameter."""

    codec: ObjectCodec
    objects: list[Any]

    def stored(self, saved: Saved | None = None) -> JSON:
        """The primary keys, for the row.

        Parameters:
            saved: within a flush, which objects it has written.

        Raises:
            Unknown: one is not flushed yet.
            Refused: one is deleted, or has a key that JSON does not hold.
        """
        keys: list[JSON] = []
        for each in self.objects:
            try:
                keys.append(self._stored(each, saved))
            except Refused as refused:
                if self.codec.many:
                    refused.where.insert(0, len(keys))
                raise
        return keys if self.codec.many else keys[0]

    def _stored(self, thing: Any, saved: Saved | None) -> JSON:
        key = _key_of(thing, saved)
        try:
            return self.codec.stored(key)
        except ValidationError as error:
            why = f"its primary key is not of its column's type: {problems(error)}"
            raise Refused(_Named(thing), why) from error
        except Refused as refused:
            cure = f"its primary key is {shown(key)}: {refused.reason}"
            raise Refused(_Named(thing), cure) from refused


def _key_of(thing: Any, saved: Saved | None) -> Key:
    """The primary key of the row that an object stands for; asks nothing of the database."""
    state: InstanceState[Any] = sqlalchemy.inspect(thing)
    session = state.session
    if state.was_deleted or (session is not None and thing in session.deleted):
        raise Refused(_Named(thing), "it is deleted, and nobody would find it; pass what is needed of it")
    was = (None,) * len(state.mapper.primary_key) if state.key is None else state.key[1]
    # An expired object has no attributes, but its identity.
    names = _key_names(state.mapper)
    key = tuple(state.dict.get(name, old) for name, old in zip(names, was, strict=True))
    if saved is not None and session is not None and saved(state):
        return key
    if state.key is None:
        where = "it is not flushed yet" if state.pending else "it is in no Session; session.add(…) it first"
        raise Unknown(_Named(thing), f"it has no primary key: {where}")
    if key != was:
        raise Unknown(_Named(thing), f"its primary key has been changed to {shown(key)}, and not flushed yet")
    return was


class _Named:
    """An object as a message shows it: its own repr might ask the database."""

    def __init__(self, thing: Any) -> None:
        self._thing = thing

    def __repr__(self) -> str:
        state: InstanceState[Any] = sqlalchemy.inspect(self._thing)
        name = type(self._thing).__qualname__
        return f"<new {name}>" if state.key is None else f"<{name} {path_of(state.key[1])}>"


def path_of(key: Key) -> str:
    """A primary key as a message shows it."""
    return shown(key[0] if len(key) == 1 else key)


# -- what is wanted ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Wanted:
    """What a row holds for such a parameter."""

    codec: ObjectCodec
    keys: list[Key]

    def load(self, session: Session, task: str, name: str) -> Any:
        """The objects, or the one, by ``session.get``.

        Raises:
            RecordNotFound: one of them is not there.
        """
        found: list[Any] = []
        for number, key in enumerate(self.keys):
            thing: Any = session.get(self.codec.cls, key)
            if thing is None:
                where = path([name, number] if self.codec.many else [name])
                raise RecordNotFound(task, where, self.codec.cls.__qualname__, path_of(key))
            found.append(thing)
        return found if self.codec.many else found[0]


# -- mappers -----------------------------------------------------------------------------------------


@cache
def _mapper(cls: Any) -> Mapper[Any]:
    mapper: Mapper[Any] = sqlalchemy.inspect(cls)
    return mapper


@cache
def _identity_class(cls: Any) -> type[Any]:
    """The class under which a Session knows objects of this one: with a discriminator, its hierarchy's."""
    known: type[Any] = _mapper(cls).identity_key_from_primary_key(())[0]
    return known


@cache
def _key_names(mapper: Mapper[Any]) -> tuple[str, ...]:
    return tuple(mapper.get_property_by_column(column).key for column in mapper.primary_key)


def _codec(mapper: Mapper[Any], column: ColumnElement[Any]) -> Codec:
    """How the values of a column of a primary key are stored: by its type, or else its attribute's."""
    try:
        kind: Any = column.type.python_type
    except NotImplementedError:
        kind = object
    if kind is not object:
        return Typed(kind)
    name = mapper.get_property_by_column(column).key
    for cls in mapper.class_.__mro__:
        # A name that is not defined, or a type that pydantic does not know: then plain JSON, or refused.
        with contextlib.suppress(Exception):
            hints = inspect.get_annotations(cls)
            if name in hints:
                hint = resolved(hints[name], vars(sys.modules[cls.__module__]))
                return Typed(typing.get_args(hint)[0])  # of Mapped[…]
    return Plain()
