"""Job models of an application's own, and what else an application has, under the real `alembic` command."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest

from tests.support.alembic_app import AlembicApp, copy_app
from tests.support.server import Database

CLEAN = "No new upgrade operations detected"

VARIANTS = {
    "no naming convention": {},
    "naming convention": {"SHOP_CONVENTION": "1"},
    "schema, include_schemas": {"SHOP_SCHEMA": "jobs", "SHOP_INCLUDE_SCHEMAS": "1"},
    "schema, no include_schemas": {"SHOP_SCHEMA": "jobs"},
}


def make_app(folder: Path, database: Database, **environment: str) -> AlembicApp:
    app = copy_app(folder / "app", database, **environment)
    app.run("upgrade", "head")
    return app


def calls(statements: list[str]) -> list[str]:
    return [statement.split("(")[0].removeprefix("op.") for statement in statements]


def runs(statements: list[str]) -> list[str]:
    """The calls, neighbours counted; foreign and unique keys as one, for they are in the order of names."""
    keys = {"create_foreign_key": "create_key", "create_unique_constraint": "create_key"}
    counted = [
        (name, len(list(group)))
        for name, group in groupby(keys.get(call, call) for call in calls(statements))
    ]
    return [f"{number} {name}" if number > 1 else name for name, number in counted]


@pytest.mark.parametrize("environment", VARIANTS.values(), ids=VARIANTS.keys())
def test_what_the_application_added_to_its_job_model(
    empty_database: Database, tmp_path: Path, environment: dict[str, str]
) -> None:
    app = make_app(tmp_path, empty_database, SHOP_MODELS="own_job", **environment)
    before = app.objects()
    upgrade, downgrade = app.revise("shop0002")
    # tenants, which the job table refers to; the job table; reports, which refers to it.
    assert runs(upgrade) == [
        "sqla_jobs.migrations.upgrade",
        "create_table",
        "4 add_column",
        "3 create_key",
        "create_table_comment",
        "2 create_check_constraint",
        "2 create_index",
        "create_table",
    ]
    assert runs(downgrade) == [
        "drop_table",
        "2 drop_index",
        "2 drop_constraint",
        "drop_table_comment",
        "3 drop_constraint",
        "4 drop_column",
        "drop_table",
        "sqla_jobs.migrations.downgrade",
    ]
    app.run("upgrade", "head")
    assert CLEAN in app.run("check")
    app.run("downgrade", "shop0001")
    assert app.objects() == before


@pytest.mark.parametrize("include_schemas", ["SHOP_INCLUDE_SCHEMAS", "NO"])
def test_a_column_is_added_later_and_taken_away_again(
    empty_database: Database, tmp_path: Path, include_schemas: str
) -> None:
    app = make_app(
        tmp_path, empty_database, SHOP_MODELS="own_job", SHOP_SCHEMA="jobs", **{include_schemas: "1"}
    )
    app.revise("shop0002")
    app.run("upgrade", "head")
    add = "op.add_column('sqla_jobs', sa.Column('later', sa.Text(), nullable=True), schema='jobs')"
    drop = "op.drop_column('sqla_jobs', 'later', schema='jobs')"

    app.environment["SHOP_LATER"] = "1"
    assert app.revise("shop0003") == ([add], [drop])
    app.run("upgrade", "head")
    del app.environment["SHOP_LATER"]
    upgrade, _ = app.revise("shop0004")
    assert upgrade == [drop]


def test_two_schemas_in_one_database(empty_database: Database, tmp_path: Path) -> None:
    app = make_app(tmp_path, empty_database, SHOP_MODELS="two_schemas")
    before = app.objects()
    upgrade, downgrade = app.revise("shop0002")
    assert sorted(upgrade) == [
        "sqla_jobs.migrations.upgrade('0004', schema='north')",
        "sqla_jobs.migrations.upgrade('0004', schema='south')",
    ]
    assert sorted(downgrade) == [
        "sqla_jobs.migrations.downgrade('base', since='0004', schema='north')",
        "sqla_jobs.migrations.downgrade('base', since='0004', schema='south')",
    ]
    app.run("upgrade", "head")
    assert CLEAN in app.run("check")
    made = app.objects()
    assert {name.replace("north.", "south.") for name in made if "north." in name} == {
        name for name in made if "south." in name
    }
    app.run("downgrade", "shop0001")
    assert app.objects() == before


def test_alembic_utils_and_hooks_of_the_application(empty_database: Database, tmp_path: Path) -> None:
    app = make_app(tmp_path, empty_database, SHOP_MODELS="guests")
    empty_database.execute("CREATE TABLE legacy_orders ()")
    empty_database.execute("CREATE FUNCTION stray() RETURNS integer LANGUAGE sql AS 'SELECT 1'")
    before = app.objects()

    upgrade, _ = app.revise("shop0002")
    assert upgrade[0] == "sqla_jobs.migrations.upgrade('0004')"
    assert [call for call in calls(upgrade) if call.endswith("_entity")] == ["create_entity", "drop_entity"]
    app.run("upgrade", "head")
    # alembic_utils took the stray function for one to drop, and would do so with the library's.
    assert "routine public.stray" not in app.objects()
    assert "routine public.sqla_jobs_schema_version" in app.objects()
    assert CLEAN in app.run("check")
    # The application's own hook wants no file where there is nothing to do.
    app.run("revision", "--autogenerate", "-m", "nothing", "--rev-id", "shop0003")
    assert not list((app.folder / "alembic" / "versions").glob("shop0003*"))

    app.run("downgrade", "shop0001")
    assert app.objects() == before


LOOK = """
import os
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from shop.claims import Job, where
from sqla_jobs import lifecycle
from sqla_jobs.statements import filter_of, index_ddl

only = filter_of(Job, where)
engine = create_engine(os.environ["DATABASE_URL"])
with Session(engine) as session:
    print(*(lifecycle.index_of_claims(session, Job, queues, only) for queues in (None, ["a"])))
for any_queue in (True, False):
    print(index_ddl(Job, any_queue, only, engine.dialect))
engine.dispose()
"""


@pytest.mark.parametrize(
    "environment",
    [{"SHOP_OWN": "1"}, {"SHOP_OWN": "1", "SHOP_SCHEMA": "jobs", "SHOP_INCLUDE_SCHEMAS": "1"}, {}],
    ids=["own", "own, in a schema", "the library's"],
)
@pytest.mark.parametrize("by_hand", [False, True], ids=["by autogenerate", "by hand"])
def test_the_indexes_of_a_claim_filter(
    empty_database: Database, tmp_path: Path, environment: dict[str, str], by_hand: bool
) -> None:
    """Made by a revision, or as a worker asks for them: they serve its claims, and the check stays clean."""
    app = make_app(tmp_path, empty_database, SHOP_MODELS="claims", **environment)
    upgrade, _ = app.revise("shop0002")
    made = [line for line in upgrade if line.startswith("op.create_index")]
    assert len(made) == 2
    if by_hand:
        file = app.file("shop0002")
        lines = file.read_text().splitlines()
        file.write_text("\n".join(line for line in lines if "of_7" not in line))
    app.run("upgrade", "head")
    used, *definitions = app.python(LOOK).splitlines()
    assert used == ("None None" if by_hand else "of_7 of_7_by_queue")
    if by_hand:
        for name, ddl in zip(("of_7", "of_7_by_queue"), definitions, strict=True):
            empty_database.execute(f"CREATE INDEX {name} ON {ddl.partition(' ON ')[2]}")
        assert app.python(LOOK).splitlines()[0] == "of_7 of_7_by_queue"
    assert CLEAN in app.run("check")
