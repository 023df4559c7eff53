"""Adds up what ctest wrote by --output-junit: "PASSED FAILED SKIPPED" on standard output, and why
tests were skipped on standard error. A test that could not be started has failed.

    junit_sum.py FILE...
"""

import re
import sys
import xml.etree.ElementTree as ElementTree


def skip_reason(case):
    """None: it was not skipped by its own word."""
    skipped = case.find("skipped")
    if skipped is None or not skipped.get("message", "").startswith("SKIP_RETURN_CODE"):
        return None
    lines = [line for line in (case.findtext("system-out") or "").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it does not say why"


def skipped_inside(case):
    """What a program of several tests left out, by its own word."""
    return sorted(set(re.findall(r"^\[  SKIPPED \] ([a-z0-9_]+)$",
                                 case.findtext("system-out") or "", re.M)))


passed = failed = n_skipped = 0
for path in sys.argv[1:]:
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        if case.get("status") == "run":
            passed += 1
            for name in skipped_inside(case):
                n_skipped += 1
                print(f"skipped: {case.get('name')}: {name}", file=sys.stderr)
        elif skip_reason(case) is not None:
            n_skipped += 1
            print(f"skipped: {case.get('name')}: {skip_reason(case)}", file=sys.stderr)
        else:
            failed += 1
print(passed, failed, n_skipped)
