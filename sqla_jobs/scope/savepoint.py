"""One savepoint of a scope's own: as the Session has it, and as each connection has it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

from sqlalchemy import Connection, NestedTransaction
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, SessionTransaction


@dataclass(eq=False)
class Savepoint:
    """``Session.begin_nested()`` is lazy: a connection has its part from when the Session first uses it."""

    nested: SessionTransaction
    on: dict[Connection, NestedTransaction] = field(default_factory=dict)

    def stands_in(self, session: Session) -> bool:
        """Whether the Session is within it still."""
        nested: SessionTransaction | None = session.get_nested_transaction()
        while nested is not None and nested is not self.nested:
            nested = nested.parent
        return nested is not None

    @property
    def is_whole(self) -> bool:
        """Whether SQLAlchemy takes it for active on each connection."""
        return all(standing.is_active for standing in self.on.values())

    def name_on(self, connection: Connection) -> str | None:
        """What the server calls it; None: it is not there yet."""
        standing = self.on.get(connection)
        # SQLAlchemy has no public name for it.
        return None if standing is None else standing._savepoint

    def above(self, connection: Connection) -> list[NestedTransaction]:
        """What was begun on the Connection itself within this savepoint, the innermost first."""
        found: list[NestedTransaction] = []
        nested = connection.get_nested_transaction()
        while nested is not None and nested is not self.on[connection]:
            found.append(nested)
            nested = nested._previous_nested
        return [] if nested is None else found

    def roll_back(self, session: Session, *, beneath: SessionTransaction | None) -> None:
        """Roll back to it and close it, with all that the job has begun within it.

        Parameters:
            beneath: what it stands on: if the job has closed it already, this is where to stop.

        Raises:
            DBAPIError: it does not stand on the server any more.
        """
        while (nested := session.get_nested_transaction()) not in (self.nested, beneath, None):
            with suppress(DBAPIError):  # whatever it is, going back further cures it
                nested.rollback()
        ended = [connection for connection, standing in self.on.items() if not standing.is_active]
        for connection in self.on:
            for within in self.above(connection):
                with suppress(DBAPIError):
                    within.close()
        if nested is self.nested:
            self.nested.rollback()
        for connection in ended:
            # SQLAlchemy took it for ended, after a failed flush or RELEASE. On the server it stands, and a
            # Connection that the job has kept may have been used since.
            if not (connection.closed or connection.invalidated):
                connection.dialect.do_rollback_to_savepoint(connection, self.on[connection]._savepoint)
