"""Counts the words of text files, four at a time: python count_words.py FILE...

All in one file: the tables, the task, the enqueue, and the worker, which ends when nothing is left.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

import sqla_jobs.migrations
from sqla_jobs import Finished, Jobs, RetryPolicy, Worker

engine = create_engine(os.environ["DATABASE_URL"])
sessions = sessionmaker(engine)
jobs = Jobs(sessionmaker=sessions)


class Base(DeclarativeBase):
    pass


class Count(Base):
    __tablename__ = "counts"

    id: Mapped[int] = mapped_column(primary_key=True)
    path: Mapped[str]
    words: Mapped[int]


# Named: of a script that is run, Python calls the module __main__. Unique: while the job for a file is there,
# a second run makes none. One attempt: a file that cannot be read now will not be in ten seconds either.
@jobs.task(name="count_words", unique=("path",), retry=RetryPolicy(max_attempts=1))
def count_words(session: Session, path: str) -> None:
    words = Path(path).read_text().split()
    session.add(Count(path=path, words=len(words)))


def report(_: Worker, finished: Finished) -> None:
    if finished.failed:
        print(f"{finished.job.arguments['path']}: {finished.error}", file=sys.stderr)


def main(paths: list[str]) -> int:
    Base.metadata.create_all(engine)
    sqla_jobs.migrations.migrate(engine)

    with sessions.begin() as session:
        counted = set(session.scalars(select(Count.path)))
        asked = (str(Path(path).resolve()) for path in paths)
        jobs.enqueue_many(session, (count_words.job(path) for path in asked if path not in counted))

    # Ctrl-C lets it finish what it has begun; the next run goes on with what is left.
    Worker(jobs, threads=4, drain=True, on_failure=report).run()

    with sessions() as session:
        for count in session.scalars(select(Count).order_by(Count.path)):
            print(f"{count.words:8}  {Path(count.path).name}")
        left = session.query(jobs.model).where(~jobs.model.is_finished).count()
    if left:
        print(f"{left} still to be counted: run it again", file=sys.stderr)
    return 1 if left else 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    sys.exit(main(sys.argv[1:]))
