"""SIGTERM and SIGINT: the first stop a worker, each more firmly; the next is nobody's business here."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def on_signals(times: int, handle: Callable[[signal.Signals, int], object]) -> Iterator[None]:
    """Call ``handle`` at the first signals, and leave any later one to the handlers from before.

    Signals are handled only in the main thread; elsewhere nothing is changed.

    Parameters:
        times: how many signals are handled.
        handle: called with the signal, and which it is, counted from 1.
    """
    before: dict[int, Any] = {}
    seen = 0

    def restore() -> None:
        while before:
            number, handler = before.popitem()
            # None: it was not installed by Python, and cannot be installed again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def on_signal(number: int, _: object) -> None:
        nonlocal seen
        seen += 1
        this = seen
        if this >= times:
            restore()
        if this <= times:
            handle(signal.Signals(number), this)

    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            before[number] = signal.signal(number, on_signal)
    try:
        yield
    finally:
        restore()
