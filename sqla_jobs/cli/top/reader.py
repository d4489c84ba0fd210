"""The thread that reads the database and acts on it, so that keys are answered at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from sqla_jobs.cli.top.facts import Action, Away, Event, Fresh, Wish
from sqla_jobs.cli.top.source import Source, why

FIRST: Final = 0.5
"""Seconds to the first new try when the database is away; then twice as many each time."""
LONGEST: Final = 15.0
_LEAVE: Final = 0.3
"""Seconds that the end waits for a look."""


class Reader:
    """Reads at an interval, and at once when something else is asked for.

    Parameters:
        tell: called with what has happened, in the reader's own thread.
        fail: called with what should not have happened; the thread ends then.
    """

    def __init__(
        self,
        source: Source,
        interval: float,
        tell: Callable[[Event], object],
        fail: Callable[[BaseException], object],
    ) -> None:
        self._source, self._interval, self._tell, self._fail = source, interval, tell, fail
        self._changed = threading.Condition()
        self._wish = Wish()
        self._actions: list[Action] = []
        self._again = self._over = self._acting = False
        # A daemon: one that waits for a network that does not answer must not hold up the end.
        self._thread = threading.Thread(target=self._run, name="sqla_jobs-top", daemon=True)

    def start(self) -> None:
        """Read for the first time."""
        self._thread.start()

    def look(self, wish: Wish) -> None:
        """Read this from now on, beginning now."""
        with self._changed:
            self._wish, self._again = wish, True
            self._changed.notify()

    def do(self, action: Action) -> None:
        """Do this once, now, and read what became of it. If the database is away it is not done later."""
        with self._changed:
            self._actions.append(action)
            self._changed.notify()

    def stop(self, seconds: float) -> None:
        """Read no more; waits so long for what was to be done, and hardly for anything else."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._actions and not self._acting, seconds)
        self._thread.join(_LEAVE)

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._fail(error)
        finally:
            self._source.close()

    def _work(self) -> None:
        failures = 0
        while True:
            self._act()  # also at the end: it was confirmed
            with self._changed:
                if self._over:
                    return
                wish, self._again = self._wish, False
            try:
                event: Event = Fresh(self._source.read(wish))
                failures, pause = 0, self._interval
            except SQLAlchemyError as error:
                pause = min(FIRST * 2.0**failures, LONGEST)
                failures = min(failures + 1, 10)
                event = Away(why(error), pause)
            self._tell(event)
            with self._changed:
                self._changed.wait_for(lambda: self._again or self._actions or self._over, pause)

    def _act(self) -> None:
        while True:
            with self._changed:
                if not self._actions:
                    self._acting = False
                    self._changed.notify_all()
                    return
                action, self._acting = self._actions.pop(0), True
            self._tell(self._source.act(action))
