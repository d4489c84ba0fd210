"""The library's models in an application that uses alembic_utils, and hooks of its own in env.py."""

from __future__ import annotations

from typing import Any

from alembic_utils.pg_function import PGFunction
from alembic_utils.replaceable_entity import register_entities

from shop.default import target_metadata as target_metadata

register_entities(
    [PGFunction("public", "double(number integer)", "RETURNS integer LANGUAGE sql AS 'SELECT 2 * number'")]
)


def include_object(item: Any, name: str, kind: str, reflected: bool, compare_to: Any) -> bool:
    return not (kind == "table" and name.startswith("legacy_"))


def process_revision_directives(context: Any, revision: Any, directives: list[Any]) -> None:
    """No file for an empty revision: the recipe from Alembic's cookbook."""
    if getattr(context.config.cmd_opts, "autogenerate", False):
        [script] = directives
        if script.upgrade_ops.is_empty():
            directives[:] = []


OPTIONS = {
    "compare_type": True,
    "compare_server_default": True,
    "include_object": include_object,
    "process_revision_directives": process_revision_directives,
}
