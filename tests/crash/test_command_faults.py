"""Every system call and every allocation of every command fails, once and from then on, with every
error that it can give. Whatever fails: the exit code and the message are of the class that tells the
truth, or the work is done; nothing is left behind; the image is as it was, or whole.
[S0.3, S0.6, S0.12, S0.13, S1.17]

    test_command_faults.py             some of each command's, evenly spread, always the same
    test_command_faults.py --long      all
    test_command_faults.py --only "recover --yes" --every 5

The program is the real one (NVKEEP), traced by tool_inject.c; allocations fail in shim_alloc.c. Which
errors a call can give is said in faults/calls.py, and with it what is left out and why. Left out besides:

  what libtasn1 allocates   it crashes when it gets nothing; crypto/der.c asks for that memory before
  and libseccomp            it crashes too, or forgets rules; so does src/serve/confine.c
  the dynamic loader        the program is not there yet: counting begins with its first instruction
  with a sanitizer          allocations and memory maps: the sanitizer's are not told from the program's

In serve, faults end when it is confined and answers its first command: test_service_faults.py goes on.
"""

import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True

from faults import commands  # noqa: E402
from faults.calls import faults_of, some_of  # noqa: E402
from faults.inject import Control  # noqa: E402
from faults.program import main  # noqa: E402
from faults.tally import Tally  # noqa: E402


def record(scene, control, path):
    """Without faults: what it calls."""
    scene.clean = scene.perform(control, log=path)
    scene.clean.hit = ""
    if scene.clean.code != 0:
        raise commands.Broken(f"{scene.name}: does not work without faults: {scene.clean.err}")
    wrong = scene.done(scene.clean)
    if wrong:
        raise commands.Broken(f"{scene.name}: without faults: {wrong}")
    with open(path, encoding="utf-8", errors="replace") as f:
        return faults_of(f, control.ways(), scene.tools.sanitized)


def try_one(scene, control, fault, tally):
    outcome = scene.perform(control, fault)
    hits = control.n_alloc_hits if fault.call == "allocation" else control.n_hits
    if hits == 0 and outcome.code == 0:
        tally.missed += 1  # fewer calls than before
        return
    tally.count(scene.name, fault)
    wrong = scene.complaint(fault, outcome)
    if wrong:
        tally.violation(f"{scene.name}: {fault} [{outcome.hit}]: {wrong}")
    elif outcome.code < 0:
        tally.died += 1
    elif outcome.code == 0:
        tally.withstood += 1
    else:
        tally.refused += 1


def run_scene(scene, control, options, offset, log):
    tally = Tally()
    scene.setup()
    try:
        faults, _ = record(scene, control, log)
        for fault in some_of(faults, options, scene.n_short, offset):
            try_one(scene, control, fault, tally)
    finally:
        scene.teardown()
    return tally


def run_all(tools, options, base):
    total = Tally()
    control = Control(os.path.join(base, "control"))
    os.mkdir(os.path.join(base, "made"))
    templates = commands.make_templates(tools, os.path.join(base, "made"))
    for n, scene in enumerate(commands.all_scenes(tools, templates, base)):
        if options.only and options.only not in scene.name:
            continue
        began = time.monotonic()
        tally = run_scene(scene, control, options, 5 * n, os.path.join(base, "log"))
        print(f"{tally.line(scene.name)} ({time.monotonic() - began:.1f} s)", flush=True)
        total.add(tally)
    print(total.line("faults of commands, in all:"))
    return total


if __name__ == "__main__":
    sys.exit(main(run_all))
