"""The templates and the static files, read once from the package."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import Response

from sqla_jobs.web import shown

_KINDS: Final = {
    "dashboard.css": "text/css; charset=utf-8",
    "dashboard.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


@dataclass(frozen=True)
class Static:
    """The static files, by name: nothing else can be asked for, whatever a path says."""

    files: dict[str, bytes]
    version: str
    """Of all of them; it is in their address, so that browsers may keep them."""

    def response(self, request: Request) -> Response | None:
        """The file of a request; None: there is none of that name."""
        name = request.path_params["name"]
        if name not in self.files:
            return None
        kept = request.path_params["version"] == self.version
        return Response(
            self.files[name],
            media_type=_KINDS[name],
            headers={"cache-control": "public, max-age=31536000, immutable" if kept else "no-cache"},
        )


def load_static() -> Static:
    """All of them."""
    folder = resources.files("sqla_jobs.web") / "static"
    files = {name: (folder / name).read_bytes() for name in _KINDS}
    return Static(files, hashlib.sha256(b"".join(files.values())).hexdigest()[:12])


def environment() -> Environment:
    """The templates. All that they are given is escaped; a name that is missing is an error."""
    made = Environment(
        loader=PackageLoader("sqla_jobs.web", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    filters: dict[str, Any] = {
        name: getattr(shown, name)
        for name in (
            "span",
            "ago",
            "moment",
            "iso",
            "document",
            "brief",
            "cut",
            "one_line",
            "number",
            "amount",
            "plural",
        )
    }
    made.filters.update(filters)
    return made
