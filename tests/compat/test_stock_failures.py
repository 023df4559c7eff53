"""Three things that swtpm 0.7.1 does to its users, done to it and to ours with the same command lines;
each test prints both sides."""

import os
import shutil
import sys

from libvirt_host import BANKS, COUNTER, ENCRYPTION, Host, emulator
from libvirt_rows import count, counts
from sides import Side
from harness.case import Skip, main
from harness.process import Timeout, run
from harness.tpm import TpmError
from test_machines import machine, ours_first, stock_first

HANGS_AFTER = 15


def print_both(found):
    for side, what in found.items():
        print(f"         {side:5}  {what}")


def in_turn(case):
    """Each side, with what is called swtpm being that side's: stock first."""
    for name in ("swtpm", "swtpm_setup", "qemu-img"):
        if not shutil.which(name, path="/usr/bin:/bin"):
            raise Skip(f"{name} is missing")
    for whose, choose in (("stock", stock_first), ("ours", ours_first)):
        choose()
        yield whose, Side(case, whose, shutil.which("swtpm"), shutil.which("swtpm_ioctl"))


def setup(side, *argv):
    return run([shutil.which("swtpm_setup"), "--tpm2", *argv], timeout=60, cwd=side.folder,
               env={"XDG_CONFIG_HOME": side.folder})


def a_live_state_on_shared_storage_survives_setup_on_the_destination(test):
    """libvirt runs setup --overwrite on the destination before it knows how the migration ends. Here it
    fails, the machine runs on, and is started anew later."""
    found = {}
    for whose, side in in_turn(test):
        vm = machine(test, whose)
        vm.store.file = side.path("state.qcow2")
        vm.power_on()
        vm.tpm.nv_define_counter(COUNTER)
        vm.tpm.nv_increment(COUNTER)
        done = setup(side, "--tpm-state", f"file://{vm.store.file}", "--overwrite",
                     "--pwdfile", vm.store.key_file, "--cipher", "aes-256-cbc")
        other = test.vm("tpm-crb", "2.0", whose + "-there", vm.store.view(whose + "-there"))
        other.incoming(options=["--migration", "incoming"] if whose == "ours" else [])
        other.cut_power()
        vm.qmp.command("migrate", uri=other.uri)
        test.equal(vm.end_of_migration(), "failed", f"{whose}: the migration")
        vm.tpm.nv_increment(COUNTER)
        wanted = vm.tpm.nv_counter(COUNTER)
        vm.power_off()
        kept = counter_of_a_new_start(vm) == wanted
        found[whose] = f"setup on the destination: exit code {done.rc}; after the next start the TPM " \
                       f"is {'what it was' if kept else 'blank'}"
        test.equal(kept, whose == "ours", f"{whose}: the state after the next start")
    print_both(found)


def counter_of_a_new_start(vm):
    vm.power_on()
    try:
        return vm.tpm.nv_counter(COUNTER)
    except TpmError:
        return None
    finally:
        vm.power_off()


def a_qcow2_image_is_never_overwritten_by_setup(test):
    """Somebody else's image, and one of ours with another key."""
    found = {}
    for whose, side in in_turn(test):
        image = side.path("X.qcow2")
        run(["qemu-img", "create", "-q", "-f", "qcow2", image, "1M"])
        with open(image, "rb") as f:
            before = f.read()
        done = setup(side, "--tpm-state", f"file://{image}", "--not-overwrite")
        with open(image, "rb") as f:
            after = f.read()
        found[whose] = f"exit code {done.rc}; the file is " + (
            "what it was" if after == before else f"overwritten, and begins with {after[:8]!r}")
        test.equal(after == before, whose == "ours", f"{whose}: the image is what it was")
        test.equal(done.rc == 0, whose == "stock", f"{whose}: exit code of setup ({done.err})")
    print_both(found)


def a_wrong_passphrase_with_pcr_banks_ends_the_start(test):
    """virsh start, and all that asks that libvirtd about the machine, hangs with swtpm: shown in the long
    form, and by the report."""
    found = {}
    for whose in ("stock", "ours") if test.long else ("ours",):
        host = Host(test, whose)
        host.give_secret()
        host.define(emulator(ENCRYPTION + BANKS))
        host.start()
        n = counts(host)
        host.do("destroy", "vm")
        host.give_secret(b"another secret")
        try:
            done = host.virsh("start", "vm", timeout=HANGS_AFTER if whose == "stock" else 120)
            found[whose] = f"refused after {done.seconds:.1f} s: {done.err.strip()}"
            test.check(done.rc != 0, f"{whose}: it started with a wrong secret")
        except Timeout:
            found[whose] = f"hangs (after {HANGS_AFTER} s)"
            for pid in host.processes("swtpm_setup"):
                os.kill(pid, 9)
        test.equal("hangs" in found[whose], whose == "stock", f"{whose}: {found[whose]}")
        if whose == "ours":
            host.give_secret()
            host.start()
            test.equal(count(host), n + 1, "the counter, with the right secret")
    print_both(found)


if __name__ == "__main__":
    sys.exit(main())
