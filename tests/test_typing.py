"""tests/typing is right to both type checkers, as strict as they are; `make check` says so of all else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = {
    "mypy": ["mypy", "--follow-imports=silent", "tests/typing"],
    "pyright": ["pyright", "--pythonpath", sys.executable, "tests/typing"],
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("checker", COMMANDS)
def test_enqueue_keeps_the_signature_of_its_task(checker: str) -> None:
    pytest.importorskip(checker)
    command = [sys.executable, "-m", *COMMANDS[checker]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
