"""A guest book: Flask serves it, jobs greet the guests.

flask --app guestbook init-db
flask --app guestbook run
sqla-jobs worker guestbook:jobs
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from flask import Flask, abort, request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import sqla_jobs.migrations
from sqla_jobs import Jobs

app = Flask("guestbook")
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["DATABASE_URL"]
app.config["FROM"] = "the house"


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(app, model_class=Base)


@contextmanager
def job_sessions() -> Iterator[Session]:
    """A job's Session is `db.session`, in an application context of its own."""
    with app.app_context():
        yield db.session()


jobs = Jobs(sessionmaker=job_sessions)


class Entry(db.Model):
    __tablename__ = "entries"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    text: Mapped[str]
    answer: Mapped[str | None]


@jobs.task(queue="answers")
def answer(session: Session, entry: Entry) -> None:
    """Gets the entry by its identity: loaded in the job's own Session."""
    number = session.scalar(select(func.count(Entry.id)).where(Entry.id <= entry.id))
    entry.answer = f"Thank you, {entry.name}, our guest number {number}! Yours, {app.config['FROM']}"
    # A service function that was written for requests may commit: in a job that ends a savepoint.
    db.session.commit()


@app.post("/entries")
def sign() -> tuple[dict[str, int], int]:
    entry = Entry(name=request.form["name"], text=request.form["text"])
    db.session.add(entry)
    answer.enqueue(db.session, entry)
    if not entry.text.strip():
        abort(400, "an entry without a text")  # neither the entry nor its job is committed
    db.session.commit()
    return {"id": entry.id}, 201


@app.get("/entries/<int:entry_id>")
def show(entry_id: int) -> dict[str, str | None]:
    entry = db.get_or_404(Entry, entry_id)
    return {"name": entry.name, "text": entry.text, "answer": entry.answer}


@app.cli.command("init-db")
def init_db() -> None:
    """Make the tables; with Flask-Migrate they come by `flask db upgrade`."""
    db.create_all()
    sqla_jobs.migrations.migrate(db.engine)
