"""A back office: jobs of a small shop, looked at and acted on in starlette-admin.

uvicorn backoffice:app
"""

from __future__ import annotations

import hmac
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette_admin.auth import AdminUser, AuthProvider
from starlette_admin.contrib.sqla import Admin
from starlette_admin.exceptions import LoginFailed

import sqla_jobs.migrations
from job_views import JobView, ScheduleView
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
engine = create_async_engine(
    os.environ["DATABASE_URL"], connect_args={"options": "-c statement_timeout=5000"}, pool_size=2
)


class Password(AuthProvider):
    """One password for all, from the environment; an application has its users."""

    async def login(self, username: str, password: str, remember_me: bool, request: Request) -> None:
        if not hmac.compare_digest(password.encode(), os.environ["ADMIN_PASSWORD"].encode()):
            raise LoginFailed("That is not the password.")
        request.session["user"] = username

    async def logout(self, request: Request) -> None:
        request.session.clear()

    async def authenticate(self, request: Request) -> AdminUser | None:
        user = request.session.get("user")
        return None if user is None else AdminUser(username=user)


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(sqla_jobs.migrations.migrate)
    async with AsyncSession(engine) as session:
        await jobs.sync_schedules(session)
        await session.commit()
    yield
    await engine.dispose()


app = Starlette(lifespan=lifespan)
secret = os.environ["ADMIN_SECRET"]
# Strict: no other site's link or form comes with the cookie. Secure: browsers take http://localhost too.
session_cookie = Middleware(SessionMiddleware, secret_key=secret, same_site="strict", https_only=True)
admin = Admin(engine, title="Shop", secret_key=secret, auth_provider=Password(), middlewares=[session_cookie])
admin.add_view(JobView(jobs))
admin.add_view(ScheduleView(jobs))
admin.mount_to(app)
