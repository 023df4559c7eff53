"""Linux with tpm2-tools as the guest: what it keeps in its TPM is there after a power cut."""

import os
import sys
import time

import linux_guest
from harness.case import Skip, main
from harness.process import Failure
from harness.tpm import extended
from harness.vm import Qemu

BOOT_S = 120


def boot(test, vm, kernel, initramfs, phase):
    """What the guest says, by its label."""
    vm.start_daemon()
    vm.n_starts += 1
    vm.qemu = test.started(Qemu(
        f"qemu-linux-{vm.n_starts}", test.folder, vm.daemon.ctrl, vm.device, kernel=kernel,
        memory_kb=256 * 1024, options=["-initrd", initramfs, "-append",
                                f"console=ttyS0 quiet panic=-1 nvkeep={phase}", "-no-reboot"]))
    said = {}
    end = time.monotonic() + BOOT_S
    while True:
        line = vm.console.next_line(end - time.monotonic(), "report of the Linux guest").strip()
        words = line.split(None, 2) if line.startswith("guest: ") else None
        if words is None:
            continue
        if words[1] == "FAILED":
            raise Failure(line)
        if words[1] == "done":
            return said
        said[words[1]] = words[2] if len(words) > 2 else ""


def linux_finds_its_nv_and_its_key_after_a_power_cut(test):
    folder = os.path.join(os.environ["NVKEEP_BUILD"], "linux-guest")
    try:
        kernel, initramfs = linux_guest.make(folder)
    except linux_guest.Missing as e:
        raise Skip(f"{linux_guest.PACKAGE} and its guest could not be had: {e}") from None
    vm = test.vm("tpm-tis")
    first = boot(test, vm, kernel, initramfs, "first")
    test.equal(first["kernel"].split()[-1], "2", "the TPM's version")
    zero, once = "0x" + "00" * 32, "0x" + extended(bytes(32), b"\1" * 32).hex().upper()
    test.contains(first["pcr-before"], zero, "PCR 16 at the first start")
    test.contains(first["pcr-after"], once, "PCR 16 after the extension")
    test.equal(first["nv"], "sixteen bytes...", "NV as written")

    vm.cut_power()
    vm.device = "tpm-crb"  # the same TPM behind another interface
    second = boot(test, vm, kernel, initramfs, "second")
    test.equal(second["nv"], first["nv"], "NV after the cut")
    test.equal(second["name"], first["name"], "the name of the persistent key after the cut")
    test.contains(second["pcr-before"], zero, "PCR 16 after the cut")
    test.check(second["random"] != first["random"], "the same random bytes twice")
    vm.console.send("")
    test.equal(vm.wait_ended(60), (0, 0), "exit codes of QEMU and daemon after power-off")


if __name__ == "__main__":
    sys.exit(main())
