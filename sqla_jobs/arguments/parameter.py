"""Stores and loads the values of one parameter of a task, by its annotation."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import typing
from collections.abc import Iterator
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Protocol

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import to_json
from typing_extensions import TypeAliasType

from sqla_jobs.arguments.faithful import JSON, TOO_DEEP, Refused, compare, is_mapped, path, plain
from sqla_jobs.errors import TaskDefinitionError, shown

_NONE = inspect.Parameter.empty
_KEPT = (str, int, bool)
_SMALL = 2**63
_UNIONS = (typing.Union, UnionType)


class Codec(Protocol):
    """How the values of a parameter become JSON and come back."""

    def store(self, value: Any) -> JSON:
        """Raises pydantic's ValidationError for a value that does not fit, Refused for one that is lost."""

    def load(self, stored: Any) -> Any:
        """Raises pydantic's ValidationError or Refused."""


class Parameter:
    """One parameter of a task.

    Parameters:
        task: the task's name, for messages.
        shape: the parameter as `inspect` gives it.
        names: the globals in which the annotation was written.

    Raises:
        TaskDefinitionError: values of its type cannot be stored.
    """

    __slots__ = ("_annotation", "_codec", "_names", "_task", "default", "kind", "name", "required")

    def __init__(self, task: str, shape: inspect.Parameter, names: dict[str, Any]) -> None:
        self.name = shape.name
        self.kind = shape.kind
        self.default = shape.default
        self.required = shape.default is _NONE and shape.kind is not inspect.Parameter.VAR_KEYWORD
        self._task = task
        self._annotation = shape.annotation
        self._names = names
        self._codec: Codec | None = None
        # What is defined further down, or in a module that is being imported, is looked up again by `codec`.
        with contextlib.suppress(NameError, AttributeError):
            self._codec = self._build()

    @property
    def codec(self) -> Codec:
        """How its values are stored.

        Raises:
            TaskDefinitionError: the annotation still names what is not defined.
        """
        if self._codec is None:
            try:
                self._codec = self._build()
            except (NameError, AttributeError) as error:
                raise TaskDefinitionError(
                    f"{self._task}: the annotation of parameter '{self.shape()}' cannot be resolved: {error};"
                    " expected names at the top level of its module, imported outside `if TYPE_CHECKING:`"
                ) from error
        return self._codec

    def shape(self) -> inspect.Parameter:
        """The parameter as a message shows it: `copy_to: str | None = None`."""
        annotation = self._annotation
        if annotation is not _NONE:
            annotation = getattr(annotation, "__forward_arg__", annotation)
            if not isinstance(annotation, str):
                annotation = inspect.formatannotation(annotation)
            annotation = _Verbatim(annotation)
        default = self.default if self.default is _NONE else _Verbatim(shown(self.default))
        return inspect.Parameter(self.name, self.kind, annotation=annotation, default=default)

    def _build(self) -> Codec:
        """Raises NameError or AttributeError for what is not defined yet."""
        if self._annotation is _NONE:
            return _Plain()
        try:
            annotation = _resolved(self._annotation, self._names)
            if annotation is Any or annotation is object:
                return _Plain()
            for cls in _classes(annotation):
                if is_mapped(cls):
                    raise TypeError(f"{cls.__qualname__} is a mapped class, whose rows may change meanwhile")
            return _Typed(annotation)
        except (NameError, AttributeError):
            raise
        except Exception as error:
            why = str(error).partition("\n")[0].partition(" Set `arbitrary_types_allowed")[0].rstrip(".")
            raise TaskDefinitionError(
                f"{self._task}: values of parameter '{self.shape()}' cannot be stored: {why}. Pass the"
                " primary key and load the object in the task, or annotate the parameter with a type that"
                " pydantic supports (a dataclass, a BaseModel, a list, ...)"
            ) from error


class _Verbatim:
    """Text that shows itself without quotes, as an annotation or a default."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


class _Plain:
    """A parameter without annotation: plain JSON as it is."""

    def store(self, value: Any) -> JSON:
        return plain(value)

    def load(self, stored: Any) -> Any:
        return plain(stored, whole_floats=True)


class _Typed:
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
            extra="ignore" if any(map(_has_field_outside_init, _classes(annotation))) else "forbid",
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
    choices = typing.get_args(annotation) if typing.get_origin(annotation) in _UNIONS else (annotation,)
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


def _resolved(annotation: Any, names: dict[str, Any]) -> Any:
    # One at a time: what cannot be resolved in another parameter, or in the result, does not matter here.
    holder: Any = SimpleNamespace(__annotations__={"it": annotation})
    return typing.get_type_hints(holder, names, names, include_extras=True)["it"]


def _classes(annotation: Any, seen: set[int] | None = None) -> Iterator[type]:
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
        yield from _classes(part, seen)


def _has_field_outside_init(cls: type) -> bool:
    return dataclasses.is_dataclass(cls) and not all(field.init for field in dataclasses.fields(cls))
