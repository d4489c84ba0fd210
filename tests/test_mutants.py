"""The mutants' patches fit the code as it is; `make mutants` shows that their tests fail under them."""

from __future__ import annotations

import subprocess
from pathlib import Path

MUTANTS = Path(__file__).parent / "mutants"


def test_every_patch_applies() -> None:
    patches = sorted(MUTANTS.glob("*.patch"))
    assert patches
    stale = {}
    for patch in patches:
        told = subprocess.run(
            ["git", "apply", "--check", str(patch)],
            cwd=MUTANTS.parent.parent, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if told.returncode:
            stale[patch.name] = told.stderr
    assert not stale, f"the code has moved: write these anew with tests/mutants/new.py: {stale}"
