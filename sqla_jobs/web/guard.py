"""What stands before every page: who is spoken to, how much is said, what a browser may do with it."""

from __future__ import annotations

import ipaddress
from collections.abc import Container, Iterable
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LONGEST_QUERY: Final = 8 * 1024
"""Bytes of a query string."""
LONGEST_PATH: Final = 1024
LARGEST_FORM: Final = 256 * 1024
"""Bytes of a form that is sent."""

POLICY: Final = (
    "default-src 'none'; "
    "script-src 'self'; "
    "style-src 'self'; "
    "img-src 'self'; "
    "connect-src 'self'; "
    "form-action 'self'; "
    "base-uri 'none'; "
    "frame-ancestors 'none'"
)

HEADERS: Final = {
    "content-security-policy": POLICY,
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    # Not no-referrer: with that a browser says `Origin: null` of a form, and not which page it is from.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=()",
    "x-robots-tag": "noindex, nofollow",
}


class Refused(Exception):
    """A request that is answered by a page that says why not.

    Parameters:
        status: of HTTP.
        reason: a sentence for whoever reads the page.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason


def with_headers(app: ASGIApp) -> ASGIApp:
    """The same application, whose every response has `HEADERS`, and is kept by nobody unless it says so."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        await app(scope, receive, answer)

    return guarded


def check_size(scope: Scope) -> None:
    """Raise Refused if more is asked than any page of ours asks."""
    if len(scope.get("query_string", b"")) > LONGEST_QUERY:
        raise Refused(414, f"The query is longer than {LONGEST_QUERY} bytes.")
    if len(scope["path"]) > LONGEST_PATH:
        raise Refused(414, f"The path is longer than {LONGEST_PATH} characters.")


def check_host(scope: Scope, hosts: Container[str | None] | None) -> None:
    """Raise Refused if the request speaks to another host than these; None: any will do.

    A page of a stranger's may have a name that leads to 127.0.0.1 (DNS rebinding): for the browser it is then
    of one origin with us, and only this header tells.
    """
    if hosts is None:
        return
    given = Headers(scope=scope).getlist("host")
    if len(given) != 1 or host_of(given[0]) not in hosts:
        raise Refused(421, "This dashboard is not known by that name here: see --allow-host.")


def host_of(netloc: str) -> str | None:
    """The name or address in ``name:port``, in lower case; None: there is none."""
    try:
        found = urlsplit(f"//{netloc}")
        _ = found.port
    except ValueError:
        return None
    if found.username is not None or found.path or found.query or found.fragment:
        return None
    return found.hostname.rstrip(".") if found.hostname else None


def is_loopback(host: str) -> bool:
    """Whether an address, or the name ``localhost``, leads to this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_origin(request: Request, trusted: Iterable[str]) -> None:
    """Raise Refused unless the browser says that the form is from a page of ours.

    Parameters:
        trusted: origins, ``https://ops.example.com``, that are ours too: behind a proxy that does not pass
            the ``Host`` header on, its own.
    """
    site = request.headers.get("sec-fetch-site")
    origins = request.headers.getlist("origin")
    if len(origins) > 1 or (not origins and site is None):
        raise Refused(403, "The browser does not say which page this form is from, so nothing was done.")
    known = {each.lower().rstrip("/") for each in trusted}
    if origins and origins[0].lower() in known:
        return
    if site is not None and site != "same-origin":
        raise Refused(403, "This form is from another site, so nothing was done.")
    if origins and not _is_own(origins[0], request):
        raise Refused(403, "This form is from another site, so nothing was done.")


def _is_own(origin: str, request: Request) -> bool:
    # By name and port: whether a proxy in front speaks TLS is not always passed on.
    try:
        found = urlsplit(origin)
    except ValueError:
        return False
    if found.scheme not in ("http", "https") or found.path or found.query:
        return False
    return found.netloc.lower() == request.headers.get("host", "").lower()


async def form_of(request: Request) -> bytes:
    """The body of a form.

    Raises:
        Refused: it is no form, or too large.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Refused(415, "Only forms are taken here.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_FORM:
            raise Refused(413, f"The form is larger than {LARGEST_FORM} bytes.")
    return bytes(body)
