"""The dashboard on a server of its own."""

from __future__ import annotations

import logging
import socket
from types import FrameType
from typing import Final

from starlette.requests import Request

from sqla_jobs.errors import ConfigurationError
from sqla_jobs.web.app import Dashboard
from sqla_jobs.web.guard import is_loopback
from sqla_jobs.web.login import Door

try:
    import uvicorn
except ModuleNotFoundError as error:
    if error.name != "uvicorn":
        raise
    raise ConfigurationError(
        "the dashboard's own server needs uvicorn, which is not installed: pip install 'sqla-jobs[web]'"
    ) from error

__all__ = ["Door", "anybody", "serve"]

log = logging.getLogger("sqla_jobs")

_STOPPING: Final = 5
"""Seconds for requests that are being answered."""


class _Server(uvicorn.Server):
    """A server that tells its streams when it is to stop."""

    def __init__(self, config: uvicorn.Config, dashboard: Dashboard) -> None:
        super().__init__(config)
        self._dashboard = dashboard

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        # Not its own: that raises the signal again when all is done, and a stop on demand is no failure.
        if self._dashboard.streams is not None:
            self._dashboard.streams.stop()
        self.force_exit = self.should_exit
        self.should_exit = True


def anybody(_: Request) -> bool:
    """Who may come in where only this machine's users can: all of them."""
    return True


def serve(dashboard: Dashboard, host: str, port: int, *, behind_proxy: bool = False) -> None:
    """Serve until SIGTERM or SIGINT.

    Parameters:
        port: 0: any that is free.

    Raises:
        ConfigurationError: the address is taken, or is none of this machine.
    """
    listening = _listening(host, port)
    address, chosen = listening.getsockname()[:2]
    if dashboard.door is None and not is_loopback(address):
        listening.close()
        raise ConfigurationError(f"{host} is {address}, which others reach, and there is no password")
    try:
        config = uvicorn.Config(
            dashboard,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            proxy_headers=behind_proxy,
            forwarded_allow_ips="127.0.0.1,::1",
            timeout_graceful_shutdown=_STOPPING,
            h11_max_incomplete_event_size=64 * 1024,
        )
        shown = f"[{address}]" if ":" in address else address
        url = f"http://{shown}:{chosen}/"
        log.info("the dashboard is at %s", url, extra={"url": url})
        if not is_loopback(host):
            log.warning(
                "the dashboard listens on %s without TLS: passwords can be read on the way there, unless a "
                "proxy in front of it speaks TLS",
                host,
            )
        _Server(config, dashboard).run(sockets=[listening])
    finally:
        listening.close()


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, number)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
        except BaseException:
            made.close()
            raise
    except OSError as error:
        raise ConfigurationError(
            f"the dashboard cannot listen on {host}, port {port}: {error.strerror}"
        ) from None
    return made
