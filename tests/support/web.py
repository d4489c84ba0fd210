"""The dashboard on a real server, and a browser's part in it: cookies, origins, the tokens of forms."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from typing import Any

import httpx
import uvicorn

from tests.support.work import PATIENCE

TOKEN = re.compile(r'name="token" value="([^"]+)"')


class Browser:
    """What a browser does, as far as the server sees it."""

    def __init__(self, url: str, base: str = "") -> None:
        self.url = url
        self.base = base
        self.http = httpx.Client(base_url=url, timeout=PATIENCE)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.http.get(f"{self.base}{path}", **options)

    def text(self, path: str) -> str:
        """A page that must be there, as a reader sees it."""
        answer = self.get(path)
        assert answer.status_code == 200, answer.text
        return unescape(answer.text)

    def token(self, path: str = "/help") -> str:
        """The token of a page's forms; the help page has one of the logout; else that of the jobs."""
        for each in (path, "/jobs"):
            if found := TOKEN.search(self.get(each).text):
                return found[1]
        raise AssertionError("no page has a form")

    def send(
        self,
        path: str,
        fields: dict[str, Any],
        *,
        token: str | None = "",
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        """A form, as from a page of the dashboard; ``token`` None: without one, empty: with the right one."""
        token = self.token() if token == "" else token
        sent = fields if token is None else {"token": token, **fields}
        given = {"origin": self.url, "sec-fetch-site": "same-origin"} if headers is None else headers
        return self.http.post(f"{self.base}{path}", data=sent, headers=given)

    def follow(self, answer: httpx.Response) -> str:
        """The page that an action leads to."""
        assert answer.status_code == 303, answer.text
        page = self.http.get(answer.headers["location"])
        assert page.status_code == 200, page.text
        return unescape(page.text)


@contextmanager
def served(app: Any, base: str = "", **options: Any) -> Iterator[Browser]:
    """A server of its own for an ASGI application, for as long as the block lasts."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, lifespan="off", ws="none", access_log=False, **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    browser = Browser(f"http://127.0.0.1:{listening.getsockname()[1]}", base)
    try:
        yield browser
    finally:
        browser.http.close()
        server.should_exit = True
        thread.join(PATIENCE)
        listening.close()
        assert not thread.is_alive(), "the server did not stop"


def raw(url: str, request: str) -> str:
    """The answer to a request whose bytes are as they are: no client mends its path."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as made:
        made.sendall(request.replace("\n", "\r\n").encode("latin-1"))
        got = b""
        while chunk := made.recv(65536):
            got += chunk
    return got.decode("utf-8", "replace")
