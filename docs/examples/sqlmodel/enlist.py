"""Enlist heroes, and have each promoted: python enlist.py NAME..."""

from __future__ import annotations

import sys

from models import Hero
from tasks import promote, sessions

with sessions.begin() as session:
    for name in sys.argv[1:]:
        hero = Hero(name=name)
        session.add(hero)
        session.flush()
        job = promote.job(hero)
        job.hero_id = hero.id
        session.add(job)
