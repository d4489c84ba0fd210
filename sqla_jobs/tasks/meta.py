"""What a job's row says beside its call: its ``meta``, which is null if there is nothing to say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def meta_of(redact: Sequence[str] = ()) -> dict[str, Any] | None:
    """The ``meta`` of a job that is made now, whichever way it is enqueued; None: nothing.

    Parameters:
        redact: the names of the arguments whose values are not to be shown.
    """
    return {"redact": list(redact)} if redact else None


def meta_text(redact: Sequence[str] = ()) -> str | None:
    """`meta_of`, as JSON."""
    meta = meta_of(redact)
    return None if meta is None else json.dumps(meta)
