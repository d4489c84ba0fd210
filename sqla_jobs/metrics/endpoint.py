"""Where Prometheus reads the metrics of a process: a small HTTP server in a thread."""

from __future__ import annotations

import logging
import os
import socket
import threading
from contextlib import suppress

from typing_extensions import Self

from sqla_jobs.errors import ConfigurationError
from sqla_jobs.metrics.missing import missing

try:
    from prometheus_client import REGISTRY, CollectorRegistry, start_http_server
except ImportError as error:
    raise missing("the metrics endpoint", error) from error

log = logging.getLogger("sqla_jobs")


class Endpoint:
    """An HTTP server that answers each GET with the metrics. It starts at once; it is no place for secrets.

    Parameters:
        port: 0: any that is free; see the attribute.
        host: the address that it listens on; there is neither encryption nor a password.
        registry: what is shown; None: the registry of prometheus_client, with what the application has there.

    Raises:
        ConfigurationError: it cannot listen there.
    """

    def __init__(self, port: int, host: str = "127.0.0.1", registry: CollectorRegistry | None = None) -> None:
        shown = REGISTRY if registry is None else registry
        try:
            self._server, _ = start_http_server(port, host, shown)
        except (OSError, OverflowError) as error:
            raise refused(host, port, error) from error
        self._host = host
        self.port: int = self._server.server_port
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}/metrics"
        # Else a child that is forked would keep the port, for the process that takes the place of this one.
        os.register_at_fork(after_in_child=self._server.socket.close)
        log.info("metrics at %s", self.url)

    def close(self) -> None:
        """Answer no more."""
        ends = threading.Thread(target=self._server.shutdown, name="sqla_jobs-metrics-end", daemon=True)
        ends.start()
        # It looks twice a second whether it is to end, and after each visitor.
        with suppress(OSError), socket.create_connection((self._host, self.port), timeout=1):
            ends.join(1)
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_free(host: str, ports: range) -> None:
    """See that one could listen on each of these ports.

    Raises:
        ConfigurationError: on one of them not.
    """
    for port in ports:
        try:
            [(family, kind, _, __, address), *_rest] = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            with socket.socket(family, kind) as probe:
                with suppress(OSError):  # as the server does it
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                probe.listen(1)
        except (OSError, OverflowError) as error:
            raise refused(host, port, error) from error


def refused(host: str, port: int, error: Exception) -> ConfigurationError:
    """Why nobody can listen there."""
    why = error.strerror if isinstance(error, OSError) else str(error)
    return ConfigurationError(
        f"the metrics endpoint cannot listen on {host} port {port}: {why}; expected an address of this"
        " machine and a port that is free: --metrics-host, --metrics-port"
    )
