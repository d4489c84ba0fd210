"""``sqla-jobs worker --metrics-port``: each worker process has an endpoint of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from sqla_jobs import metrics
from sqla_jobs.errors import ConfigurationError
from sqla_jobs.tasks import Observer, Registry, Sessions

Command = TypeVar("Command", bound=Callable[..., Any])

_LAST = 65535


@dataclass(frozen=True)
class Address:
    """Where the endpoint of the first process is; None, for a port: there is none."""

    host: str
    port: int | None

    @contextmanager
    def observers(self, jobs: Registry[Any], sessions: Sessions, place: int) -> Iterator[list[Observer]]:
        """Who observes the jobs of this process, with the endpoint open.

        Parameters:
            place: which of several processes it is, from 1 up.

        Raises:
            ConfigurationError: the extra is not installed, or the port is taken.
        """
        if self.port is None:
            yield []
            return
        counts = metrics.Prometheus.of(jobs, sessions)
        port = self.port and self.port + place - 1
        with metrics.Endpoint(port, self.host):
            yield [counts]

    def check(self, processes: int) -> None:
        """See that each of several processes can have its port.

        Raises:
            ConfigurationError: likewise.
        """
        if not self.port:
            return
        last = self.port + processes - 1
        if last > _LAST:
            raise ConfigurationError(
                f"--metrics-port {self.port} with --processes {processes}: each has a port of its own,"
                f" and the last would be {last}; expected at most {_LAST - processes + 1}"
            )
        metrics.check_free(self.host, range(self.port, last + 1))


def metrics_options(command: Command) -> Command:
    """``--metrics-port`` and ``--metrics-host``, which become a parameter ``metrics``."""
    for option in (
        click.option(
            "--metrics-host",
            metavar="ADDRESS",
            default="127.0.0.1",
            show_default=True,
            help="Where the metrics are to be had; 0.0.0.0: from everywhere, without a password.",
        ),
        click.option(
            "--metrics-port",
            metavar="PORT",
            type=click.IntRange(0, _LAST),
            help="Serve metrics for Prometheus; with --processes the second process on the next port, and so "
            "on. 0: any that is free.",
        ),
    ):
        command = option(command)
    return command
