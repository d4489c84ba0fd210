"""What a job's row says beside its call: its ``meta``, which is null if there is nothing to say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqla_jobs.tasks.observed import Tracing


def meta_of(redact: Sequence[str] = (), tracing: Tracing | None = None) -> dict[str, Any] | None:
    """The ``meta`` of a job that is made now, whichever way it is enqueued; None: nothing.

    Parameters:
        redact: the names of the arguments whose values are not to be shown.
        tracing: knows the trace that it is made in; None: it is not kept.
    """
    meta: dict[str, Any] = {"redact": list(redact)} if redact else {}
    if tracing is not None and (trace := tracing.carried()):
        meta["trace"] = dict(trace)
    return meta or None


def meta_text(redact: Sequence[str] = (), tracing: Tracing | None = None) -> str | None:
    """`meta_of`, as JSON."""
    meta = meta_of(redact, tracing)
    return None if meta is None else json.dumps(meta)
