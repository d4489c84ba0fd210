"""Jobs that are to be deleted, and what refuses it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from sqla_jobs import statements
from sqla_jobs.lifecycle.sent import Model, execute, target
from sqla_jobs.statements import Reference

Delete = Callable[[list[int]], Iterable[int]]
"""Deletes some jobs by one statement; returns which."""


class Removal:
    """Deletes jobs but for those that foreign keys keep; the transaction goes on."""

    def __init__(self, session: Session, model: Model) -> None:
        self._session, self._model = session, model
        self._references: list[Reference] | None = None
        self.refused: Counter[str] = Counter()
        """How many, by the table whose rows refer to them."""

    def _execute(self, statement: Any, **parameters: Any) -> Any:
        return execute(self._session, self._model, statement, **parameters)

    def remove(self, ids: list[int], delete: Delete) -> set[int]:
        """Delete those of the jobs that may be; returns which."""
        if self._references is None:
            oid = self._execute(statements.which_table(self._model), p_id=ids[0]).scalar()
            found = self._execute(statements.references(), oid=oid)
            self._references = [Reference(*row) for row in found]
        # Asked, rather than refused one by one: where an application refers to each of its jobs, a prune
        # meets them all every time.
        for reference in self._references:
            if reference.column is not None and ids:
                kept = set(self._execute(statements.referred(reference), ids=ids).scalars())
                self.refused[f"{reference.schema}.{reference.table}"] += len(kept)
                ids = [each for each in ids if each not in kept]
        return self._halved(ids, delete)

    def _halved(self, ids: list[int], delete: Delete) -> set[int]:
        if not ids:
            return set()
        connection = self._session.connection(bind_arguments=target(self._model))
        try:
            with connection.begin_nested():
                deleted = set(delete(ids))
                self._check_deferred()
        except IntegrityError as error:
            if len(ids) == 1:
                self.refused[_table_of(error)] += 1
                return set()
            middle = len(ids) // 2
            return self._halved(ids[:middle], delete) | self._halved(ids[middle:], delete)
        return deleted

    def _check_deferred(self) -> None:
        """Let a deferrable foreign key refuse now, and not the commit with all that is in it."""
        deferrable = [each for each in self._references or () if each.deferrable]
        deferred = tuple(each.name for each in deferrable if each.deferred)
        if deferrable:
            names = tuple(each.name for each in deferrable)
            self._execute(statements.check_references(names, False))
        if deferred:
            self._execute(statements.check_references(deferred, True))


def _table_of(error: IntegrityError) -> str:
    told: Any = getattr(error.orig, "diag", None)
    return f"{getattr(told, 'schema_name', None)}.{getattr(told, 'table_name', None)}"
