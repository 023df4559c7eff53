"""Hand-over on shared storage: one image, two hosts, and never two owners."""

import signal
import sys
import threading

from harness.case import main
from harness.continuity import COUNTER, Continuity
from harness.store import FENCED, LOCKED, STATE_CORRUPT
from harness.tpm import nv_increment_command, response_code


def two_hosts(test, tag=""):
    """(source with a guest that has used its TPM, what it must go on seeing, target not started)"""
    source = test.vm(name="source" + tag)
    source.power_on()
    seen = Continuity(test, source)
    target = test.vm(name="target" + tag, store=source.store.view("target" + tag))
    return source, seen, target


def in_a_row(test, n, device):
    """A guest that counts all the way, from host to host and back."""
    hosts = [test.vm(device, name="a")]
    hosts.append(test.vm(device, name="b", store=hosts[0].store.view("b")))
    hosts[0].power_on()
    seen = Continuity(test, hosts[0])
    pauses = []
    for i in range(n):
        here, there = hosts[i % 2], hosts[1 - i % 2]
        there.incoming()
        seen.start(here, dirty_kb=256)
        test.equal(here.migrate(there, return_path=bool(i % 3)), "completed", f"migration {i}")
        seen.runs_on(there, 6)
        seen.stop(there)
        seen.holds(there.tpm)
        pauses.append((there.qmp.wait("RESUME").at - here.qmp.wait("STOP").at) * 1000)
        test.equal(here.quit(), (0, 0), f"exit codes behind migration {i}")
    last = hosts[n % 2]
    test.equal(last.tpm.nv_counter(COUNTER), seen.count, "the counter")
    pauses.sort()
    print(f"         {n} migrations, pause {pauses[0]:.1f} to {pauses[-1]:.1f} ms, "
          f"median {pauses[n // 2]:.1f} ms; {seen.count} ticks, {seen.n_lost} answers lost by QEMU")


def many_migrations_in_a_row_lose_no_tick_over_tis(test):
    """S3.25"""
    test.only_nvkeep("stock swtpm 0.7.1 cannot share its storage")
    in_a_row(test, 100 if test.long else 8, "tpm-tis")


def many_migrations_in_a_row_lose_no_tick_over_crb(test):
    test.only_nvkeep("stock swtpm 0.7.1 cannot share its storage")
    in_a_row(test, 100 if test.long else 4, "tpm-crb")


def the_take_over_happens_while_the_guest_is_stopped(test):
    """S3.15 S3.24 S3.25: released, claimed and committed in this order between the stop there and the
    start here; before that the source has the claim, behind it the destination."""
    test.only_nvkeep("stock swtpm 0.7.1 cannot share its storage")
    source = test.vm(name="source")
    source.power_on(admin=True)
    seen = Continuity(test, source)
    target = test.vm(name="target", store=source.store.view("target"))
    target.incoming(admin=True)
    before = target.admin.command("query-status")
    test.equal((before["phase"], before["on"]), ("away", False), "the destination before")
    test.equal(test.started(source.store.view("third").serve()).wait(), LOCKED, "a third daemon")
    released, committed = source.admin, target.admin  # connected before it happens
    test.equal(source.migrate(target), "completed", "migration")
    seen.holds(target.tpm)
    steps = [("STOP", source.qmp.wait("STOP")), ("RELEASED", released.wait("RELEASED")),
             ("CLAIMED", committed.wait("CLAIMED")), ("COMMITTED", committed.wait("COMMITTED")),
             ("RESUME", target.qmp.wait("RESUME"))]
    print("         " + ", ".join(f"{name} {(step.wall - steps[0][1].wall) * 1000:+.1f} ms"
                                   for name, step in steps))
    walls = [step.wall for _, step in steps]
    test.equal(walls, sorted(walls), "the order of the steps")
    then, now = steps[1][1].data, steps[3][1].data
    test.check(now["epoch"] > then["epoch"], f"no new owner: {then}, {now}")
    test.check(now["generation"] > then["generation"], f"no new generation: {then}, {now}")
    test.equal(source.admin.command("query-status")["phase"], "released", "the source behind it")
    test.equal(test.started(source.store.view("fourth").serve()).wait(), LOCKED, "a fourth daemon")


def the_old_owner_writes_nothing_whatever_it_is_told(test):
    """S3.24: after the hand-over its commands are not executed, a reset of its machine or its end
    changes no byte, and it cannot start again over the new owner's state."""
    test.only_nvkeep("stock swtpm overwrites the new owner's state")
    for last in ("quit", "SIGTERM", "reset", "command", "power off"):
        source, seen, target = two_hosts(test, "-" + last.replace(" ", "-"))
        target.incoming()
        test.equal(source.migrate(target), "completed", "migration")
        # The new owner stands still: whatever changes now was written by the old one.
        seen.start(target)
        seen.stop(target)
        before = target.store.bytes()
        if last == "SIGTERM":
            source.daemon.signal(signal.SIGTERM)
            test.equal(source.daemon.wait(), 0, "exit code of the source's daemon")
        elif last == "command":
            # Split brain by management: the source's guest is let loose. It gets no answer from its TPM
            # that means something, and the new owner goes on.
            source.go_on()
            refused = source.console.tpm(nv_increment_command(COUNTER))
            test.check(int.from_bytes(refused[6:10], "big") != 0, "the old owner's TPM answered")
        elif last == "reset":
            source.qmp.send("cont")
            source.qmp.send("system_reset")
            source.qemu.wait()  # its TPM does not start again
        elif last == "power off":
            source.qmp.command("system_powerdown")
            source.qemu.signal(signal.SIGTERM)
            source.qemu.wait()
        if source.qemu.alive() and source.daemon.alive():
            source.quit()
        source.qemu.end()
        source.daemon.end()
        test.check(target.store.bytes() == before, f"the old owner wrote something at {last}")
        seen.holds(target.tpm)
        target.cut_power()
        target.power_on()
        seen.survives_power_cut(target.tpm, seen.count)
        target.quit()


def a_new_owner_locks_the_old_one_out(test):
    """S3.24 S3.25: the old owner asks for its storage back, and does not get it: first because it is
    locked, then because somebody else was there."""
    test.only_nvkeep("stock swtpm 0.7.1 cannot share its storage")
    source, seen, target = two_hosts(test)
    target.incoming()
    test.equal(source.migrate(target), "completed", "migration")
    again = test.started(source.store.view("third").serve())
    test.equal(again.wait(), LOCKED, "exit code of a third daemon")
    seen.start(target)
    seen.stop(target)
    target.quit()
    # Its claim is free now; its state is not what it was.
    before = target.store.bytes()
    source.go_on()
    refused = source.console.tpm(nv_increment_command(COUNTER))
    test.check(int.from_bytes(refused[6:10], "big") != 0, "the old owner's TPM answered")
    test.check(target.store.bytes() == before, "the old owner wrote something")
    test.contains(source.daemon.log() + source.daemon.err(), "FENCED", "what the old owner says")
    test.check(source.daemon.alive(), f"the old owner ended ({FENCED} was not asked for)")


def refused(answers):
    return bool(answers) and response_code(answers[0][1]) != 0


def a_destination_that_dies_early_leaves_one_state(test):
    """S3.24 S3.25: its host dies about when its guest begins to run. The source may have the state back
    only if nothing was done to it there; otherwise the image is right and the source is locked out."""
    test.only_nvkeep("stock swtpm 0.7.1 cannot share its storage")
    n_back = n_out = 0
    n = 40 if test.long else 5
    for i in range(n):
        source, seen, target = two_hosts(test, f"-{i}")
        target.proxied = True
        target.incoming()
        seen.start(source)

        def die(target=target):
            target.qemu.kill()
            target.daemon.kill()
        # Not in the proxy's own thread: the guest's next commands go through it.
        later = threading.Timer(0.5 if i == n - 1 else i * 0.001, die)
        target.proxy.on("answered", "INIT", None, later.start if i else die)
        source.begin_migration(target, return_path=False)
        test.equal(source.end_of_migration(), "completed", "migration")
        target.qemu.wait()
        target.daemon.wait()
        test.wait_until("the end of the guest's line", lambda: target.console.closed, 5)
        n_there = sum(line.startswith("= ") for _, line in target.console.lines)
        n_here = source.console.n_loop_answers()
        source.go_on()
        test.wait_until("an answer", lambda: source.console.n_loop_answers() > n_here + 1)
        first = source.console.answers_so_far()[n_here + 1:]
        if refused(first):
            n_out += 1
        else:
            n_back += 1
            # One answer may have been on its way in QEMU when the guest was stopped here.
            test.check(n_there <= 1, f"the guest had {n_there} answers there, and its TPM went back")
        source.cut_power()
        target.power_on()
        least = seen.count + (n_here + max(0, n_there - 1)) // len(seen.commands)
        test.check(target.tpm.nv_counter(COUNTER) >= least, "acknowledged increments are gone")
        target.quit()
    print(f"         {n_back} times the source had it back, {n_out} times it was locked out")
    test.check(n_back > 0 and n_out > 0, "the moment was always before or always behind")


def newest_record(test, seen, vm):
    """Where in the image something lies that the last commands wrote."""
    before = vm.store.bytes()
    vm.console.start_loop(seen.commands, 1)
    seen.follow(vm.console.loop_answers())
    after = vm.store.bytes()
    return next(i for i in range(len(after) - 1, 0, -1) if before[i] != after[i])


def a_flipped_bit_on_the_shared_image_keeps_the_guest_where_it_is(test):
    """S3.6 S3.17: the owner has its state in memory and goes on; a destination is refused at start until
    the owner has written its state anew, then the guest moves."""
    test.only_nvkeep("stock swtpm 0.7.1 cannot share its storage")
    source, seen, _ = two_hosts(test)
    at = newest_record(test, seen, source)
    with open(source.store.image, "r+b") as f:
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ 0x10]))
    target = test.vm(name="target", store=source.store.view("t1"))
    daemon = target.start_daemon(wait=False, migration="incoming")
    test.equal(daemon.wait(), STATE_CORRUPT, f"exit code ({daemon.err().strip()})")
    test.check(source.qmp.find("STOP") is None, "the guest was stopped")
    seen.holds(source.tpm)

    n_ticks = 0
    while source.store.tool("verify-key").rc != 0 or source.store.tool("check").rc != 0:
        test.check(n_ticks < 3000, "the damage is never written over")
        source.console.start_loop(seen.commands, 50)
        n_ticks += seen.follow(source.console.loop_answers())
    print(f"         written over after {n_ticks} rounds of the guest")
    target = test.vm(name="target", store=source.store.view("t2"))
    target.incoming()
    test.equal(source.migrate(target), "completed", "migration")
    seen.holds(target.tpm)


if __name__ == "__main__":
    sys.exit(main())
