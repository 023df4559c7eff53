"""Adds up what ctest wrote by --output-junit: "PASSED FAILED SKIPPED" on standard output, and why
tests were skipped on standard error. A test that could not be started has failed. One that is left
out of one build (a sanitizer takes what it needs) and passes in another is not skipped: it has run.

    junit_sum.py FILE...
"""

import re
import sys
import xml.etree.ElementTree as ElementTree


def output(case):
    return case.findtext("system-out") or ""


def inside(case, word):
    """The tests of a program that were reported with that word; it says so once or twice."""
    return set(re.findall(rf"^\[ +{word} \] ([a-z0-9_]+)$", output(case), re.M))


def was_skipped(case):
    """By its own word; for other reasons not to run it has failed."""
    skipped = case.find("skipped")
    return skipped is not None and skipped.get("message", "").startswith("SKIP_RETURN_CODE")


def reason(case):
    lines = [line.strip() for line in output(case).splitlines() if line.strip()]
    return lines[-1] if lines else "it does not say why"


def main(paths):
    passed, failed, skipped = set(), [], {}
    n_passed = 0
    for path in paths:
        for case in ElementTree.parse(path).getroot().iter("testcase"):
            name = case.get("name")
            if case.get("status") == "run":
                n_passed += 1
                passed.add(name)
                passed.update(f"{name}: {test}" for test in inside(case, "OK"))
                skipped.update({f"{name}: {test}": "left out" for test in inside(case, "SKIPPED")})
            elif was_skipped(case):
                skipped[name] = reason(case)
            else:
                failed.append(name)
    never = {name: why for name, why in skipped.items() if name not in passed}
    for name, why in sorted(never.items()):
        print(f"skipped: {name}: {why}", file=sys.stderr)
    print(n_passed, len(failed), len(never))


main(sys.argv[1:])
