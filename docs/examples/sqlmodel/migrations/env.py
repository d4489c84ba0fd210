"""As `alembic init` writes it, but for the database and the two lines for sqla_jobs and SQLModel."""

import os
from logging.config import fileConfig

from alembic import context
from sqlalchemy import create_engine, pool

import sqla_jobs.alembic  # noqa: F401 - (1) autogenerate writes the queue's upgrade
from models import SQLModel  # of there, so that all tables are in its metadata

config = context.config
if config.config_file_name is not None:
    fileConfig(config.config_file_name)

target_metadata = SQLModel.metadata  # (2) the job table is in it, with all others


def run_migrations_online() -> None:
    """Work on the database of DATABASE_URL."""
    engine = create_engine(os.environ["DATABASE_URL"], poolclass=pool.NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=target_metadata)
        with context.begin_transaction():
            context.run_migrations()


run_migrations_online()
