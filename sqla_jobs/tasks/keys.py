"""Keys of jobs: a task's name and values of arguments, as one text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

_LONGEST: Final = 500
"""Bytes of a key that is stored as it is; an entry of an index has room for 2,700."""


def key_of(task: str, of: str | Mapping[str, Any], refuse: Callable[[object], NoReturn]) -> str:
    """The task's name and a text, or values by name, as one JSON text: no two of them are alike.

    Parameters:
        refuse: raises what is to be said of a value that is not known yet.
    """
    key = json.dumps([task, of], sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=refuse)
    if len(key.encode()) <= _LONGEST:
        return key
    return json.dumps([task[:100], f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"], ensure_ascii=False)
