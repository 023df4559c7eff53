"""Machines whose manager calls swtpm, with ours first in PATH; and between the two."""

import os
import shutil
import sys

from sides import ours
from test_two_daemons import free_port
from harness.case import Skip, main
from harness.store import SwtpmStore

COUNTER = 0x01500002


def ours_first():
    """What managers and the harness call swtpm is ours from here on."""
    here = os.path.join(os.environ["NVKEEP_BUILD"], "compat")
    os.environ["PATH"] = here + os.pathsep + os.environ["PATH"]


def stock_first():
    os.environ["PATH"] = "/usr/bin:/bin:" + os.environ["PATH"]


def machine(test, name, device="tpm-crb", family="2.0"):
    store = SwtpmStore(test.folder, name + "-tpm", family)
    store.create()
    return test.vm(device, family, name, store)


def counts_through_restarts(test, device, family):
    ours_first()
    vm = machine(test, "vm", device, family)
    vm.power_on()
    if family == "2.0":
        vm.tpm.nv_define_counter(COUNTER)
        vm.tpm.nv_increment(COUNTER)
        count = vm.tpm.nv_counter(COUNTER)
    image = os.path.join(vm.store.image, ("tpm2-00" if family == "2.0" else "tpm-00") + ".qcow2")
    test.check(os.path.exists(image), f"{image} is not there: that was not ours")
    test.equal(vm.power_off(), (0, 0), "exit codes of QEMU and daemon")
    vm.power_on()
    if family == "2.0":
        test.equal(vm.tpm.nv_counter(COUNTER), count, "the counter after a restart")
    test.equal(vm.power_off(), (0, 0), "exit codes of QEMU and daemon")


def a_tpm2_counts_through_restarts(test):
    counts_through_restarts(test, "tpm-crb", "2.0")


def a_tpm12_starts_and_starts_again(test):
    counts_through_restarts(test, "tpm-tis", "1.2")


def moves(test, to_ours):
    """A guest goes from one to the other, under a migration key or without."""
    if not shutil.which("swtpm", path="/usr/bin:/bin"):
        raise Skip("swtpm is missing")
    for key in (None, test.migration_key()):
        name = "k" if key else "p"
        (stock_first if to_ours else ours_first)()
        source = machine(test, name + "source")
        source.power_on(migration_key=key)
        source.tpm.nv_define_counter(COUNTER)
        source.tpm.nv_increment(COUNTER)
        count = source.tpm.nv_counter(COUNTER)
        (ours_first if to_ours else stock_first)()
        target = machine(test, name + "target")
        target.incoming(migration_key=key)
        source.migrate(target)
        test.equal(target.tpm.nv_counter(COUNTER), count, "the counter on the target")
        target.tpm.nv_increment(COUNTER)
        test.equal(target.tpm.nv_counter(COUNTER), count + 1, "the counter, incremented there")
        target.power_off()
        source.quit()


def a_guest_moves_from_swtpm_to_ours(test):
    moves(test, True)


def a_guest_moves_from_ours_to_swtpm(test):
    moves(test, False)


def tools_of_others_talk_to_it(test):
    """tpm2-tools over the control and data ports that its TCTI for swtpm uses."""
    if not shutil.which("tpm2_getrandom"):
        raise Skip("tpm2-tools is missing")
    side = ours(test)
    port = free_port()
    daemon = side.start("socket", "--tpm2", "--tpmstate", "dir=" + side.new_state(), "--server",
                        f"type=tcp,port={port}", "--ctrl", f"type=tcp,port={port + 1}",
                        "--flags", "not-need-init,startup-clear", "--pid", "file=pid", ready="pid")
    for argv in (["tpm2_getrandom", "--hex", "16"], ["tpm2_pcrread", "sha256:0"],
                 ["tpm2_createprimary", "-c", side.path("primary.ctx")]):
        done = test.run([*argv, "-T", f"swtpm:host=127.0.0.1,port={port}"])
        test.equal(done.rc, 0, f"{argv[0]}: {done}")
    daemon.end()


if __name__ == "__main__":
    sys.exit(main())
