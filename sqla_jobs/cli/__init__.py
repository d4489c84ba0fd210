"""The command line: each command parses in a module of its own, then calls one function."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import click

from sqla_jobs.cli import (
    acts,
    completion,
    doctor,
    example,
    explain,
    jobs,
    probe,
    queues,
    schedules,
    stats,
    tables,
    top,
    web,
    work,
    workers,
)
from sqla_jobs.cli.refusals import Commands


def _versions() -> str:
    def of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:  # on the path, but not installed
            return "from a source tree"

    others = ", ".join(f"{name} {of(name)}" for name in ("SQLAlchemy", "alembic", "psycopg"))
    return f"sqla-jobs {of('sqla-jobs')} ({others}, Python {platform.python_version()})"


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(message=_versions(), version="")
def main() -> None:
    """A job queue in your SQLAlchemy transactions, on PostgreSQL."""


main.add_command(work.worker_command)
main.add_command(probe.health)
main.add_command(jobs.jobs)
main.add_command(queues.queues)
main.add_command(workers.workers)
main.add_command(stats.stats)
main.add_command(schedules.schedules)
main.add_command(explain.cron)
main.add_command(tables.migrate)
main.add_command(completion.completion)
main.add_command(doctor.doctor)
main.add_command(top.top)
main.add_command(web.web)
main.add_command(example.demo)

for _act in (acts.retry, acts.cancel, acts.delete):
    jobs.jobs.add_command(_act)
