"""The application in tests/alembic_app, copied to a folder of the test's own and driven by `alembic`."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import sqla_jobs
from tests.support.server import Database

ORIGINAL = Path(__file__).parents[1] / "alembic_app"

# Everything that CREATE can leave behind, but for Alembic's own table.
OBJECTS = """
    SELECT format('%s %s.%s', kind, nspname, name) FROM (
        SELECT 'relation' AS kind, relnamespace AS namespace, relname::text AS name FROM pg_class
        UNION ALL SELECT 'routine', pronamespace, proname FROM pg_proc
        UNION ALL SELECT 'type', typnamespace, typname FROM pg_type
        UNION ALL SELECT 'constraint', connamespace, conname FROM pg_constraint
    ) AS objects JOIN pg_namespace ON pg_namespace.oid = namespace
    WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' AND name !~ '^_?alembic_version'
    ORDER BY 1
"""


@dataclass
class AlembicApp:
    """One copy of the sample application, on one database."""

    folder: Path
    database: Database
    environment: dict[str, str] = field(default_factory=dict)
    library: Path = field(default_factory=lambda: Path(sqla_jobs.__file__).parents[1])
    """The folder from which the application imports sqla_jobs."""

    def start(self, *arguments: str, module: bool = True) -> subprocess.Popen[str]:
        """Start `alembic` and do not wait for it; or Python with these arguments, if not ``module``."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.library),
            "DATABASE_URL": self.database.url_string,
            **self.environment,
        }
        return subprocess.Popen(
            [sys.executable, *(["-m", "alembic"] if module else []), *arguments],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def fails(self, *arguments: str) -> str:
        """Run `alembic`, which must refuse; returns what it said."""
        process = self.start(*arguments)
        output, errors = process.communicate(timeout=60)
        assert process.returncode != 0, f"alembic {' '.join(arguments)} went through:\n{output}{errors}"
        return output + errors

    def run(self, *arguments: str) -> str:
        """Run `alembic`, which must go through; returns its standard output."""
        process = self.start(*arguments)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, f"alembic {' '.join(arguments)} failed:\n{output}{errors}"
        return output

    def python(self, program: str) -> str:
        """Run a program among the application's modules; returns its standard output."""
        process = self.start("-c", program, module=False)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        return output

    def revise(self, revision: str) -> tuple[list[str], list[str]]:
        """Let autogenerate write a revision; returns the lines of its upgrade() and its downgrade()."""
        self.run("revision", "--autogenerate", "-m", "generated", "--rev-id", revision)
        return self.body(revision, "upgrade"), self.body(revision, "downgrade")

    def file(self, revision: str) -> Path:
        [path] = (self.folder / "alembic" / "versions").glob(f"{revision}_*.py")
        return path

    def body(self, revision: str, function: str) -> list[str]:
        """The statements of a function of a revision."""
        module = ast.parse(self.file(revision).read_text())
        [found] = [
            node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == function
        ]
        docstring = 1 if ast.get_docstring(found) else 0
        return [ast.unparse(statement) for statement in found.body[docstring:]]

    def objects(self) -> list[str]:
        """All that is in the database's own schemas."""
        return [name for (name,) in self.database.rows(OBJECTS)]


def copy_app(folder: Path, database: Database, **environment: str) -> AlembicApp:
    """A fresh copy of the sample application."""
    shutil.copytree(ORIGINAL, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return AlembicApp(folder, database, environment)


def dump(database: Database, tables: str | None = None) -> str:
    """The schema, or the tables of a pattern, as `pg_dump` writes it."""
    options = ["--schema-only", *(["--table", tables] if tables else [])]
    output = _client(database, "pg_dump", *options, database.server.libpq(database.name))
    # A random token against code in dumps, new with each run.
    return re.sub(r"^\\(un)?restrict .*$", "", output, flags=re.MULTILINE)


def psql(database: Database, script: str) -> None:
    """Run a script, as somebody does whom Alembic's --sql gave it for; it ends at the first error."""
    _client(
        database, "psql", "-qX", "-v", "ON_ERROR_STOP=1", database.server.libpq(database.name), stdin=script
    )


def _client(database: Database, program: str, *arguments: str, stdin: str | None = None) -> str:
    if database.server.bindir is None:
        pytest.skip(f"no {program} of the server's version found")
    done = subprocess.run(
        [database.server.bindir / program, *arguments], input=stdin, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
