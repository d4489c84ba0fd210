"""The package as users get it: wheel, sdist and editable, each installed in a fresh virtual environment."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
import tarfile
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = [pytest.mark.packaging, pytest.mark.xdist_group("packaging")]

ROOT = Path(__file__).resolve().parents[1]
REVISIONS = ["0001_job_queue.py", "0002_deaths_and_vacuum.py", "0003_what_workers_know.py", "0004_meta.py"]
SOURCES = [
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "MANIFEST.in",
    "sqla_jobs",
    "migrations",
]

# What an installed package must be able to do, wherever its files are.
PROGRAM = """
import importlib.metadata, importlib.util
from pathlib import Path
import sqla_jobs
from sqla_jobs import migrations

versions = sorted(path.name for path in Path(migrations.__path__[0], "versions").glob("0*.py"))
print(Path(sqla_jobs.__file__).parent)
print(migrations.head(), migrations.head() == sqla_jobs.models.SCHEMA_VERSION, versions)
print(Path(sqla_jobs.__file__).with_name("py.typed").exists())
print(importlib.util.find_spec("migrations"), importlib.util.find_spec("tests"))
print(importlib.metadata.version("sqla-jobs"))
"""


@dataclass(frozen=True)
class Built:
    source: Path
    sdist: Path
    wheel: Path
    wheel_of_sdist: Path


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}"
    return done.stdout


def has_build_backend() -> bool:
    """Whether nothing need be downloaded to build: the `test` extra brings the build backend."""
    with suppress(importlib.metadata.PackageNotFoundError):
        return int(importlib.metadata.version("setuptools").split(".")[0]) >= 77
    return False


def contents(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return sorted(archive.namelist())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The sdist, the wheel that is built from it, and the one that is built from the checkout."""
    folder = tmp_path_factory.mktemp("packaging")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "build", *(["--no-isolation"] if has_build_backend() else []), source]
    # Without --wheel and --sdist the wheel is built from the sdist.
    run(*build, "--outdir", "from_sdist", cwd=folder)
    run(*build, "--wheel", "--outdir", "from_checkout", cwd=folder)
    [sdist] = (folder / "from_sdist").glob("*.tar.gz")
    [wheel_of_sdist] = (folder / "from_sdist").glob("*.whl")
    [wheel] = (folder / "from_checkout").glob("*.whl")
    return Built(source, sdist, wheel, wheel_of_sdist)


def test_the_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    names = contents(built.wheel)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"sqla_jobs"}
    assert "sqla_jobs/py.typed" in names
    checkout = {
        f"sqla_jobs/{path.relative_to(ROOT / 'sqla_jobs')}"
        for path in [*(ROOT / "sqla_jobs").rglob("*.py"), *(ROOT / "sqla_jobs" / "migrations").rglob("*.py")]
    }
    assert {name for name in names if name.endswith(".py")} == checkout
    files = [
        path for kind in ("templates", "static") for path in (ROOT / "sqla_jobs" / "web" / kind).iterdir()
    ]
    assert {f"sqla_jobs/web/{path.parent.name}/{path.name}" for path in files} <= set(names)
    assert contents(built.wheel_of_sdist) == names


def test_the_sdist_holds_no_tests(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {Path(*Path(name).parts[1:]).as_posix() for name in archive.getnames()}
    for revision in REVISIONS:
        assert f"sqla_jobs/migrations/versions/{revision}" in names
    assert not [name for name in names if name.startswith("tests")]


@pytest.fixture(params=["wheel", "wheel_of_sdist", "sdist", "editable"])
def environment(request: pytest.FixtureRequest, built: Built, tmp_path: Path) -> Path:
    """The folder of a virtual environment's programs, with the package installed in one of the ways."""
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=tmp_path)
    programs = venv / "bin"
    # The requirements are those of this environment; only the package itself is to be installed.
    [own] = venv.glob("lib/python*/site-packages")
    (own / "requirements.pth").write_text("\n".join(p for p in sys.path if p.endswith("site-packages")))
    what = ["--editable", built.source] if request.param == "editable" else [getattr(built, request.param)]
    run(
        *(sys.executable, "-m", "pip", "--python", programs / "python", "install", "--quiet"),
        *("--disable-pip-version-check", "--no-deps", "--ignore-installed"),
        *(["--no-build-isolation"] if has_build_backend() else []),
        *what,
        cwd=tmp_path,
    )
    return programs


def test_an_installed_package(environment: Path, built: Built, tmp_path: Path) -> None:
    said = run(environment / "python", "-c", PROGRAM, cwd=tmp_path)
    where, head, typed, leaks, version = said.splitlines()
    [own] = environment.parent.glob("lib/python*/site-packages")
    assert Path(where) in (built.source / "sqla_jobs", own / "sqla_jobs")
    assert head == f"0004 True {REVISIONS}"
    assert typed == "True"
    assert leaks == "None None"
    assert version == built.wheel.name.split("-")[1]
    assert "Usage: sqla-jobs" in run(environment / "sqla-jobs", "--help", cwd=tmp_path)
