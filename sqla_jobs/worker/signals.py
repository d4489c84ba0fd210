"""The first SIGTERM or SIGINT stops a worker; the second is nobody's business here."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def first_signal(handle: Callable[[signal.Signals], object]) -> Iterator[None]:
    """Call ``handle`` at the first signal, and leave any other to the handlers from before.

    Signals are handled only in the main thread; elsewhere nothing is changed.
    """
    before: dict[int, Any] = {}

    def restore() -> None:
        while before:
            number, handler = before.popitem()
            # None: it was not installed by Python, and cannot be installed again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def on_signal(number: int, _: object) -> None:
        restore()
        handle(signal.Signals(number))

    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            before[number] = signal.signal(number, on_signal)
    try:
        yield
    finally:
        restore()
