"""Recurring rules: a cron line in a time zone, or an interval -> the next time. Pure, no database.

line     a cron line as it is written -> the local times that it means
days     which days of a month it means
clock    local times <-> instants, over changes of the offset
rule     Cron, Every: the next time
"""

from sqla_jobs.cron.rule import Cron, Every, Rule, occurrences

__all__ = ["Cron", "Every", "Rule", "occurrences"]
