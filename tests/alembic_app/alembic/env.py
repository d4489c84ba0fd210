"""Alembic's own template, but for the lines marked: which models, which options, which database."""

import os
from importlib import import_module

from alembic import context
from sqlalchemy import create_engine, pool

import sqla_jobs.alembic  # noqa: F401 - (1) the edit that sqla_jobs asks for

shop = import_module(f"shop.{os.environ.get('SHOP_MODELS', 'default')}")
target_metadata = shop.target_metadata  # (2) [Base.metadata, sqla_jobs.metadata], or Base.metadata
options = getattr(shop, "OPTIONS", {"compare_type": True, "compare_server_default": True})
url = os.environ["DATABASE_URL"]


def run_migrations_offline() -> None:
    context.configure(
        url=url,
        target_metadata=target_metadata,
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},
        **options,
    )
    with context.begin_transaction():
        context.run_migrations()


def run_migrations_online() -> None:
    with create_engine(url, poolclass=pool.NullPool).connect() as connection:
        context.configure(connection=connection, target_metadata=target_metadata, **options)
        with context.begin_transaction():
            # (3) the line for those who run alembic from several processes at once
            context.execute("SELECT pg_advisory_xact_lock(hashtext('alembic'))")
            context.run_migrations()


if context.is_offline_mode():
    run_migrations_offline()
else:
    run_migrations_online()
