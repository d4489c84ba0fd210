"""How values become JSON and come back: plain JSON as it is, all else by its annotation."""

from __future__ import annotations

import contextlib
import dataclasses
import typing
from collections.abc import Iterator
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Final, Protocol

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import to_json
from typing_extensions import TypeAliasType

from sqla_jobs.arguments.faithful import JSON, TOO_DEEP, Refused, compare, path, plain
from sqla_jobs.errors import shown

UNIONS: Final = (typing.Union, UnionType)
_KEPT = (str, int, bool)
_SMALL = 2**63


class Codec(Protocol):
    """How the values of a parameter become JSON and come back."""

    def store(self, value: Any) -> Any:
        """JSON, or a `Reference`.

        Raises pydantic's ValidationError for a value that does not fit, Refused for one that is lost.
        """

    def load(self, stored: Any) -> Any:
        """Raises pydantic's ValidationError or Refused."""


class Plain:
    """A parameter without annotation: plain JSON as it is."""

    def store(self, value: Any) -> JSON:
        return plain(value)

    def load(self, stored: Any) -> Any:
        return plain(stored, whole_floats=True)


class Typed:
    """A parameter whose values pydantic validates, and writes as JSON, by its annotation."""

    __slots__ = ("_dump", "_parse", "_same", "_validate")

    def __init__(self, annotation: Any) -> None:
        self._same = _kept_as_they_are(annotation)
        config = ConfigDict(
            # Bytes of any kind, not only UTF-8.
            ser_json_bytes="base64",
            val_json_bytes="base64",
            # pydantic would drop unknown keys of a TypedDict or dataclass without a word. Where a field is
            # not in __init__, it is such a key itself.
            extra="ignore" if any(map(_has_field_outside_init, classes(annotation))) else "forbid",
        )
        # pydantic takes no config for a TypedDict or dataclass, but for an alias of one.
        alias: Any = TypeAliasType
        adapter: TypeAdapter[Any] = TypeAdapter(alias("Argument", annotation), config=config)
        if not adapter.pydantic_complete:
            raise NameError("it refers to a type that is not defined")
        if adapter.core_schema["type"] == "generator":
            raise TypeError("an iterator can be read only once, expected list[...]")
        self._validate = adapter.validator.validate_python
        self._dump = adapter.serializer.to_python
        self._parse = adapter.validator.validate_json

    def store(self, value: Any) -> JSON:
        if type(value) in self._same and _surely_kept(value):
            return value  # type: ignore[no-any-return]
        try:
            validated = self._validate(value)
        except ValidationError as error:
            if any(problem["type"] == "recursion_loop" for problem in error.errors(include_input=False)):
                raise Refused(value, TOO_DEEP) from error
            raise
        try:
            dumped = self._dump(validated, mode="json", by_alias=False, round_trip=True, warnings=False)
        except Exception as error:
            raise Refused(value, f"it cannot be written as JSON: {error}") from error
        stored = plain(dumped, whole_floats=True)
        try:
            again = self._read(stored)
        except Exception as error:
            why = problems(error) if isinstance(error, ValidationError) else repr(error)
            raise Refused(value, f"its JSON {shown(stored)} would not be taken back: {why}") from error
        compare(validated, again)
        return stored

    def load(self, stored: Any) -> Any:
        if type(stored) in self._same and _surely_kept(stored):
            return stored
        return self._read(plain(stored, whole_floats=True))

    def _read(self, stored: JSON) -> Any:
        # By name is how it was stored; other producers may know only the alias.
        return self._parse(to_json(stored), by_alias=True, by_name=True)


def _kept_as_they_are(annotation: Any) -> frozenset[type]:
    """The classes of whose plain values pydantic makes the same, as does its JSON when it is read back."""
    choices = typing.get_args(annotation) if typing.get_origin(annotation) in UNIONS else (annotation,)
    # Not of more than one class, besides None: which of a union a value is taken for pydantic decides.
    kept = [each for each in choices if each is not NoneType]
    return frozenset(choices) if len(kept) == 1 and kept[0] in _KEPT else frozenset()


def _surely_kept(value: Any) -> bool:
    """Whether a plain str, int, bool or None is surely one that JSONB holds; quicker than `plain`."""
    if type(value) is str:
        return value.isascii() and "\x00" not in value
    return type(value) is not int or -_SMALL < value < _SMALL


def problems(error: ValidationError, name: str = "") -> str:
    """What pydantic found, at most five of it, each with its path under the argument's name."""
    found = error.errors(include_url=False, include_context=False)
    told = []
    for problem in found[:5]:
        where = path([name, *problem["loc"]] if name else problem["loc"])
        told.append(f"{where}{': ' if where else ''}{problem['msg']}; found {shown(problem['input'])}")
    if len(found) > len(told):
        told.append(f"and {len(found) - len(told)} more")
    return ". ".join(told)


def resolved(annotation: Any, names: dict[str, Any]) -> Any:
    """An annotation, with the names in it looked up; raises what `typing.get_type_hints` does."""
    # One at a time: what cannot be resolved in another parameter, or in the result, does not matter here.
    holder: Any = SimpleNamespace(__annotations__={"it": annotation})
    return typing.get_type_hints(holder, names, names, include_extras=True)["it"]


def classes(annotation: Any, seen: set[int] | None = None) -> Iterator[type]:
    """The classes that an annotation is made of, with those in the fields of its dataclasses."""
    seen = set() if seen is None else seen
    if id(annotation) in seen:
        return
    seen.add(id(annotation))
    parts = list(typing.get_args(annotation))
    if isinstance(annotation, type):
        yield annotation
        if dataclasses.is_dataclass(annotation):
            # What is wrong with its annotations pydantic says better.
            with contextlib.suppress(Exception):
                parts += typing.get_type_hints(annotation).values()
    for part in parts:
        yield from classes(part, seen)


def _has_field_outside_init(cls: type) -> bool:
    return dataclasses.is_dataclass(cls) and not all(field.init for field in dataclasses.fields(cls))
