"""The dashboard: what is in the queue, and what can be done with it, in a browser. Needs the extra ``web``.

app        dashboard, Dashboard: the ASGI application, its addresses
guard      headers, and the checks of host, size and origin
access     Access, authorize: who may come in
signing    Signer: tokens of forms, notes
password   how a password is kept, and how often it may be guessed
login      Door: the login of a dashboard that stands alone
visit      Visit: one request, and the ways to answer it
pages      what is looked at
actions    what is done
audit      a line for each thing that is done
live       Pulse, Streams: one look at the tables for all who watch
database   reads and writes in threads, bounded by the server
faults     what went wrong -> what its page says
charts     geometry of the charts; pure
shown      how values look; pure
render     templates and static files
"""

from __future__ import annotations

from sqla_jobs.errors import ConfigurationError

try:
    from sqla_jobs.web.access import Access
    from sqla_jobs.web.app import Dashboard, dashboard
except ModuleNotFoundError as error:
    missing = (error.name or "").partition(".")[0]
    if missing not in ("starlette", "jinja2", "anyio"):
        raise
    raise ConfigurationError(
        f"the dashboard needs {missing}, which is not installed: pip install 'sqla-jobs[web]'"
    ) from error

__all__ = ["Access", "Dashboard", "dashboard"]
