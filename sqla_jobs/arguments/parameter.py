"""Stores and loads the values of one parameter of a task, by its annotation."""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

from sqla_jobs.arguments.faithful import is_mapped
from sqla_jobs.arguments.objects import ObjectCodec
from sqla_jobs.arguments.values import Codec, Plain, Typed, classes, resolved
from sqla_jobs.errors import TaskDefinitionError, shown

_NONE = inspect.Parameter.empty


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

    def shape(self, default: str | None = None) -> inspect.Parameter:
        """The parameter as a message shows it: `copy_to: str | None = None`.

        Parameters:
            default: what stands for its default, if it has one; None: that itself.
        """
        annotation = self._annotation
        if annotation is not _NONE:
            annotation = getattr(annotation, "__forward_arg__", annotation)
            if not isinstance(annotation, str):
                annotation = inspect.formatannotation(annotation)
            annotation = _Verbatim(annotation)
        told = self.default if self.default is _NONE else _Verbatim(default or shown(self.default))
        return inspect.Parameter(self.name, self.kind, annotation=annotation, default=told)

    def _build(self) -> Codec:
        """Raises NameError or AttributeError for what is not defined yet."""
        if self._annotation is _NONE:
            return Plain()
        try:
            return codec_of(resolved(self._annotation, self._names))
        except (NameError, AttributeError):
            raise
        except Exception as error:
            raise TaskDefinitionError(
                f"{self._task}: values of parameter '{self.shape()}' cannot be stored: {why(error)}. Pass the"
                " primary key and load the object in the task, or annotate the parameter with a type that"
                " pydantic supports (a dataclass, a BaseModel, a list, ...)"
            ) from error


def codec_of(annotation: Any) -> Codec:
    """How values of an annotation are stored, whose names are resolved; raises what says that they cannot."""
    if annotation is Any or annotation is object:
        return Plain()
    objects = ObjectCodec.of(annotation)
    if objects is not None:
        return objects
    for cls in classes(annotation):
        if is_mapped(cls):
            name = cls.__qualname__
            raise TypeError(
                f"{name} is a mapped class, expected it as {name}, {name} | None, list[{name}] or"
                f" list[{name}] | None"
            )
    return Typed(annotation)


def why(error: Exception) -> str:
    """What pydantic, or `codec_of`, says against an annotation, without its advice."""
    return str(error).partition("\n")[0].partition(" Set `arbitrary_types_allowed")[0].rstrip(".")


class _Verbatim:
    """Text that shows itself without quotes, as an annotation or a default."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text
