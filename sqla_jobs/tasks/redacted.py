"""``@jobs.task(redact=…)``: which arguments of a task are not to be shown, and of one of its jobs."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

from sqla_jobs.arguments import Signature
from sqla_jobs.errors import InvalidOption, TaskDefinitionError, shown
from sqla_jobs.redaction import Redaction

_NOTHING: Final[frozenset[str]] = frozenset()


def signature_hiding(redact: object, function: Any, task: str) -> Signature:
    """The signature of a task's function, of which these arguments are not to be shown.

    Raises:
        InvalidOption: it is no list of names.
        TaskDefinitionError: the function cannot be a task; one is none of its arguments, or an object.
    """
    signature = Signature.of(function, task, _names(redact, task))
    for name in sorted(signature.hidden):
        if not signature.takes(name):
            known = signature.names
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected some of {', '.join(known) or 'none'}"
            raise TaskDefinitionError(
                f"task {task!r} has {name!r} in its redact, which is none of its arguments; {hint}"
            )
        if signature.collects(name):
            raise TaskDefinitionError(
                f"task {task!r} has {name!r} in its redact, which is **{name}: the row has each of these"
                " arguments by its own name; expected those names"
            )
        if signature.takes_objects(name):
            raise TaskDefinitionError(
                f"task {task!r} has {name!r} in its redact, which takes mapped objects: the row holds but"
                " their primary keys, which are no secret; expected arguments whose values the row holds"
            )
    return signature


def _names(redact: object, task: str) -> Collection[str]:
    if isinstance(redact, str) or not isinstance(redact, (Sequence, AbstractSet)):
        raise InvalidOption(
            f"redact {shown(redact)} of task {task!r}; expected names of arguments: redact=('card_number',)"
        )
    for name in redact:
        if not isinstance(name, str):
            raise InvalidOption(
                f"redact {shown(redact)} of task {task!r} has {shown(name)} in it; expected names of"
                " arguments"
            )
    return redact


def without_hidden(arguments: Mapping[str, Any], signature: Signature) -> Mapping[str, Any]:
    """Arguments that a key is to be derived from, with a digest for each value that is not to be shown."""
    hidden = signature.hidden & arguments.keys()
    if not hidden:
        return arguments
    return {**arguments, **{name: _digest(signature.task, name, arguments[name]) for name in hidden}}


def _digest(task: str, name: str, value: Any) -> str:
    text = json.dumps([task, name, value], sort_keys=True, ensure_ascii=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def redaction(
    signature: Signature | None, arguments: Mapping[str, Any], meta: str | None = None
) -> Redaction | None:
    """What is not to be shown of a job, or of a schedule; None: nothing.

    Parameters:
        signature: None: its task is not known here.
        meta: of its row, which may name more than the code does that runs it.
    """
    hidden = _NOTHING if signature is None else signature.hidden
    if meta is not None:
        hidden = hidden.union(_in_row(meta))
    if not hidden:
        return None

    def values() -> list[tuple[str, Any]]:
        found = [(name, arguments[name]) for name in hidden if name in arguments]
        if signature is not None:
            found += [(name, each) for name in hidden for each in signature.seen(name, arguments)]
        return found

    return Redaction(hidden, values)


def _in_row(meta: str) -> list[str]:
    try:
        names = json.loads(meta)["redact"]
        return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    except (KeyError, TypeError, ValueError, RecursionError):  # raw SQL, or nothing of this
        return []
