"""A machine that is saved and restored: the same state, an older one, and what nobody may read in it."""

import os
import sys

from harness.case import main
from harness.continuity import COUNTER, INDEX, Continuity
from harness.process import run
from harness.proxy import StreamRelay
from harness.store import STATE_ROLLED_BACK

MARKER_INDEX = 0x01500010


def save(test, vm, name):
    """The machine goes to a file and stands still."""
    path = test.path(name)
    vm.enable("events")
    vm.qmp.command("migrate", uri=f"exec:cat >{path}")
    test.equal(vm.end_of_migration(), "completed", "saving")
    return path


def restore(test, vm, path, **how):
    """What becomes of it: "running", or QEMU's exit code."""
    vm.start_daemon(**how)
    vm.start_qemu(["-incoming", "defer"])
    vm.enable("events")
    vm.qmp.command("migrate-incoming", uri=f"exec:cat {path}")

    def ended():
        return "running" if vm.qmp.find("RESUME") else vm.qemu.alive() or str(vm.qemu.wait())
    while (end := ended()) is True:
        test.wait_until("an end of the restoring",
                        lambda: vm.qmp.find("RESUME") or not vm.qemu.alive())
    return end


def saved_later_and_earlier(test, device):
    """(vm off, what it saw at the first file, first file, second file)"""
    vm = test.vm(device)
    vm.power_on()
    seen = Continuity(test, vm)
    first = save(test, vm, "first.state")
    line = vm.console
    vm.go_on()
    seen.holds(vm.tpm)
    for _ in range(3):
        vm.tpm.nv_increment(COUNTER)
    vm.tpm.nv_write(INDEX, b"sixteen others..")
    second = save(test, vm, "second.state")
    vm.quit()
    vm.left = line
    return vm, seen, first, second


def restoring(test, device):
    vm, seen, first, second = saved_later_and_earlier(test, device)
    incoming = {"migration": "incoming"}

    # S3.8: an older state is refused before the guest runs, and nothing is written.
    before = vm.store.bytes()
    end = restore(test, vm, first, **incoming)
    test.equal(end, "1", "restoring an older state unasked")
    vm.daemon.wait()
    test.check(vm.store.bytes() == before, "the refusal changed the image")
    test.contains(vm.daemon.log() + vm.daemon.err(), "STATE_ROLLED_BACK", "what the daemon says")

    # The newest one is what it was.
    test.equal(restore(test, vm, second, **incoming), "running", "restoring the newest state")
    vm.console.adopt(vm.left)
    test.equal(vm.tpm.nv_counter(COUNTER), seen.count + 3, "the counter")
    vm.tpm.nv_increment(COUNTER)
    generation = vm.store.info()["inside"]["generation"]
    vm.quit()

    # And now it is older itself: once more, and it is a state of its own.
    end = restore(test, vm, second, **incoming)
    test.equal(end, "1", f"restoring the same file twice (class {STATE_ROLLED_BACK})")
    vm.daemon.wait()

    # Asked for, it is a new generation: neither refused nor taken for a stale copy.
    test.equal(restore(test, vm, first, migration="incoming,rewind"), "running", "with rewind")
    vm.console.adopt(vm.left)
    vm.console.skip()
    seen.holds(vm.tpm)
    test.check(vm.store.info()["inside"]["generation"] > generation, "the generation went back")
    vm.console.start_loop(seen.commands, 3)
    seen.follow(vm.console.loop_answers())
    seen.holds(vm.tpm)
    vm.cut_power()
    vm.power_on()
    seen.survives_power_cut(vm.tpm, seen.count)


def an_older_state_is_restored_when_asked_for_and_refused_otherwise_over_tis(test):
    """S3.8"""
    test.only_nvkeep("stock swtpm takes any state")
    restoring(test, "tpm-tis")


def an_older_state_is_restored_when_asked_for_and_refused_otherwise_over_crb(test):
    test.only_nvkeep("stock swtpm takes any state")
    restoring(test, "tpm-crb")


def a_saved_machine_goes_on_by_cont(test):
    """S3.23: saving is a hand-over to a file; nobody took it, so it is taken back."""
    vm = test.vm("tpm-tis")
    vm.power_on()
    seen = Continuity(test, vm)
    for i in range(3):
        save(test, vm, f"{i}.state")
        vm.go_on()
        vm.console.start_loop(seen.commands, 2)
        seen.follow(vm.console.loop_answers())
        seen.holds(vm.tpm)


def occurrences(path, marker):
    with open(path, "rb") as f:
        return f.read().count(marker)


def a_secret_of_the_tpm_is_in_no_saved_machine(test):
    """S3.26: sealed by default; and found at once where sealing is off, so the search can find."""
    test.only_nvkeep("stock swtpm seals only under its migration key")
    marker = os.urandom(16)
    for seal, wanted in (("auto", False), ("required", False), ("off", True)):
        vm = test.vm("tpm-tis", name=seal)
        vm.power_on(seal=seal)
        vm.tpm.nv_define(MARKER_INDEX, len(marker))
        # What the guest sent is in its own memory: overwritten by longer commands, as a guest would.
        vm.tpm.nv_write(MARKER_INDEX, marker)
        vm.reset()
        path = save(test, vm, f"{seal}.state")
        n_in_memory = in_guest_memory(test, vm, marker)
        test.equal(occurrences(path, marker) > n_in_memory, wanted,
                   f"the marker is in the file with sealing {seal}")
        test.check(n_in_memory == 0, "the marker is in the guest's own memory: nothing was shown")
        vm.quit()


def in_guest_memory(test, vm, marker):
    path = test.path("memory")
    vm.qmp.command("pmemsave", val=0, size=16 << 20, filename=path)
    n = occurrences(path, marker)
    os.unlink(path)
    return n


def a_secret_of_the_tpm_is_in_no_migration_stream(test):
    test.only_nvkeep("stock swtpm seals only under its migration key")
    marker = os.urandom(16)
    key = test.migration_key()
    for how, wanted in (({}, False), ({"migration_key": key}, False),
                        ({"migration_key": key, "seal": "off"}, False), ({"seal": "off"}, True)):
        name = "-".join(how) or "auto"
        source = test.vm("tpm-crb", name=name)
        source.power_on(**how)
        source.tpm.nv_define(MARKER_INDEX, len(marker))
        source.tpm.nv_write(MARKER_INDEX, marker)
        source.reset()
        target = test.vm("tpm-crb", name=name + "-target", store=source.store.view(name + "-there"))
        target.incoming(**how)
        relay = StreamRelay(test.path(name + ".relay"), target.uri)
        test.equal(source.migrate(target, uri=relay.uri), "completed", f"migration with {name}")
        test.check(len(relay.kept) > 10000, "the relay saw nothing")
        test.equal(marker in relay.kept, wanted, f"the marker is in the stream with {name}")
        test.equal(target.tpm.nv_read(MARKER_INDEX, len(marker)), marker, "the marker in the TPM")
        source.quit()
        target.quit()


def the_image_gives_the_marker_away_to_nobody(test):
    """The state in the image is the other place where it lies."""
    test.only_nvkeep("it is about our images")
    marker = os.urandom(16)
    vm = test.vm()
    vm.power_on()
    vm.tpm.nv_define(MARKER_INDEX, len(marker))
    vm.tpm.nv_write(MARKER_INDEX, marker)
    vm.quit()
    test.equal(occurrences(vm.store.image, marker), 0, "the marker in the image")
    decrypted = test.path("decrypted")
    done = run(["qemu-img", "convert", "--object", f"secret,id=k,file={vm.store.key_file}",
                "--image-opts", f"driver=qcow2,file.filename={vm.store.image},"
                "encrypt.key-secret=k", "-O", "raw", decrypted])
    test.equal(done.rc, 0, f"qemu-img convert: {done}")
    test.check(occurrences(decrypted, marker) > 0, "nor is it inside: the search cannot find it")


if __name__ == "__main__":
    sys.exit(main())
