"""The dashboard as an ASGI application."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from sqla_jobs.errors import ConfigurationError, shown
from sqla_jobs.tasks import Registry
from sqla_jobs.web import actions, pages, render
from sqla_jobs.web.access import Access, Authorize, admit, check_authorize
from sqla_jobs.web.database import Database, sessions_for
from sqla_jobs.web.faults import Fault, fault_of
from sqla_jobs.web.guard import Refused, check_host, check_size, with_headers
from sqla_jobs.web.live import Pulse, Streams
from sqla_jobs.web.login import Door
from sqla_jobs.web.signing import Signer
from sqla_jobs.web.visit import COOKIE, Visit, base_of

Handler = Callable[[Visit], Awaitable[Response]]

_SHORTEST_INTERVAL: Final = dt.timedelta(milliseconds=200)

_PAGES: Final[dict[str, Handler]] = {
    "/": pages.overview,
    "/jobs": pages.jobs,
    "/jobs/{id}": pages.job,
    "/queues": pages.queues,
    "/schedules": pages.schedules,
    "/workers": pages.workers,
    "/help": pages.keys,
    "/live": pages.live,
}
_ACTIONS: Final[dict[str, Handler]] = {
    "/act/confirm": actions.confirm,
    "/act/jobs": actions.act_on_jobs,
    "/act/queue": actions.act_on_queue,
    "/act/schedule": actions.act_on_schedule,
}


def dashboard(
    jobs: Registry[Any],
    sessionmaker: Any = None,
    *,
    authorize: Authorize | None = None,
    read_only: bool = False,
    title: str = "sqla_jobs",
    live: dt.timedelta | None = dt.timedelta(seconds=2),
    timeout: dt.timedelta = dt.timedelta(seconds=5),
    secret: str | bytes | None = None,
    origins: Iterable[str] = (),
    hosts: Iterable[str] | None = None,
) -> Dashboard:
    """The dashboard as an ASGI application, to be mounted in another: ``app.mount("/queue", dashboard(…))``.

    Parameters:
        jobs: the application's Jobs.
        sessionmaker: an Engine or a sessionmaker, not an asynchronous one; None: that of the Jobs.
        authorize: asked with each request; may be a coroutine function. Returns True or ``"write"`` (may
            act), ``"read"`` (may look), False or None (neither), an `Access`, which has a name for the log
            too, or a response that is sent instead, such as a redirect to a login. There is no default.
        read_only: nobody may act.
        title: stands at the top of each page.
        live: how often the tables are looked at for all who watch together; at least 0.2 s. None: pages do
            not renew themselves.
        timeout: the longest that a statement may take on the server.
        secret: signs the forms. None: a random one of this process; several processes behind one address must
            share one, or forms of the one are refused by the other.
        origins: such as ``https://ops.example.com``, from which forms are taken besides the request's own
            host: for a proxy that does not pass on the ``Host`` header.
        hosts: names and addresses that requests may speak to; None: any.

    Raises:
        ConfigurationError: there is no ``authorize``, nothing to make Sessions, or the secret is too short.
    """
    return Dashboard(
        jobs,
        sessionmaker,
        authorize=authorize,
        read_only=read_only,
        title=title,
        live=live,
        timeout=timeout,
        secret=secret,
        origins=origins,
        hosts=hosts,
    )


class Dashboard:
    """The ASGI application that `dashboard` makes.

    Parameters:
        door: the login of a dashboard that stands alone; then it is what is asked.
    """

    def __init__(
        self,
        jobs: Registry[Any],
        sessionmaker: Any = None,
        *,
        authorize: Authorize | None = None,
        read_only: bool = False,
        title: str = "sqla_jobs",
        live: dt.timedelta | None = dt.timedelta(seconds=2),
        timeout: dt.timedelta = dt.timedelta(seconds=5),
        secret: str | bytes | None = None,
        origins: Iterable[str] = (),
        hosts: Iterable[str] | None = None,
        door: Door | None = None,
    ) -> None:
        if not isinstance(jobs, Registry):
            raise ConfigurationError(f"dashboard({shown(jobs)}, …): expected the application's Jobs")
        if isinstance(origins, str) or isinstance(hosts, str):
            raise ConfigurationError(
                "dashboard(…, origins=…, hosts=…): expected lists of texts, found one text"
            )
        self.read_only: Final = read_only
        self.title: Final = title
        self.origins: Final = tuple(origins)
        self.hosts: Final = None if hosts is None else frozenset(each.lower().strip("[]") for each in hosts)
        self.database: Final = Database(jobs, sessions_for(jobs, sessionmaker), _length("timeout", timeout))
        self.signer: Final = Signer(secret)
        self.door: Final = door
        self.static: Final = render.load_static()
        interval = None if live is None else _length("live", live).total_seconds()
        self.streams: Final = None if interval is None else Streams(Pulse(self.database, interval))
        self._authorize: Final = check_authorize(authorize) if door is None else door.authorize
        self._templates: Final = render.environment()
        self._routed: Final = with_headers(self._entered(self._router()))

    def _entered(self, router: Router) -> ASGIApp:
        """The pages; below a path of a WSGI server's also ``/queue``, which is ``/queue/``."""

        async def enter(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] and scope["path"] == scope.get("root_path"):
                await RedirectResponse(f"{base_of(Request(scope))}/", 307)(scope, receive, send)
            else:
                await router(scope, receive, send)

        return enter

    def _router(self) -> Router:
        routes = [Route("/static/{version}/{name:path}", _Static(self))]
        if self.door is not None:
            routes += [
                Route("/login", _Login(self)),
                Route("/logout", _Endpoint(self, actions.leave, "POST")),
            ]
        routes += [Route(path, _Endpoint(self, handler, "GET")) for path, handler in _PAGES.items()]
        routes += [Route(path, _Endpoint(self, handler, "POST")) for path, handler in _ACTIONS.items()]
        routes.append(Route("/{path:path}", _Endpoint(self, pages.nowhere, "GET")))
        return Router(routes, redirect_slashes=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http":
            await self._routed(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:  # lifespan: there is nothing to open or close
            raise RuntimeError(f"the dashboard has no answer to a scope of type {scope['type']!r}")

    async def answer(self, request: Request, handler: Handler, method: str) -> Response:
        """What a handler answers, or a page that says why it does not."""
        visit = None
        try:
            check_size(request.scope)
            check_host(request.scope, self.hosts)
            access = await self._admitted(request)
            if isinstance(access, Response):
                return access
            visit = Visit(self, request, access)
            if request.method != method and (method, request.method) != ("GET", "HEAD"):
                raise Refused(405, f"This address is for {method} requests.")
            response = await handler(visit)
        except Exception as error:
            response = self.refusal(request, visit, fault_of(error))
        if visit is not None and not visit.is_known:
            response.set_cookie(
                COOKIE, visit.browser, path=visit.base or "/", httponly=True, samesite="strict",
                secure=request.url.scheme == "https",
            )  # fmt: skip
        return response

    async def _admitted(self, request: Request) -> Access | Response:
        access = await admit(self._authorize, request)
        if access is None:
            raise Refused(403, "You may not come in here.")
        return access

    def refusal(self, request: Request, visit: Visit | None, fault: Fault) -> HTMLResponse:
        """A page that says why there is none."""
        if visit is not None:
            response = visit.page("fault.html", fault.status, fault=fault)
        else:  # of a stranger nothing is known, and nothing is told to them
            response = self.rendered(
                "stranger.html", fault.status, base=base_of(request), house=self, fault=fault
            )
        response.headers.update(fault.headers or {})
        return response

    def rendered(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """A template as a response."""
        return HTMLResponse(self._templates.get_template(template).render(values), status)


class _Endpoint:
    """A handler as Starlette's routes take it: with all methods, whose refusal is a page too."""

    def __init__(self, house: Dashboard, handler: Handler, method: str) -> None:
        self._house = house
        self._handler = handler
        self._method = method

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._house.answer(Request(scope, receive), self._handler, self._method)
        await response(scope, receive, send)


class _Static:
    """A static file; for everybody, since the login needs them."""

    def __init__(self, house: Dashboard) -> None:
        self._house = house

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        response: Response | None = None
        try:
            check_size(scope)
            check_host(scope, self._house.hosts)
            if request.method not in ("GET", "HEAD"):
                raise Refused(405, "This address is for GET requests.")
            response = self._house.static.response(request)
            if response is None:
                raise Refused(404, "There is no such file.")
        except Refused as error:
            response = self._house.refusal(request, None, fault_of(error))
        await response(scope, receive, send)


class _Login:
    """The login of a dashboard that stands alone."""

    def __init__(self, house: Dashboard) -> None:
        self._house = house

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        assert self._house.door is not None
        try:
            check_size(scope)
            check_host(scope, self._house.hosts)
            response = await self._house.door.answer(self._house, request)
        except Exception as error:
            response = self._house.refusal(request, None, fault_of(error))
        await response(scope, receive, send)


def _length(name: str, given: Any) -> dt.timedelta:
    if not isinstance(given, dt.timedelta) or given < _SHORTEST_INTERVAL:
        raise ConfigurationError(
            f"dashboard(…, {name}={shown(given)}): expected a timedelta of at least 0.2 seconds"
        )
    return given
