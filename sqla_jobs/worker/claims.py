"""Which jobs a worker claims: its filter, and the index that the claims want for it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from sqlalchemy.exc import DataError, ProgrammingError
from sqlalchemy.orm import Session

from sqla_jobs import lifecycle
from sqla_jobs.errors import ConfigurationError, InvalidOption
from sqla_jobs.runner import Runner
from sqla_jobs.statements import Filter, filter_of, index_ddl
from sqla_jobs.tasks import OWN_QUEUE

log = logging.getLogger("sqla_jobs")


def check_filter(model: type[Any], where: object, queues: Sequence[str] | None) -> Filter:
    """The filter of a worker.

    Raises:
        InvalidOption: it is no condition on the job model's columns; or it is for the library's own queue.
    """
    only = filter_of(model, where)
    if queues and OWN_QUEUE in queues:
        raise InvalidOption(
            f"queues names {OWN_QUEUE!r}, to which no where applies: every worker serves it when there is "
            "nothing else; leave it out of queues"
        )
    return only


def look_for_index(runner: Runner, only: Filter, queues: Sequence[str] | None) -> None:
    """Log the definition of each index that the claims of a filter want and do not have.

    That is one for the claims; and for a worker of any queue one for those by a list of queues, which it
    makes while one of them is paused.

    Raises:
        ConfigurationError: to PostgreSQL the filter is no condition.
    """
    missing = []
    asked: list[Sequence[str] | None] = [queues] if queues else [None, [OWN_QUEUE]]
    for each in asked:
        try:
            found = runner.transact(partial(_index, model=runner.model, queues=each, only=only))
        except (ProgrammingError, DataError) as error:
            raise ConfigurationError(
                f"the worker's where cannot be asked of PostgreSQL: {error.orig}"
            ) from error
        if found is None:
            missing.append(index_ddl(runner.model, each is None, only, runner.engine.dialect))
    if missing:
        log.warning(
            "no index serves the claims of this worker's where, so that each reads past the jobs of others. "
            "Create what is missing, and name it in your model, too:\n%s",
            "\n".join(f"    {ddl};" for ddl in missing),
        )  # fmt: skip


def _index(session: Session, model: type[Any], queues: Sequence[str] | None, only: Filter) -> str | None:
    return lifecycle.index_of_claims(session, model, queues, only)
