"""For an application's own tests: run its jobs in the test's transaction, and look at what is enqueued.

    runs       drain
    waiting    enqueued, assert_enqueued, refute_enqueued
    bound      InSession: all of them, for one Session and one ``Jobs``
    plugin     fixtures for pytest, which a conftest.py names

Nothing here commits, so all of it works in a transaction that the test rolls back.
"""

from sqla_jobs.testing.bound import InSession
from sqla_jobs.testing.runs import drain
from sqla_jobs.testing.waiting import assert_enqueued, enqueued, refute_enqueued

__all__ = ["InSession", "assert_enqueued", "drain", "enqueued", "refute_enqueued"]
