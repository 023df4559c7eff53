"""Every system call and every allocation of a daemon in service fails, once and from then on, with every
error that it can give, while a guest's TPM is used through it. Whatever fails: the command that could
not be made durable says so with TPM_RC_NV_UNAVAILABLE and had no effect, the key and the session that the
guest has loaded are still there and can be used, later commands work, and what was stored is there after
the power goes. Nothing that libtpms has to say about it gets into a log. [S1.12]

    test_service_faults.py             a part of them, always the same
    test_service_faults.py --long      all
    test_service_faults.py --only NV_Write --every 7

As test_command_faults.py, of which this is the continuation: the daemon is confined (seccomp, Landlock)
as always. One daemon lives through many faults; they end, it stays.
"""

import os
import re
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True

from faults import commands, serving  # noqa: E402,F401 (the latter finds the harness)
from faults.calls import faults_of, some_of  # noqa: E402
from faults.inject import Control  # noqa: E402
from faults.judge import died_in_library, is_libcrypto, must_fail, must_go_on  # noqa: E402
from faults.operations import all_operations  # noqa: E402
from faults.service import Lost, Service  # noqa: E402
from faults.takeover import TakeOver  # noqa: E402
from faults.program import main  # noqa: E402
from faults.tally import Tally  # noqa: E402
from harness.process import Failure  # noqa: E402

N_SHORT, N_SHORT_TAKEOVER = 20, 12  # faults of each operation in the short form
POWER_CUT_EVERY = 10
LOG_LINE = re.compile(r"^\d{4}-\d\d-\d\dT[0-9:.]+Z (?!libtpms/).*$")  # ours


class Violation(Exception):
    pass


def demand(condition, what):
    if not condition:
        raise Violation(what)


def record(service, op):
    """Without faults: what the daemon calls meanwhile."""
    begin = os.path.getsize(service.log_path)
    service.control.plan(None)
    service.control.set(n_alloc_made=0)
    service.control.record()
    op.next()
    service.control.set(armed=1)
    rc = op.run(service)
    time.sleep(0.02)  # what comes behind the answer
    service.control.set(armed=0)
    demand(rc == 0, f"it answers {rc} without faults")
    with open(service.log_path, encoding="utf-8", errors="replace") as f:
        f.seek(begin)
        lines = f.read().splitlines()
    return faults_of(lines, service.control.ways(), service.tools.sanitized)[0]


def attempt(service, op, fault=None):
    """The answer; None if the connection ended instead."""
    passing = not (fault and fault.for_good)
    try:
        return op.run(service, passing)
    except Lost as e:
        demand(not (passing and str(e)), str(e))
        return None


def come_back(service, op, before):
    """The guest starts its TPM anew after what turns it off; what it stored must be there."""
    if not getattr(op, "cold", False):
        return before
    service.connect()
    demand(service.ctrl.result(0x0E) == 0, "STOP is refused afterwards")
    service.settle()
    return (before[0], service.pcr)


def restart(service):
    service.kill()
    service.start()
    service.settle()


def after_power_cut(service, wanted):
    restart(service)
    found = service.tpm.nv_read(commands.INDEX, 16)
    demand(found in wanted, f"after a power cut there is {found}, wanted {wanted}")


def check_logs(service):
    demand(service.run.err() == "", f"on standard error: {service.run.err()}")
    for line in service.log().splitlines():
        demand(LOG_LINE.match(line), f"in the log: {line}")


def judge_refusal(op, fault, rc):
    demand(not must_go_on(fault), f"is no failure, but it answered {rc}")
    demand(rc in op.refusals(fault), f"it answered {rc if isinstance(rc, str) else hex(rc)}")


def judge(service, op, fault, rc, before):
    """After the fault: it serves, and the values are what the answer says."""
    if rc is None:  # what is still on its way belongs to nobody any more
        service.connect()
    if rc != 0 and not getattr(op, "cold", False):
        service.tidy()
    wrong = service.complaint() if not getattr(op, "cold", False) else None
    demand(not wrong, wrong)
    before = come_back(service, op, before)
    after = op.after(before)
    found = service.values()
    if rc == 0:
        demand(found == after, f"it answered 0, and there is {found}")
    elif rc is None:
        demand(found in (before, after), f"it did not answer, and there is {found}")
    else:
        judge_refusal(op, fault, rc)
        demand(found == before, f"it refused, and there is {found}, not {before}")
    if rc != 0:
        demand(attempt(service, op) == 0, "the same command fails when nothing does any more")
        found = come_back(service, op, found)
        demand(service.values() == op.after(found), "the same command has no effect afterwards")
    service.content = service.values()[0]


def try_one(service, op, fault, tally):
    before = service.values()
    op.next()
    service.control.plan(fault)
    service.control.set(armed=1)
    rc = attempt(service, op, fault)
    if fault.for_good and rc not in (0, None):
        judge_refusal(op, fault, rc)
        rc = attempt(service, op, fault)
    service.disarm()
    service.set_patience()
    hit = service.control.alloc_hit if fault.call == "allocation" else service.control.hit
    if not hit and rc == 0:
        tally.missed += 1
        service.content = service.values()[0]
        return
    tally.count(op.name, fault)
    if rc is None and fault.call == "allocation":
        service.wait_if_dying()
    if service.died():
        code = service.run.wait_ended(1)
        after_power_cut(service, (before[0], op.after(before)[0]))
        demand(died_in_library(fault, hit, code), f"the daemon ended with {code}")
        tally.died += 1
        return
    demand(not (must_go_on(fault) and rc != 0), f"is no failure, but it answered {rc}")
    demand(not (must_fail(fault) and rc == 0), "it answered 0, and not all of it can be on the disk")
    judge(service, op, fault, rc, before)
    if op.commits and tally.faults % POWER_CUT_EVERY == 0:
        after_power_cut(service, (service.content,))
    tally.withstood += rc == 0
    tally.refused += rc != 0


def run_operation(service, op, options, offset):
    tally = Tally()
    restart(service)
    service.content = service.values()[0]
    faults = record(service, op)
    come_back(service, op, service.values())
    service.content = service.values()[0]
    for fault in some_of(faults, options, N_SHORT, offset):
        try:
            try_one(service, op, fault, tally)
            check_logs(service)
        except (Violation, Failure, OSError) as e:
            service.disarm()
            tally.violation(f"{op.name}: {fault} [{service.control.hit}"
                            f"{service.control.alloc_hit}]: {e}")
            restart(service)
            service.content = service.values()[0]
    return tally


def try_takeover(op, fault, tally):
    """One hand-over in which the target fails: afterwards the guest goes on in one place, on either side."""
    op.set_scene()
    try:
        op.control.plan(fault)
        op.control.set(armed=1)
        rc = attempt(op.target, op, fault)
        op.target.disarm()
        hit = op.control.alloc_hit if fault.call == "allocation" else op.control.hit
        if not hit and rc == 0:
            tally.missed += 1
            return
        tally.count(op.name, fault)
        if rc is None and fault.call == "allocation":
            op.target.wait_if_dying()
        if op.target.died():
            demand(died_in_library(fault, hit, op.target.run.wait_ended(1)), "the target died")
            demand(op.source.comes_back() and not op.serves(op.source), "the source is lost, too")
            tally.died += 1
            return
        demand(not (must_go_on(fault) and rc != 0), f"is no failure, but it answered {rc}")
        demand(not (must_fail(fault) and rc == 0), "it answered 0, and not all can be on the disk")
        if rc == 0:
            wrong = op.serves(op.target)
            demand(not wrong, wrong)
            demand(not op.source.comes_back(), "the source came back although the target has it")
        else:
            demand(rc is None or rc in op.refusals(fault), f"it answered {rc}")
            try:
                op.where(source_first=tally.faults % 2 == 0)
            except Failure:
                # What libcrypto could not begin in a process it never begins again.
                demand(fault.for_good and is_libcrypto(hit), "nobody has the TPM")
                op.starts_anew()
                tally.died += 1
                return
        check_logs(op.target)
        tally.withstood += rc == 0
        tally.refused += rc != 0
    finally:
        op.end()


def run_takeover(op, options):
    tally = Tally()
    op.set_scene()
    try:
        faults = record(op.target, op)
    finally:
        op.end()
    for fault in some_of(faults, options, N_SHORT_TAKEOVER, 0):
        try:
            try_takeover(op, fault, tally)
        except (Violation, Failure, OSError) as e:
            tally.violation(f"{op.name}: {fault} [{op.control.hit}{op.control.alloc_hit}]: {e}")
    return tally


def run_all(tools, options, base):
    total = Tally()
    made = os.path.join(base, "made")
    os.mkdir(made)
    templates = commands.make_templates(tools, made)
    with open(os.path.join(made, "i"), "wb") as f:
        f.write(templates["i"])
    service = Service(tools, Control(os.path.join(base, "control")), made).start()
    try:
        for n, op in enumerate(all_operations()):
            if options.only and options.only not in op.name:
                continue
            began = time.monotonic()
            tally = run_operation(service, op, options, 5 * n)
            print(f"{tally.line(op.name)} ({time.monotonic() - began:.1f} s)", flush=True)
            total.add(tally)
    finally:
        service.run.kill()
    op = TakeOver(tools, Control(os.path.join(base, "control-target")), base, made)
    if not options.only or options.only in op.name:
        began = time.monotonic()
        tally = run_takeover(op, options)
        print(f"{tally.line(op.name)} ({time.monotonic() - began:.1f} s)", flush=True)
        total.add(tally)
    print(total.line("faults in service, in all:"))
    return total


if __name__ == "__main__":
    sys.exit(main(run_all))
