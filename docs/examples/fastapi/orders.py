"""A web shop: FastAPI takes orders through an AsyncSession, a worker in the same process ships them.

uvicorn orders:app
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import sqla_jobs.migrations
from sqla_jobs import Job, Jobs, Worker

# One URL for both: requests are served in the event loop, jobs run in the worker's threads.
async_engine = create_async_engine(os.environ["DATABASE_URL"])
engine = create_engine(os.environ["DATABASE_URL"])
# Not expired by the commit: what the response says is read after it, where nothing can be loaded unawaited.
async_sessions = async_sessionmaker(async_engine, expire_on_commit=False)

jobs = Jobs()


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]
    shipped: Mapped[bool] = mapped_column(default=False)


@jobs.task(queue="shipping")
def ship(_: Session, order: Order) -> None:
    order.shipped = True


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with async_engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.run_sync(sqla_jobs.migrations.migrate)
    # It starts before the first request, and stops after the last: the jobs that run then come to their end.
    with Worker(jobs, engine, queues=["shipping"], threads=2):
        yield
    await async_engine.dispose()
    engine.dispose()


app = FastAPI(lifespan=lifespan)


async def session_of_a_request() -> AsyncIterator[AsyncSession]:
    async with async_sessions() as session:
        yield session


InSession = Annotated[AsyncSession, Depends(session_of_a_request)]


class NewOrder(BaseModel):
    item: str
    in_stock: bool = True


@app.post("/orders", status_code=201)
async def take(new: NewOrder, session: InSession) -> dict[str, int]:
    order = Order(item=new.item)
    session.add(order)
    job = await ship.enqueue(session, order)  # flushes the order, and knows its key
    if not new.in_stock:
        raise HTTPException(409, "sold out")  # neither the order nor its job is committed
    # Here rather than in the dependency: that one ends when the response may be on its way already.
    await session.commit()
    return {"order": order.id, "job": job.id}


@app.get("/orders/{number}")
async def show(number: int, session: InSession) -> dict[str, str | bool]:
    order = await session.get(Order, number)
    if order is None:
        raise HTTPException(404)
    return {"item": order.item, "shipped": order.shipped}


@app.get("/jobs/{number}")
async def progress(number: int, session: InSession) -> dict[str, str]:
    job = await session.get(Job, number)
    if job is None:
        raise HTTPException(404)
    return {"state": job.state}


@app.post("/shipping/pause")
async def pause(session: InSession) -> dict[str, bool]:
    paused = await jobs.pause(session, "shipping")
    await session.commit()
    return {"new": paused}


@app.post("/shipping/resume")
async def resume(session: InSession) -> dict[str, bool]:
    resumed = await jobs.resume(session, "shipping")
    await session.commit()
    return {"new": resumed}


@app.delete("/jobs/{number}")
async def cancel(number: int, session: InSession) -> dict[str, str]:
    try:
        done = await jobs.cancel(session, number)
    except sqla_jobs.errors.JobNotFound as error:
        raise HTTPException(404) from error
    await session.commit()
    return {"done": done.value}
