"""The login of a dashboard that stands alone: one user, whose sessions are in this process's memory."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from sqla_jobs.web import audit
from sqla_jobs.web.access import Access, address
from sqla_jobs.web.guard import Refused, check_origin, form_of
from sqla_jobs.web.password import Attempts, Password
from sqla_jobs.web.signing import is_browser, new_browser
from sqla_jobs.web.visit import COOKIE, base_of

if TYPE_CHECKING:
    from sqla_jobs.web.app import Dashboard

SESSION: Final = "sqla_jobs_session"
LASTS: Final = 12 * 3600.0
"""Seconds of a session."""
_MOST: Final = 1000
_WAITING: Final = 8
_NOBODY: Final = ""

log = logging.getLogger("sqla_jobs")


class Door:
    """Who may come in: the one user, by a password.

    Parameters:
        clock: seconds.
    """

    def __init__(
        self,
        user: str,
        password: Password,
        *,
        write: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.user: Final = user
        self.attempts: Final = Attempts(clock)
        self._password: Final = password
        self._write: Final = write
        self._clock: Final = clock
        self._sessions: Final[dict[str, float]] = {}
        self._guard: Final = threading.Lock()
        self._hashing: Final = threading.Lock()  # one at a time: each takes 32 MB
        self._waiting = 0

    async def authorize(self, request: Request) -> Access | Response:
        """The user, or the way to the login."""
        if self._is_open(request.cookies.get(SESSION)):
            return Access(self.user, write=self._write)
        return RedirectResponse(f"{base_of(request)}/login", status_code=303)

    async def answer(self, house: Dashboard, request: Request) -> Response:
        """The page of the login, or what becomes of an attempt.

        Raises:
            Refused: too many attempts, or the form is from elsewhere.
        """
        given = request.cookies.get(COOKIE)
        browser = given if given is not None and is_browser(given) else new_browser()
        if request.method in ("GET", "HEAD"):
            return self._page(house, request, browser)
        if request.method != "POST":
            raise Refused(405, "This address is for GET and POST requests.")
        check_origin(request, house.origins)
        try:
            fields = dict(
                parse_qsl((await form_of(request)).decode("ascii"), max_num_fields=10, errors="strict")
            )
        except ValueError:
            raise Refused(400, "The request cannot be read.") from None
        if given != browser or not house.signer.is_token(fields.get("token", ""), browser, _NOBODY):
            return self._page(house, request, browser, "That took too long. Please try again.", 403)
        if not await self._is_right(address(request), fields.get("user", ""), fields.get("password", "")):
            return self._page(house, request, browser, "The name or the password is wrong.", 403)
        response = RedirectResponse(f"{base_of(request)}/", status_code=303)
        response.set_cookie(
            SESSION, self._opened(), max_age=int(LASTS), path=base_of(request) or "/", httponly=True,
            samesite="strict", secure=request.url.scheme == "https",
        )  # fmt: skip
        # A name that was the browser's before it came in is nobody's afterwards.
        response.delete_cookie(COOKIE, path=base_of(request) or "/", httponly=True, samesite="strict")
        return response

    def close(self, request: Request) -> Response:
        """End the session of a request."""
        with self._guard:
            self._sessions.pop(_key(request.cookies.get(SESSION, "")), None)
        response = RedirectResponse(f"{base_of(request)}/login", status_code=303)
        response.delete_cookie(SESSION, path=base_of(request) or "/", httponly=True, samesite="strict")
        return response

    def _page(
        self, house: Dashboard, request: Request, browser: str, problem: str | None = None, status: int = 200
    ) -> Response:
        base = base_of(request)
        token = house.signer.token(browser, _NOBODY)
        response = house.rendered("login.html", status, base=base, house=house, token=token, problem=problem)
        response.set_cookie(
            COOKIE, browser, path=base or "/", httponly=True, samesite="strict",
            secure=request.url.scheme == "https",
        )  # fmt: skip
        return response

    async def _is_right(self, where: str, user: str, password: str) -> bool:
        wait = self.attempts.wait(where)
        if wait or self._waiting >= _WAITING:
            audit.note(user, where, "login refused", "too many attempts")
            raise Refused(429, f"Too many attempts: wait for {max(1, round(wait))} seconds.")
        self.attempts.begin(where)
        self._waiting += 1
        try:
            right = await anyio.to_thread.run_sync(self._compared, user, password)
        finally:
            self._waiting -= 1
        audit.note(user, where, "login", "ok" if right else "wrong")
        if right:
            self.attempts.forgive(where)
        return right

    def _compared(self, user: str, password: str) -> bool:
        with self._hashing:
            right = self._password.is_right(password)
        return hmac.compare_digest(user.encode(), self.user.encode()) and right

    def _opened(self) -> str:
        token = secrets.token_urlsafe(32)
        with self._guard:
            while len(self._sessions) >= _MOST:
                del self._sessions[next(iter(self._sessions))]
            self._sessions[_key(token)] = self._clock() + LASTS
        return token

    def _is_open(self, token: str | None) -> bool:
        with self._guard:
            return self._sessions.get(_key(token or ""), 0.0) > self._clock()


def _key(token: str) -> str:
    """By what a session is found: not by what a memory dump would give away."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
