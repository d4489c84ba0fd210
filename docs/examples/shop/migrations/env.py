"""As `alembic init` writes it, but for the database and the two lines that sqla_jobs asks for."""

import os
from logging.config import fileConfig

from alembic import context
from sqlalchemy import create_engine, pool

import sqla_jobs.alembic  # (1) autogenerate writes the queue's upgrade
from shop.models import Base

config = context.config
if config.config_file_name is not None:
    fileConfig(config.config_file_name)

target_metadata = [Base.metadata, sqla_jobs.metadata]  # (2) the queue's tables are there on purpose


def run_migrations_offline() -> None:
    """Write SQL, without a database: `alembic upgrade head --sql`."""
    context.configure(
        url="postgresql+psycopg://",
        target_metadata=target_metadata,
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},
    )
    with context.begin_transaction():
        context.run_migrations()


def run_migrations_online() -> None:
    """Work on the database of DATABASE_URL."""
    engine = create_engine(os.environ["DATABASE_URL"], poolclass=pool.NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=target_metadata)
        with context.begin_transaction():
            context.run_migrations()


if context.is_offline_mode():
    run_migrations_offline()
else:
    run_migrations_online()
