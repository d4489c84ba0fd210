"""In a module of its own: beanqueue finds its processors by importing a package."""

from __future__ import annotations

from typing import Any

import bq
from sqlalchemy import text

from tests.benchmarks.base import hooks

config = bq.Config(PROCESSOR_PACKAGES=[__name__], METRICS_HTTP_SERVER_ENABLED=False)
app = bq.BeanQueue(config=config)
INSERT = text("INSERT INTO effects (job_id) VALUES (:n)")


@app.processor(channel="default")
def noop(db: Any, n: int) -> None:
    hooks.tick(n)
    if hooks.effect:
        db.execute(INSERT, {"n": n})
