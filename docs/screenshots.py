"""Take the pictures of the dashboard: python docs/screenshots.py

An embedded PostgreSQL with a day's made-up jobs, the dashboard on a real server, Debian's Chromium. Needs the
extra `test`, and Pillow to make the pictures small.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from PIL import Image  # noqa: E402

import sqla_jobs  # noqa: E402
from sqla_jobs import Jobs  # noqa: E402
from sqla_jobs.web import Access, dashboard  # noqa: E402
from tests.support.browser import chromium  # noqa: E402
from tests.support.demo_data import fill  # noqa: E402
from tests.support.server import fresh_database, running_server  # noqa: E402
from tests.support.site import served  # noqa: E402

SCREEN = {"width": 1200, "height": 800}
PHONE = {"width": 390, "height": 780}
COLOURS = 256

PICTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "dashboard-light": ("/", {"viewport": SCREEN}),
    "dashboard-dark": ("/jobs?queue=webhooks", {"viewport": SCREEN, "color_scheme": "dark"}),
    "dashboard-job": ("/jobs/{failed}", {"viewport": SCREEN}),
    "dashboard-phone": ("/", {"viewport": PHONE, "is_mobile": True, "device_scale_factor": 1.5}),
}


def main() -> None:
    with running_server() as server, fresh_database(server, "pictures") as database:
        sqla_jobs.metadata.create_all(database.engine)
        fill(database)
        failed = database.scalar("SELECT max(id) FROM sqla_jobs WHERE state = 'failed'")
        house = dashboard(Jobs(), database.sessionmaker, authorize=lambda _: Access("ann", write=True))
        with served(house) as site, chromium() as browser:
            for name, (path, options) in PICTURES.items():
                context = browser.new_context(**options)
                page = context.new_page()
                page.goto(site.url + path.format(failed=failed))
                page.locator(".live.on").wait_for()
                picture = DOCS / f"{name}.png"
                page.screenshot(path=picture)
                context.close()
                shrink(picture)
                print(f"{picture.name}: {picture.stat().st_size // 1024} KB")
            house.streams.stop()


def shrink(picture: Path) -> None:
    """Few colours are enough for a page of text, at half the size."""
    with Image.open(picture) as full:
        small = full.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(picture, optimize=True)


if __name__ == "__main__":
    main()
