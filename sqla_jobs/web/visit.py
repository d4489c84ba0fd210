"""One request of somebody who was let in, and the ways to answer it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar
from urllib.parse import parse_qsl, urlencode

from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse

from sqla_jobs.models import JobMixin
from sqla_jobs.web import audit
from sqla_jobs.web.access import Access, address
from sqla_jobs.web.guard import Refused, check_origin, form_of
from sqla_jobs.web.signing import is_browser, new_browser

if TYPE_CHECKING:
    from sqla_jobs.web.app import Dashboard

T = TypeVar("T")

COOKIE: Final = "sqla_jobs_dashboard"
LIVE: Final = "x-sqla-jobs-live"
"""A header of the requests by which a page renews itself."""
_FIELDS: Final = 500
"""Of a form, and of a query."""


@dataclass
class Visit:
    """One request."""

    house: Dashboard
    request: Request
    access: Access
    browser: str = field(init=False)
    """The random name that the browser's cookie says, or gets by this answer."""
    now: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.timezone.utc))
    """The database's time, once something was read."""

    def __post_init__(self) -> None:
        given = self.request.cookies.get(COOKIE)
        self.is_known = is_browser(given)
        self.browser = given if given is not None and self.is_known else new_browser()

    @property
    def base(self) -> str:
        """The path that the dashboard is mounted at, without a slash at its end."""
        return base_of(self.request)

    @property
    def may_write(self) -> bool:
        """Whether they may act."""
        return self.access.write and not self.house.read_only

    # -- what is asked -------------------------------------------------------------------------------

    def query(self) -> list[tuple[str, str]]:
        """The query's fields that are not empty."""
        return self._fields(self.request.scope.get("query_string", b""))

    def asked(self, name: str, default: str = "") -> str:
        """The last value of a field of the query."""
        return next((value for key, value in reversed(self.query()) if key == name), default)

    async def form(self) -> list[tuple[str, str]]:
        """The fields of a form that was sent, after the checks that it is from a page of this browser's.

        Raises:
            Refused: it is not, or they may not act.
        """
        if not self.may_write:
            raise Refused(403, "You may look, but not act here.")
        return await self.sent()

    async def sent(self) -> list[tuple[str, str]]:
        """`form`, for those who may only look, too."""
        check_origin(self.request, self.house.origins)
        fields = self._fields(await form_of(self.request), blank=True)
        tokens = [value for key, value in fields if key == "token"]
        if (
            not self.is_known
            or len(tokens) != 1
            or not self.house.signer.is_token(tokens[0], self.browser, self.access.who)
        ):
            raise Refused(
                403,
                "The form is from another visit, or from before the server was started: go back, reload "
                "the page, and try again.",
            )
        return [each for each in fields if each[0] != "token"]

    def _fields(self, coded: bytes, *, blank: bool = False) -> list[tuple[str, str]]:
        try:
            text = coded.decode("ascii")
            found = parse_qsl(text, keep_blank_values=blank, max_num_fields=_FIELDS, errors="strict")
        except ValueError:
            raise Refused(400, "The request cannot be read.") from None
        if any("\0" in part for pair in found for part in pair):
            raise Refused(400, "The request has a character that no text of the database has.")
        return found

    # -- the database --------------------------------------------------------------------------------

    async def read(self, function: Callable[[Session, type[JobMixin]], T]) -> T:
        """What a function reads; by others who watch the same page, if this is one that renews itself."""
        if LIVE in self.request.headers:
            key: Hashable = (self.request.url.path, self.request.scope.get("query_string", b""))
            found, self.now = await self.house.database.read_shared(key, function)
        else:
            found, self.now = await self.house.database.read(function)
        return found

    async def write(self, function: Callable[[Session, type[JobMixin]], T]) -> T:
        """What a function does, committed."""
        return await self.house.database.write(function)

    # -- the answer ----------------------------------------------------------------------------------

    def page(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """A page."""
        try:
            told = self.asked("note")
        except Refused:  # this may be the page that says so
            told = ""
        shared = {
            "base": self.base,
            "house": self.house,
            "access": self.access,
            "may_write": self.may_write,
            "token": self.house.signer.token(self.browser, self.access.who),
            "now": self.now,
            "note": self.house.signer.noted(told, self.browser) if told else None,
            "url": self.url,
        }
        return self.house.rendered(template, status, **shared, **values)

    def url(self, path: str, *fields: tuple[str, object], **more: object) -> str:
        """The address of a page, with a query."""
        query = urlencode([*fields, *more.items()])
        return f"{self.base}{path}?{query}" if query else f"{self.base}{path}"

    def done(self, path: str, what: str) -> RedirectResponse:
        """To another page, which tells once what was done."""
        mark = "&" if "?" in path else "?"
        note = urlencode({"note": self.house.signer.note(what, self.browser)})
        return RedirectResponse(f"{self.base}{path}{mark}{note}", status_code=303)

    def audit(self, what: str, how_many: int | str) -> None:
        """One line of what they did."""
        audit.note(self.access.who, address(self.request), what, how_many)


def base_of(request: Request) -> str:
    """The path that the dashboard is mounted at, without a slash at its end."""
    found: str = request.scope.get("root_path", "")
    return found.rstrip("/")


def one(fields: list[tuple[str, str]], name: str) -> str:
    """The only value of a field.

    Raises:
        Refused: there is none, or several.
    """
    found = [value for key, value in fields if key == name]
    if len(found) != 1:
        missing(name)
    return found[0]


def missing(name: str) -> NoReturn:
    """Refuse a form that no page of ours has sent."""
    raise Refused(400, f"The form has no {name}, or several.")
