"""A machine starts, and its guest uses the TPM: over TIS and CRB, TPM 2.0 and TPM 1.2."""

import hashlib
import sys

from harness.case import main
from harness.console import GuestRefused
from harness.tpm import PCR_DEBUG, RC_INITIALIZE, Tpm2, TpmError, create_primary_command, extended
from harness.tpm import get_random_command, response_code

INDEX, COUNTER = 0x01500001, 0x01500002
PERSISTENT = 0x81000010


def uses_tpm2(test, device):
    vm = test.vm(device)
    test.equal(vm.power_on()[:2], [device[4:], "2.0"], "what the guest found")
    tpm = vm.tpm
    # The firmware came first: the TPM is started, and it has measured something.
    test.equal(test.raises(TpmError, "a second Startup", tpm.startup).rc, RC_INITIALIZE, "Startup")
    test.check(any(tpm.pcr_read(0)), "PCR 0 is zero: the firmware did not measure")
    test.check(tpm.get_random(16) != tpm.get_random(16), "the same random bytes twice")

    tpm.nv_define(INDEX, 32)
    tpm.nv_write(INDEX, bytes(range(32)))
    test.equal(tpm.nv_read(INDEX, 32), bytes(range(32)), "NV")
    tpm.nv_define_counter(COUNTER)
    tpm.nv_increment(COUNTER)
    count = tpm.nv_counter(COUNTER)
    tpm.nv_increment(COUNTER)
    test.equal(tpm.nv_counter(COUNTER), count + 1, "the counter")

    digest = hashlib.sha256(b"measured").digest()
    tpm.pcr_extend(PCR_DEBUG, digest)
    test.equal(tpm.pcr_read(PCR_DEBUG), extended(bytes(32), digest), "PCR")

    key = tpm.create_primary()
    name = tpm.name(key)
    tpm.evict(key, PERSISTENT)
    context = tpm.context_save(key)
    tpm.flush(key)
    key = tpm.context_load(context)
    test.equal(tpm.name(key), name, "the name of a key saved and loaded")
    test.equal(tpm.name(PERSISTENT), name, "the name of the persistent key")
    session = tpm.start_session()
    tpm.policy_pcr(session, PCR_DEBUG)
    test.check(any(tpm.policy_digest(session)), "the policy digest is empty")
    test.equal(vm.power_off(), (0, 0), "exit codes of QEMU and daemon after the guest's power-off")


def tpm2_over_tis(test):
    uses_tpm2(test, "tpm-tis")


def tpm2_over_crb(test):
    uses_tpm2(test, "tpm-crb")


def tpm12_over_tis(test):
    vm = test.vm("tpm-tis", "1.2")
    test.equal(vm.power_on()[:2], ["tis", "1.2"], "what the guest found")
    tpm = vm.tpm
    test.check(tpm.get_random(16) != tpm.get_random(16), "the same random bytes twice")
    before = tpm.pcr_read(PCR_DEBUG)
    digest = hashlib.sha1(b"measured").digest()
    test.equal(tpm.pcr_extend(PCR_DEBUG, digest), hashlib.sha1(before + digest).digest(), "Extend")
    tpm.nv_define(0x00011101, 16)
    tpm.nv_write(0x00011101, b"sixteen bytes...")
    test.equal(tpm.nv_read(0x00011101, 16), b"sixteen bytes...", "NV")

    vm.cut_power()
    vm.power_on()
    test.equal(vm.tpm.nv_read(0x00011101, 16), b"sixteen bytes...", "NV after a power cut")
    test.equal(vm.tpm.pcr_read(PCR_DEBUG), before, "PCR after a power cut")
    test.equal(vm.reset()[:2], ["tis", "1.2"], "what the guest found after a reset")
    test.equal(vm.tpm.nv_read(0x00011101, 16), b"sixteen bytes...", "NV after a reset")
    test.equal(vm.power_off(), (0, 0), "exit codes of QEMU and daemon")


def the_other_machine_type_works_too(test):
    vm = test.vm("tpm-crb", machine="pc")
    vm.power_on()
    test.equal(len(vm.tpm.get_random(20)), 20, "random bytes")
    test.equal(vm.power_off(), (0, 0), "exit codes of QEMU and daemon")


def locality_reaches_the_tpm(test):
    """PCR 20 can be reset by locality 2 and 4, not by locality 0 [PC Client 4.6]."""
    vm = test.vm("tpm-tis")
    vm.power_on()
    console = vm.console
    reset_pcr_20 = bytes.fromhex("80020000001b0000013d00000014" "00000009" "40000009" "0000000000")
    test.equal(response_code(console.tpm(reset_pcr_20)), 0x907, "PCR_Reset in locality 0")
    console.locality(2)
    test.equal(response_code(console.tpm(reset_pcr_20)), 0, "PCR_Reset in locality 2")
    console.locality(3)
    test.equal(response_code(console.tpm(reset_pcr_20)), 0x907, "PCR_Reset in locality 3")
    console.locality(0)
    test.equal(response_code(console.tpm(reset_pcr_20)), 0x907, "PCR_Reset back in locality 0")
    test.equal(len(vm.tpm.get_random(8)), 8, "random bytes")


def a_command_can_be_aborted_and_the_next_one_works(test):
    vm = test.vm("tpm-tis")
    vm.power_on()
    n_aborted = 0
    for i in range(4):
        try:
            vm.console.tpm(create_primary_command(3072, bytes([i])), abort_ms=2)
            vm.tpm.flush(0x80000000)
        except GuestRefused as e:
            test.equal(str(e), "aborted", "what the guest says")
            n_aborted += 1
        test.equal(response_code(vm.console.tpm(get_random_command(8))), 0, "the next command")
    test.check(n_aborted > 0, "every key was faster than the abort: nothing was tested")


def a_guest_reset_keeps_nv_and_clears_pcrs(test):
    vm = test.vm("tpm-crb")
    vm.power_on()
    tpm = vm.tpm
    tpm.nv_define(INDEX, 8)
    tpm.nv_write(INDEX, b"kept8888")
    tpm.pcr_extend(PCR_DEBUG, bytes(32))
    resets = tpm.reset_count()
    for by_guest in (False, True):
        vm.reset(by_guest)
        test.equal(vm.tpm.nv_read(INDEX, 8), b"kept8888", "NV after a reset")
        test.equal(vm.tpm.pcr_read(PCR_DEBUG), bytes(32), "PCR after a reset")
    test.equal(vm.tpm.reset_count(), resets + 2, "the TPM's count of resets")
    test.check(vm.daemon.alive(), "the daemon ended at a guest reset")


def two_machines_run_side_by_side(test):
    vms = [test.vm(device, name=device) for device in ("tpm-tis", "tpm-crb")]
    for vm in vms:
        vm.start_daemon()
    for vm in vms:
        vm.start_qemu()
    for i, vm in enumerate(vms):
        vm.wait_ready()
        vm.tpm.nv_define(INDEX, 4)
        vm.tpm.nv_write(INDEX, bytes([i] * 4))
    for i, vm in enumerate(vms):
        test.equal(vm.tpm.nv_read(INDEX, 4), bytes([i] * 4), "what a machine has in its own NV")


def sixty_commands_of_every_size_pass(test):
    """Responses up to the buffer's size, commands up to it: not one byte of any is lost."""
    vm = test.vm("tpm-tis")
    vm.power_on()
    tpm = Tpm2(vm.console.tpm)
    tpm.nv_define(INDEX, 2048)
    pattern = bytes(i * 7 & 0xFF for i in range(2048))
    for i in range(20):
        n = 1 + i * 53
        tpm.nv_write(INDEX, pattern[:n], i)
        test.equal(tpm.nv_read(INDEX, n, i), pattern[:n], f"{n} bytes of NV")
        test.equal(len(tpm.get_random(i + 1)), i + 1, "random bytes")


if __name__ == "__main__":
    sys.exit(main())
