"""Breaks the project on purpose, one patch at a time, and requires that the named test notices.

    python tests/mutants/run.py [NAME ...] [-j N]

Each `<name>.patch` beside this file takes away one fence, lock or guard. Above its diff it says

    # what: what is taken away
    # test: tests/test_x.py::test_name

A mutant is killed when that test FAILS. One that passes has survived; a patch that does not apply, or a test
that cannot be set up, is broken. Either makes the exit code 1. `new.py` writes such patches.
"""

from __future__ import annotations

import argparse
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
# A mutant may well hang where its lock was; it need not have the suite's patience.
TIMEOUT = 60


class BrokenError(Exception):
    """A mutant that proves nothing: its header, its patch or its test is wrong."""


@dataclass(frozen=True)
class Mutant:
    name: str
    patch: Path
    what: str
    test: str

    @classmethod
    def read(cls, patch: Path) -> Mutant:
        header = {}
        for line in patch.read_text().splitlines():
            if not line.startswith("# "):
                break
            key, _, value = line[2:].partition(": ")
            header[key] = value.strip()
        if missing := [key for key in ("what", "test") if not header.get(key)]:
            raise BrokenError(
                f"{patch.name}: its first lines must be '# what: ...' and '# test: ...', no {missing} found"
            )
        return cls(patch.stem, patch, header["what"], header["test"])


@dataclass(frozen=True)
class Result:
    passed: int
    failed: int
    output: str


@dataclass(frozen=True)
class Copy:
    """A copy of the project in which one mutant at a time lives."""

    folder: Path
    environment: dict[str, str]

    @classmethod
    def make(cls, folder: Path, url: str) -> Copy:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=PROJECT, check=True, capture_output=True, text=True,
        )  # fmt: skip
        for name in filter(None, listed.stdout.split("\0")):
            source, target = PROJECT / name, folder / name
            if source.is_symlink() or source.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target, follow_symlinks=False)
        environment = {
            **os.environ,
            # In front of an editable install of the project itself, also in the processes that tests start.
            "PYTHONPATH": str(folder),
            # A .pyc is trusted by the second and the size of its source: a mutant can match both.
            "PYTHONDONTWRITEBYTECODE": "1",
            "SQLA_JOBS_TEST_DATABASE_URL": url,
            "GIT_CEILING_DIRECTORIES": str(folder.parent),
        }
        copy = cls(folder, environment)
        copy.must_be_imported()
        return copy

    def must_be_imported(self) -> None:
        """Raise if tests run here would import another copy of the package than this one."""
        found = subprocess.run(
            [sys.executable, "-c", "import importlib.util as u; print(u.find_spec('sqla_jobs').origin)"],
            cwd="/", env=self.environment, check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
        if not Path(found).resolve().is_relative_to(self.folder.resolve()):
            raise BrokenError(f"tests in {self.folder} would import {found}, not the mutated copy")

    def run(self, tests: Sequence[str]) -> Result:
        """Run these tests; raise `BrokenError` if they could not be set up or collected."""
        report = self.folder / "mutant-report.xml"
        log = self.folder / "mutant-output.txt"
        report.unlink(missing_ok=True)
        with log.open("w") as output:
            # Files and a session of its own, not a pipe: workers that a test left behind would hold it open.
            process = subprocess.Popen(
                [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider",
                 "-o", f"timeout={TIMEOUT}", f"--junitxml={report}", *tests],
                cwd=self.folder, env=self.environment, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
            try:
                code = process.wait(TIMEOUT * (len(tests) + 2))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise BrokenError(f"pytest did not come to its end\n{tail(log.read_text())}") from None
        told = log.read_text()
        if code not in (0, 1) or not report.exists():
            raise BrokenError(f"pytest ended with {code}: no test failed\n{tail(told)}")
        counts = dict.fromkeys(("tests", "errors", "failures", "skipped"), 0)
        for suite in ET.parse(report).iter("testsuite"):
            for key in counts:
                counts[key] += int(suite.get(key, 0))
        passed = counts["tests"] - counts["errors"] - counts["failures"] - counts["skipped"]
        if not counts["failures"] and (counts["errors"] or not passed):
            raise BrokenError(f"the test did not run: {counts}\n{tail(told)}")
        return Result(passed, counts["failures"], told)

    def apply(self, mutant: Mutant, *, reverse: bool = False) -> None:
        done = subprocess.run(
            ["git", "apply", *(["--reverse"] if reverse else []), str(mutant.patch)],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise BrokenError(f"it does not apply any more: write it anew for today's code\n{done.stderr}")


def tail(output: str, lines: int = 25) -> str:
    return "\n".join(output.rstrip().splitlines()[-lines:])


def verdict(mutant: Mutant, copies: queue.Queue[Copy]) -> tuple[Mutant, str, str]:
    """Try one mutant in a free copy: (mutant, 'killed' | 'SURVIVED' | 'BROKEN', why)."""
    copy = copies.get()
    try:
        copy.apply(mutant)
        try:
            result = copy.run([mutant.test])
        finally:
            copy.apply(mutant, reverse=True)
    except BrokenError as error:
        return mutant, "BROKEN", str(error)
    finally:
        copies.put(copy)
    if result.failed:
        return mutant, "killed", ""
    return mutant, "SURVIVED", f"{mutant.test} passes although it is broken: {mutant.what}"


def select(names: Sequence[str]) -> list[Mutant]:
    mutants = [Mutant.read(patch) for patch in sorted(HERE.glob("*.patch"))]
    known = {mutant.name for mutant in mutants}
    wanted = {name.removesuffix(".patch") for name in names}
    if unknown := wanted - known:
        raise BrokenError(
            f"no such mutant: {', '.join(sorted(unknown))}; there are: {', '.join(sorted(known)) or 'none'}"
        )
    return [mutant for mutant in mutants if not wanted or mutant.name in wanted]


def run(names: Sequence[str], jobs: int) -> int:
    from tests.support.server import running_server

    mutants = select(names)
    if not mutants:
        print("no mutants")
        return 0
    with tempfile.TemporaryDirectory(prefix="sqla_jobs_mutants_") as folder, running_server() as server:
        url = server.maintenance.render_as_string(hide_password=False)
        copies: queue.Queue[Copy] = queue.Queue()
        for number in range(min(jobs, len(mutants))):
            copies.put(Copy.make(Path(folder).resolve() / str(number), url))

        healthy = copies.get()
        result = healthy.run(sorted({mutant.test for mutant in mutants}))
        copies.put(healthy)
        if result.failed:
            raise BrokenError(f"the tests must pass before anything is broken\n{tail(result.output, 60)}")
        print(f"unbroken: {result.passed} passed", flush=True)

        bad = []
        width = max(len(mutant.name) for mutant in mutants)
        with ThreadPoolExecutor(copies.qsize()) as pool:
            for mutant, state, why in pool.map(lambda mutant: verdict(mutant, copies), mutants):
                print(f"{state:8}  {mutant.name:{width}}  {mutant.what}", flush=True)
                if state != "killed":
                    bad.append(f"\n{state} {mutant.name}: {why}")
    print(*bad, sep="\n")
    print(f"{len(mutants) - len(bad)} of {len(mutants)} mutants killed")
    return 1 if bad else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these mutants")
    parser.add_argument("-j", "--jobs", type=int, default=2, help="copies at work at once (default 2)")
    options = parser.parse_args()
    sys.path.insert(0, str(PROJECT))
    try:
        return run(options.names, max(1, options.jobs))
    except BrokenError as error:
        print(f"BROKEN: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
