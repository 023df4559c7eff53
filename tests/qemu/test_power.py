"""The host loses power: whatever the guest was told is done is still done."""

import random
import signal
import sys
import time

from harness.case import main
from harness.process import wait_until
from harness.tpm import PCR_DEBUG, TpmError, extended, nv_increment_command, nv_read_command
from harness.tpm import nv_write_command, pcr_extend_command, response_code

INDEX, COUNTER = 0x01500001, 0x01500002
PERSISTENT = 0x81000010


def nv_is_there_after_a_power_cut(test, device):
    vm = test.vm(device)
    vm.power_on()
    tpm = vm.tpm
    tpm.nv_define(INDEX, 24)
    tpm.nv_write(INDEX, b"written before the cut..")
    tpm.nv_define_counter(COUNTER)
    for _ in range(5):
        tpm.nv_increment(COUNTER)
    count = tpm.nv_counter(COUNTER)
    key = tpm.create_primary()
    name = tpm.name(key)
    tpm.evict(key, PERSISTENT)
    tpm.pcr_extend(PCR_DEBUG, b"\1" * 32)
    test.equal(tpm.pcr_read(PCR_DEBUG), extended(bytes(32), b"\1" * 32), "PCR")
    resets = tpm.reset_count()

    vm.cut_power()
    vm.power_on()
    tpm = vm.tpm
    test.equal(tpm.nv_read(INDEX, 24), b"written before the cut..", "NV after the cut")
    test.equal(tpm.nv_counter(COUNTER), count, "the counter after the cut")
    test.equal(tpm.name(PERSISTENT), name, "the persistent key's name after the cut")
    test.equal(tpm.pcr_read(PCR_DEBUG), bytes(32), "PCR after the cut")
    test.equal(tpm.reset_count(), resets + 1, "the TPM's count of resets")
    tpm.nv_increment(COUNTER)
    test.equal(tpm.nv_counter(COUNTER), count + 1, "the counter goes on")


def nv_is_there_after_a_power_cut_with_tis(test):
    nv_is_there_after_a_power_cut(test, "tpm-tis")


def nv_is_there_after_a_power_cut_with_crb(test):
    nv_is_there_after_a_power_cut(test, "tpm-crb")


def ten_power_cycles_lose_nothing(test):
    vm = test.vm("tpm-crb")
    vm.power_on()
    vm.tpm.nv_define(INDEX, 64)
    vm.tpm.nv_define_counter(COUNTER)
    vm.tpm.nv_increment(COUNTER)
    count = vm.tpm.nv_counter(COUNTER)
    for i in range(10):
        text = f"cycle {i}".encode().ljust(64, b".")
        vm.tpm.nv_write(INDEX, text)
        vm.tpm.nv_increment(COUNTER)
        if i % 3 == 2:  # now and then in order
            test.equal(vm.power_off(), (0, 0), "exit codes of QEMU and daemon")
        else:
            vm.cut_power(daemon_first=bool(i % 2))
        vm.power_on()
        test.equal(vm.tpm.nv_read(INDEX, 64), text, f"NV after cycle {i}")
        test.equal(vm.tpm.nv_counter(COUNTER), count + i + 1, f"the counter after cycle {i}")
        test.equal(vm.tpm.pcr_read(PCR_DEBUG), bytes(32), f"PCR after cycle {i}")


def load_is_cut(test, kill):
    """The guest increments and writes without a pause; at some moment the power goes. Every
    increment it was told of is there, and at most one that it was not told of."""
    vm = test.vm("tpm-crb")
    vm.power_on()
    vm.tpm.nv_define(INDEX, 256)
    vm.tpm.nv_define_counter(COUNTER)
    vm.tpm.nv_increment(COUNTER)
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    n_told = 0
    for i in range(8 if test.long else 4):
        before = vm.tpm.nv_counter(COUNTER)
        vm.console.start_loop([nv_increment_command(COUNTER),
                               nv_write_command(INDEX, bytes([i + 1]) * 256)])
        wait_until("load in the guest", lambda: vm.console.n_loop_answers() >= 20)
        time.sleep(chance.uniform(0, 0.2))
        kill(vm)
        wait_until("end of what the guest said", lambda: vm.console.closed)
        answers = [response_code(a) for _, a in vm.console.answers_so_far()]
        test.check(all(rc == 0 for rc in answers[:20]), f"a command failed: {answers[:20]}")
        told = sum(1 for rc in answers[::2] if rc == 0)
        n_told += told
        vm.power_on()
        after = vm.tpm.nv_counter(COUNTER)
        test.check(before + told <= after <= before + told + 1,
                   f"seed {seed}: told of {told} increments from {before}, found {after}")
        test.equal(vm.tpm.nv_read(INDEX, 256), bytes([i + 1]) * 256, f"seed {seed}: NV")
    print(f"         {n_told} increments told, none lost")


def an_acknowledged_increment_survives_a_cut_under_load(test):
    load_is_cut(test, lambda vm: vm.cut_power())


def an_acknowledged_increment_survives_the_death_of_the_daemon_under_load(test):
    """The daemon alone is killed: the guest is told of an error, never of a success that is lost."""
    def kill(vm):
        vm.daemon.kill()
        vm.daemon.wait()
        time.sleep(0.05)
        vm.qemu.kill()
        vm.qemu.wait()
    load_is_cut(test, kill)


def the_guest_runs_on_when_the_daemon_dies(test):
    vm = test.vm("tpm-tis")
    vm.power_on()
    vm.daemon.kill()
    vm.daemon.wait()
    test.equal(test.raises(TpmError, "GetRandom without a daemon", vm.tpm.get_random, 8).rc, 9,
               "what QEMU answers in its place")
    test.equal(vm.status(), "running", "the machine")


def nothing_is_written_while_the_guest_only_reads_and_extends(test):
    test.only_nvkeep("swtpm writes at other moments")
    vm = test.vm("tpm-crb")
    vm.power_on()
    vm.tpm.nv_define(INDEX, 8)
    vm.tpm.nv_write(INDEX, b"12345678")
    before = vm.store.bytes()
    for i in range(50):
        vm.tpm.pcr_extend(PCR_DEBUG, bytes([i]) * 32)
        vm.tpm.get_random(32)
        vm.tpm.nv_read(INDEX, 8)
        vm.tpm.nv_write(INDEX, b"12345678")  # what is there already
    test.check(vm.store.bytes() == before, "the image changed although no state did")
    vm.tpm.nv_write(INDEX, b"87654321")
    test.check(vm.store.bytes() != before, "a write left no trace in the image")


def an_ordinary_end_leaves_no_daemon_and_no_socket(test):
    vm = test.vm("tpm-tis")
    vm.power_on()
    ctrl = vm.daemon.ctrl
    test.equal(vm.quit(), (0, 0), "exit codes of QEMU and daemon after quit")
    wait_until("removal of the socket", lambda: not vm.daemon.bound(), 5)
    # And at SIGTERM, with QEMU still there.
    vm.power_on()
    test.check(vm.daemon.ctrl != ctrl, "the harness reuses sockets")
    vm.daemon.signal(signal.SIGTERM)
    test.equal(vm.daemon.wait(), 0, "exit code at SIGTERM")
    wait_until("removal of the socket", lambda: not vm.daemon.bound(), 5)


def a_loop_mixes_reading_and_writing_without_a_gap(test):
    vm = test.vm("tpm-tis")
    vm.power_on()
    vm.tpm.nv_define_counter(COUNTER)
    vm.tpm.nv_increment(COUNTER)
    first = vm.tpm.nv_counter(COUNTER)
    vm.console.start_loop([nv_increment_command(COUNTER), nv_read_command(COUNTER, 8),
                           pcr_extend_command(PCR_DEBUG, b"\7" * 32)], 40)
    answers = [a for _, a in vm.console.loop_answers()]
    test.equal(len(answers), 120, "answers")
    test.check(all(response_code(a) == 0 for a in answers), "a command failed")
    counts = [int.from_bytes(a[16:24], "big") for a in answers[1::3]]
    test.equal(counts, list(range(first + 1, first + 41)), "the counter, each time")
    value = bytes(32)
    for _ in range(40):
        value = extended(value, b"\7" * 32)
    test.equal(vm.tpm.pcr_read(PCR_DEBUG), value, "PCR")


if __name__ == "__main__":
    sys.exit(main())
