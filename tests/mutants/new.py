"""Writes a mutant's patch, so that nobody counts the lines of a diff by hand.

    python tests/mutants/new.py no_fence --what "finish is not fenced by the claim" \\
        --test tests/test_fence.py::test_stale_writer \\
        sqla_jobs/statements.py --old "Job.claim == claim," --new ""

OLD must occur exactly once in the file. Run it again with the same name to write the patch anew.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name")
    parser.add_argument("file", help="from the project's root; revisions are under migrations/, not the link")
    for option in ("--what", "--test", "--old", "--new"):
        parser.add_argument(option, required=True)
    options = parser.parse_args()

    before = (PROJECT / options.file).read_text()
    if (found := before.count(options.old)) != 1:
        print(f"--old must occur once in {options.file}, it occurs {found} times")
        return 1
    diff = difflib.unified_diff(
        before.splitlines(keepends=True),
        before.replace(options.old, options.new).splitlines(keepends=True),
        f"a/{options.file}",
        f"b/{options.file}",
    )
    patch = HERE / f"{options.name}.patch"
    patch.write_text(f"# what: {options.what}\n# test: {options.test}\n{''.join(diff)}")
    print(f"wrote {patch.relative_to(PROJECT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
