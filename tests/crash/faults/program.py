"""What the programs that try faults have in common: their options, their folder, their exit code."""

import argparse
import os
import shutil
import tempfile

from .inject import Tools


def main(run_all):
    """run_all(tools, options, folder) returns a Tally of everything."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--only")
    parser.add_argument("--every", type=int)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    tools = Tools()
    if tools.missing():
        print(f"missing: {tools.missing()}")
        return 77
    base = tempfile.mkdtemp(prefix="nvk-faults-", dir=os.environ.get("TMPDIR", "/tmp"))
    try:
        total = run_all(tools, options, base)
    finally:
        if not options.keep:
            shutil.rmtree(base, ignore_errors=True)
    return 1 if total.violations or not total.faults else 0
