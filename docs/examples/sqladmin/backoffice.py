"""A back office: jobs of a small shop, looked at and acted on in sqladmin.

uvicorn backoffice:app
"""

from __future__ import annotations

import hmac
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from sqladmin import Admin
from sqladmin.authentication import AuthenticationBackend
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from starlette.applications import Starlette
from starlette.requests import Request

import sqla_jobs.migrations
from job_views import views
from sqla_jobs import Jobs

jobs = Jobs()


@jobs.task(queue="payments", redact=("card_number",))
def charge(_: Session, order_id: int, card_number: str) -> None:
    if not card_number.isdigit():
        raise ValueError(f"order {order_id}: the card was refused")


@jobs.every(timedelta(hours=1))
@jobs.task(name="shop.remind")
def remind(_: Session) -> None: ...


# The admin's own engine: a page that reads too much is ended after five seconds.
engine = create_engine(
    os.environ["DATABASE_URL"], connect_args={"options": "-c statement_timeout=5000"}, pool_size=2
)


class Password(AuthenticationBackend):
    """One password for all, from the environment; an application has its users."""

    async def login(self, request: Request) -> bool:
        given = str((await request.form()).get("password", ""))
        if not hmac.compare_digest(given.encode(), os.environ["ADMIN_PASSWORD"].encode()):
            return False
        request.session["user_id"] = "admin"
        return True

    async def logout(self, request: Request) -> bool:
        request.session.clear()
        return False

    async def authenticate(self, request: Request) -> bool:
        return "user_id" in request.session


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    sqla_jobs.migrations.migrate(engine)
    with Session(engine) as session:
        jobs.sync_schedules(session)
        session.commit()
    yield
    engine.dispose()


app = Starlette(lifespan=lifespan)
admin = Admin(
    app,
    engine,
    title="Shop",
    # Strict: no other site's link or form comes with the cookie. Secure: browsers take http://localhost too.
    authentication_backend=Password(os.environ["ADMIN_SECRET"], same_site="strict", https_only=True),
)
for view in views(jobs):
    admin.add_view(view)
