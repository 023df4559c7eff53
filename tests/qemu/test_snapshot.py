"""savevm and loadvm: the TPM goes back with the machine, because the user asked for it."""

import sys

from harness.case import main
from harness.tpm import PCR_DEBUG, extended

INDEX, COUNTER = 0x01500001, 0x01500002


def goes_back(test, device, family="2.0"):
    vm = test.vm(device, family, disk=True)
    vm.power_on()
    tpm = vm.tpm
    tpm.nv_define(INDEX, 8)
    tpm.nv_write(INDEX, b"earlier.")
    tpm.nv_define_counter(COUNTER)
    tpm.nv_increment(COUNTER)
    count = tpm.nv_counter(COUNTER)
    tpm.pcr_extend(PCR_DEBUG, b"\1" * 32)
    key = tpm.create_primary()
    name = tpm.name(key)
    session = tpm.start_session()
    tpm.policy_pcr(session, PCR_DEBUG)
    digest = tpm.policy_digest(session)
    vm.save("here")

    tpm.nv_write(INDEX, b"later...")
    tpm.nv_increment(COUNTER)
    tpm.pcr_extend(PCR_DEBUG, b"\2" * 32)
    tpm.flush(key)
    vm.load("here")
    test.equal(tpm.nv_read(INDEX, 8), b"earlier.", "NV after loadvm")
    test.equal(tpm.nv_counter(COUNTER), count, "the counter after loadvm")
    test.equal(tpm.pcr_read(PCR_DEBUG), extended(bytes(32), b"\1" * 32), "PCR after loadvm")
    test.equal(tpm.name(key), name, "the loaded key after loadvm")
    test.equal(tpm.policy_digest(session), digest, "the session after loadvm")
    tpm.nv_increment(COUNTER)
    test.equal(tpm.nv_counter(COUNTER), count + 1, "the counter goes on")

    # What was loaded is the state now, also for a machine that loses its power.
    vm.cut_power()
    vm.power_on()
    test.equal(vm.tpm.nv_read(INDEX, 8), b"earlier.", "NV after the cut")
    test.equal(vm.tpm.nv_counter(COUNTER), count + 1, "the counter after the cut")


def the_tpm_goes_back_with_the_machine_over_tis(test):
    goes_back(test, "tpm-tis")


def the_tpm_goes_back_with_the_machine_over_crb(test):
    goes_back(test, "tpm-crb")


def a_tpm12_goes_back_with_the_machine(test):
    vm = test.vm("tpm-tis", "1.2", disk=True)
    vm.power_on()
    tpm = vm.tpm
    tpm.nv_define(0x00011101, 8)
    tpm.nv_write(0x00011101, b"earlier.")
    value = tpm.pcr_extend(PCR_DEBUG, b"\1" * 20)
    vm.save("here")
    tpm.nv_write(0x00011101, b"later...")
    tpm.pcr_extend(PCR_DEBUG, b"\2" * 20)
    vm.load("here")
    test.equal(tpm.nv_read(0x00011101, 8), b"earlier.", "NV after loadvm")
    test.equal(tpm.pcr_read(PCR_DEBUG), value, "PCR after loadvm")


def saving_takes_nothing_from_the_running_machine(test):
    vm = test.vm("tpm-crb", disk=True)
    vm.power_on()
    vm.tpm.nv_define_counter(COUNTER)
    vm.tpm.nv_increment(COUNTER)
    count = vm.tpm.nv_counter(COUNTER)
    for i in range(5):
        vm.save(f"s{i}")
        vm.tpm.nv_increment(COUNTER)
    test.equal(vm.tpm.nv_counter(COUNTER), count + 5, "the counter after five savevm")
    for i in (4, 0, 2):
        vm.load(f"s{i}")
        test.equal(vm.tpm.nv_counter(COUNTER), count + i, f"the counter of snapshot {i}")


def stop_and_cont_need_nothing(test):
    """S1.11"""
    vm = test.vm("tpm-tis")
    vm.power_on()
    vm.tpm.nv_define_counter(COUNTER)
    vm.tpm.nv_increment(COUNTER)
    count = vm.tpm.nv_counter(COUNTER)
    for i in range(5):
        vm.qmp.command("stop")
        test.equal(vm.status(), "paused", "the machine")
        vm.qmp.command("cont")
        vm.tpm.nv_increment(COUNTER)
        test.equal(vm.tpm.nv_counter(COUNTER), count + i + 1, "the counter")


if __name__ == "__main__":
    sys.exit(main())
