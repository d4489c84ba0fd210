"""Two job tables in two schemas of one database."""

from __future__ import annotations

from sqlalchemy.orm import DeclarativeBase

import sqla_jobs
from shop.without import Base as ShopBase


class Base(DeclarativeBase):
    metadata = ShopBase.metadata


class NorthJob(sqla_jobs.JobMixin, Base):
    __table_args__ = {"schema": "north"}


class SouthJob(sqla_jobs.JobMixin, Base):
    __table_args__ = {"schema": "south"}


target_metadata = Base.metadata
