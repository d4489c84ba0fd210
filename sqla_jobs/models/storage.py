"""Storage parameters of a table, also before SQLAlchemy 2.1, which brought ``postgresql_with`` for tables."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import MetaData, Table, event
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import ExecutableDDLElement
from sqlalchemy.sql.compiler import DDLCompiler

ACCEPTED: Final = any(
    kind is Table and "with" in options for kind, options in PGDialect.construct_arguments or ()
)
"""Whether ``Table`` takes ``postgresql_with``."""


class Storage(ExecutableDDLElement):
    """Storage parameters; executed after a table was made, ``ALTER TABLE … SET (…)``."""

    def __init__(self, **parameters: float) -> None:
        self.parameters = parameters

    def add_to(self, options: dict[str, Any]) -> None:
        """Add the parameters to the options of a ``Table``; where those speak for themselves they win."""
        if ACCEPTED:
            # In CREATE TABLE, which is all that some tools look at.
            options["postgresql_with"] = {**self.parameters, **options.get("postgresql_with", {})}
            return
        ours = ("after_parent_attach", self.follow)
        # A mixin of the application's own, between JobMixin and the model, has it already.
        others = [each for each in options.get("listeners", ()) if each != ours]
        options["listeners"] = [*others, ours]

    def follow(self, table: Table, _: MetaData) -> None:
        """Let the parameters be set whenever this table, or a copy of it, is made."""
        # First of all, so that a listener of the application's own may say otherwise. Listed in
        # Table(listeners=…) itself it would not be there for copies of the table.
        ours = self.execute_if(dialect="postgresql")
        event.listen(table, "after_create", ours, insert=True, propagate=True)


@compiles(Storage, "postgresql")
def _set(element: Storage, compiler: DDLCompiler, **_: Any) -> str:
    # Not sqlalchemy.DDL: its %(fullname)s doubles the percent signs of a schema's name once too often.
    assert isinstance(element.target, Table)
    told = ", ".join(f"{name} = {value}" for name, value in element.parameters.items())
    return f"ALTER TABLE {compiler.preparer.format_table(element.target)} SET ({told})"
