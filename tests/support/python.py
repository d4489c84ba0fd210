"""Python programs that a test runs in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import sqla_jobs
from tests.support.server import Database

LIBRARY = Path(sqla_jobs.__file__).parents[1]


def start_python(program: str, *, database: Database, library: Path = LIBRARY) -> subprocess.Popen[str]:
    """Start a program that finds its database in DATABASE_URL; ``library`` is where sqla_jobs is."""
    environment = {**os.environ, "PYTHONPATH": str(library), "DATABASE_URL": database.url_string}
    return subprocess.Popen(
        [sys.executable, "-c", dedent(program)],
        # `python -c` looks into the working directory first.
        cwd=library,
        env=environment,
        stdin=subprocess.PIPE,  # the tests' own may be at its end, and a program may wait for it
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def python(program: str, *, database: Database, library: Path = LIBRARY) -> str:
    """Run a program that must go through; returns its standard output."""
    process = start_python(program, database=database, library=library)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, f"the program failed:\n{output}{errors}"
    return output
