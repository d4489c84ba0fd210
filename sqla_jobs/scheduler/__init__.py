"""Schedules that are due become jobs; and when to look again.

schedules    Schedules: jobs of the schedules whose tasks this process knows
missed       which times a schedule has missed, and which of them get a job; pure
upcoming     its next times, for whoever looks at it; pure
"""

from sqla_jobs.scheduler.missed import LATE, MOST, Missed, missed
from sqla_jobs.scheduler.schedules import Schedules
from sqla_jobs.scheduler.upcoming import times, upcoming

__all__ = ["LATE", "MOST", "Missed", "Schedules", "missed", "times", "upcoming"]
