"""Live migration between two images of their own: the guest goes on, and so does its TPM."""

import sys

from harness.case import main
from harness.process import wait_until
from harness.tpm import PCR_DEBUG, Reader, extended, nv_increment_command, nv_read_command
from harness.tpm import pcr_extend_command, pcr_read_command, read_public_command, response_code

INDEX, COUNTER = 0x01500001, 0x01500002


class Continuity:
    """What a guest in a loop sees of its TPM: a counter that never jumps, a PCR that is always what
    it was extended with, a key that stays loaded."""

    def __init__(self, test, vm):
        self.test = test
        self.crb = vm.device == "tpm-crb"
        self.n_lost = 0
        vm.tpm.nv_define_counter(COUNTER)
        vm.tpm.nv_increment(COUNTER)
        vm.tpm.pcr_extend(PCR_DEBUG, b"\1" * 32)
        self.key = vm.tpm.create_primary()
        self.name = vm.tpm.name(self.key)
        self.session = vm.tpm.start_session()
        vm.tpm.policy_pcr(self.session, PCR_DEBUG)
        self.digest = vm.tpm.policy_digest(self.session)
        self.count = vm.tpm.nv_counter(COUNTER)
        self.pcr = extended(bytes(32), b"\1" * 32)
        self.commands = [nv_increment_command(COUNTER), nv_read_command(COUNTER, 8),
                         pcr_extend_command(PCR_DEBUG, b"\2" * 32), pcr_read_command(PCR_DEBUG),
                         read_public_command(self.key)]

    def follow(self, answers):
        """Of a loop over self.commands, from its start; the number of rounds.

        With tpm-crb QEMU 7.2 loses the response to a command that runs when the guest is stopped: it
        is written to the buffer after that memory has been sent, and the guest finds its own command
        there. The command was executed: what follows must say so."""
        n = len(self.commands)
        for i, (_, answer) in enumerate(answers):
            what = f"answer {i}"
            lost = self.crb and answer == self.commands[i % n]
            self.test.check(lost or response_code(answer) == 0, f"{what}: {answer.hex()}")
            self.n_lost += lost
            if i % n == 0:
                self.count += 1
            if i % n == 1 and not lost:
                self.test.equal(int.from_bytes(answer[16:24], "big"), self.count, what)
            if i % n == 2:
                self.pcr = extended(self.pcr, b"\2" * 32)
            if i % n == 3 and not lost:
                self.test.equal(answer[-32:], self.pcr, what)
            if i % n == 4 and not lost:
                r = Reader(answer[10:])
                r.sized()
                self.test.equal(r.sized(), self.name, what)
        return len(answers) // n

    def holds(self, tpm):
        self.test.equal(tpm.nv_counter(COUNTER), self.count, "the counter")
        self.test.equal(tpm.pcr_read(PCR_DEBUG), self.pcr, "PCR")
        self.test.equal(tpm.name(self.key), self.name, "the loaded key")
        self.test.equal(tpm.policy_digest(self.session), self.digest, "the session")


def migrates(test, device, return_path):
    source = test.vm(device, name="source")
    target = test.vm(device, name="target")
    source.power_on()
    seen = Continuity(test, source)
    target.incoming()
    source.console.verb("dirty 2048")
    source.console.start_loop(seen.commands)
    wait_until("load in the guest", lambda: source.console.n_loop_answers() > 20)
    test.equal(source.migrate(target, return_path=return_path), "completed", "migration")
    n = target.console.n_loop_answers()
    wait_until("load in the guest", lambda: target.console.n_loop_answers() > n + 20)
    rounds = seen.follow(target.console.stop_loop())
    test.check(rounds > 4, "the loop did not run on")
    seen.holds(target.tpm)
    test.equal(source.quit(), (0, 0), "exit codes of the source")
    seen.holds(target.tpm)

    target.cut_power()
    target.power_on()
    test.equal(target.tpm.nv_counter(COUNTER), seen.count, "the counter after a power cut")
    test.equal(target.tpm.pcr_read(PCR_DEBUG), bytes(32), "PCR after a power cut")


def a_guest_under_load_moves_with_its_tpm_over_tis(test):
    migrates(test, "tpm-tis", True)


def a_guest_under_load_moves_with_its_tpm_over_crb(test):
    migrates(test, "tpm-crb", False)


def a_tpm12_moves(test):
    source = test.vm("tpm-tis", "1.2", name="source")
    target = test.vm("tpm-tis", "1.2", name="target")
    source.power_on()
    source.tpm.nv_define(0x00011101, 8)
    source.tpm.nv_write(0x00011101, b"moved888")
    value = source.tpm.pcr_extend(PCR_DEBUG, b"\1" * 20)
    target.incoming()
    test.equal(source.migrate(target), "completed", "migration")
    test.equal(target.tpm.nv_read(0x00011101, 8), b"moved888", "NV")
    test.equal(target.tpm.pcr_read(PCR_DEBUG), value, "PCR")


def there_and_back(test):
    """Two hosts in turn; each takes its image out of use when the guest has left."""
    hosts = [test.vm("tpm-crb", name="a"), test.vm("tpm-crb", name="b")]
    hosts[0].power_on()
    seen = Continuity(test, hosts[0])
    for i in range(4):
        here, there = hosts[i % 2], hosts[1 - i % 2]
        there.incoming()
        test.equal(here.migrate(there), "completed", f"migration {i}")
        here.quit()
        seen.holds(there.tpm)
        there.console.start_loop(seen.commands, 3)
        seen.follow(there.console.loop_answers())


def a_failed_migration_leaves_the_guest_its_tpm(test):
    """The destination dies while it receives; the source resumes by itself or by `cont`."""
    source = test.vm("tpm-tis", name="source")
    target = test.vm("tpm-tis", name="target")
    source.power_on()
    seen = Continuity(test, source)
    target.incoming()
    target.daemon.kill()
    target.daemon.wait()
    test.equal(source.migrate(target), "failed", "migration")
    source.qmp.wait("RESUME")
    seen.holds(source.tpm)
    source.console.start_loop(seen.commands, 5)
    test.equal(seen.follow(source.console.loop_answers()), 5, "rounds")


def a_target_with_the_wrong_key_never_gets_the_guest(test):
    """S3.1: the daemon refuses before QEMU could connect, so the source notices nothing."""
    test.only_nvkeep("swtpm notices after the source was stopped")
    source = test.vm("tpm-tis", name="source")
    target = test.vm("tpm-tis", name="target")
    source.power_on()
    seen = Continuity(test, source)
    before = target.store.bytes()
    target.store.write_key(b"not the key", test.path("wrong.key"))
    daemon = target.start_daemon(wait=False, key="file=" + test.path("wrong.key"))
    test.equal(daemon.wait(), 11, "exit code")
    test.check(not daemon.bound(), "there is a socket")
    target.start_qemu(["-incoming", "defer"], hello=False)
    test.equal(target.qemu.refused()[0], 1, "exit code of QEMU")
    test.check(target.store.bytes() == before, "the image changed")
    test.equal(source.status(), "running", "the source")
    seen.holds(source.tpm)


if __name__ == "__main__":
    sys.exit(main())
