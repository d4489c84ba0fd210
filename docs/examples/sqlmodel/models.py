"""The tables of the application and of its jobs, all in `SQLModel.metadata`."""

from sqlalchemy import BigInteger, ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlmodel import Field, SQLModel

from sqla_jobs import JobMixin


class Hero(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    name: str
    rank: int | None = None


class Base(DeclarativeBase):
    """For the job model: a SQLModel class takes no `Mapped` columns, and JobMixin has nothing else."""

    metadata = SQLModel.metadata


class HeroJob(JobMixin, Base):
    """A column of its own: with a hero go its jobs."""

    hero_id: Mapped[int | None] = mapped_column(ForeignKey("hero.id", ondelete="CASCADE"), index=True)


class Promotion(SQLModel, table=True):
    """Refers to the job that wrote it."""

    id: int | None = Field(default=None, primary_key=True)
    hero_id: int = Field(foreign_key="hero.id", ondelete="CASCADE")
    job_id: int | None = Field(
        default=None, foreign_key="sqla_jobs.id", ondelete="SET NULL", sa_type=BigInteger
    )
