"""What is done in the background: `sqla-jobs worker tasks:jobs`."""

from __future__ import annotations

import os

from sqlalchemy.orm import sessionmaker
from sqlmodel import Session, create_engine, func, select

from models import Hero, HeroJob, Promotion
from sqla_jobs import Jobs, current_job

engine = create_engine(os.environ["DATABASE_URL"])
sessions = sessionmaker(engine, class_=Session)  # SQLModel's: with exec()
jobs = Jobs(HeroJob, sessions)


@jobs.task
def promote(session: Session, hero: Hero) -> None:
    highest = session.exec(select(func.max(Hero.rank))).one()
    hero.rank = (highest or 0) + 1
    session.add(Promotion(hero_id=hero.id, job_id=current_job().id))
