"""Adds up what ctest wrote by --output-junit: "PASSED FAILED SKIPPED" on standard output, and why
tests were skipped on standard error. A test that could not be started has failed.

    junit_sum.py FILE...
"""

import sys
import xml.etree.ElementTree as ElementTree


def skip_reason(case):
    """None: it was not skipped by its own word."""
    skipped = case.find("skipped")
    if skipped is None or not skipped.get("message", "").startswith("SKIP_RETURN_CODE"):
        return None
    lines = [line for line in (case.findtext("system-out") or "").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it does not say why"


passed = failed = n_skipped = 0
for path in sys.argv[1:]:
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        if case.get("status") == "run":
            passed += 1
        elif skip_reason(case) is not None:
            n_skipped += 1
            print(f"skipped: {case.get('name')}: {skip_reason(case)}", file=sys.stderr)
        else:
            failed += 1
print(passed, failed, n_skipped)
