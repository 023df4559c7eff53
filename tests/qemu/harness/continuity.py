"""What a guest sees of its TPM while it moves: things that a new, older or copied TPM would not have."""

from .process import wait_until
from .tpm import PCR_DEBUG, Reader, extended, nv_increment_command, nv_read_command
from .tpm import pcr_extend_command, pcr_read_command, policy_digest_command, read_public_command
from .tpm import response_code

INDEX, COUNTER = 0x01500001, 0x01500002
CONTENT = b"sixteen bytes..."


class Continuity:
    """A counter that never jumps, an index with its content, a PCR that is always what it was extended
    with, a key that stays loaded, one saved away, and a policy session."""

    def __init__(self, test, vm):
        self.test = test
        self.crb = vm.device == "tpm-crb"
        self.n_lost = 0
        tpm = vm.tpm
        tpm.nv_define_counter(COUNTER)
        tpm.nv_increment(COUNTER)
        tpm.nv_define(INDEX, len(CONTENT))
        tpm.nv_write(INDEX, CONTENT)
        tpm.pcr_extend(PCR_DEBUG, b"\1" * 32)
        saved = tpm.create_primary(b"saved")
        self.saved_name = tpm.name(saved)
        self.context = tpm.context_save(saved)
        tpm.flush(saved)
        self.key = tpm.create_primary()
        self.name = tpm.name(self.key)
        self.session = tpm.start_session()
        tpm.policy_pcr(self.session, PCR_DEBUG)
        self.digest = tpm.policy_digest(self.session)
        self.count = tpm.nv_counter(COUNTER)
        self.pcr = extended(bytes(32), b"\1" * 32)
        self.commands = [nv_increment_command(COUNTER), nv_read_command(COUNTER, 8),
                         pcr_extend_command(PCR_DEBUG, b"\2" * 32), pcr_read_command(PCR_DEBUG),
                         read_public_command(self.key), policy_digest_command(self.session)]

    def start(self, vm, pace_ms=1, dirty_kb=1024):
        """The guest uses its TPM until it is told to stop."""
        vm.console.verb(f"pace {pace_ms}")
        vm.console.verb(f"dirty {dirty_kb}")
        vm.console.start_loop(self.commands)
        self.runs_on(vm)

    def runs_on(self, vm, n=12, timeout=30):
        """At least n more answers come."""
        before = vm.console.n_loop_answers()
        wait_until("answers of the TPM to the guest",
                   lambda: vm.console.n_loop_answers() >= before + n, timeout)

    def stop(self, vm):
        """The guest stops, and all that it saw was right: the number of rounds."""
        return self.follow(vm.console.stop_loop())

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
            if i % n == 5 and not lost:
                self.test.equal(answer[12:], self.digest, what)
        return len(answers) // n

    def holds(self, tpm):
        """With the guest idle."""
        self.test.equal(tpm.nv_counter(COUNTER), self.count, "the counter")
        self.test.equal(tpm.nv_read(INDEX, len(CONTENT)), CONTENT, "the index")
        self.test.equal(tpm.pcr_read(PCR_DEBUG), self.pcr, "PCR")
        self.test.equal(tpm.name(self.key), self.name, "the loaded key")
        self.test.equal(tpm.policy_digest(self.session), self.digest, "the session")
        loaded = tpm.context_load(self.context)
        self.test.equal(tpm.name(loaded), self.saved_name, "the key that was saved away")
        tpm.flush(loaded)

    def acknowledged(self, answers):
        """Of a loop that was cut off: how far the counter was when the guest last heard of it."""
        n = len(self.commands)
        return self.count + (len(answers) + n - 1) // n

    def survives_power_cut(self, tpm, least):
        """After a cold start: what was acknowledged is there, and at most the one increment more that
        was on its way."""
        count = tpm.nv_counter(COUNTER)
        self.test.check(least <= count <= least + 1,
                        f"the counter after a power cut is {count}, acknowledged was {least}")
        self.test.equal(tpm.nv_read(INDEX, len(CONTENT)), CONTENT, "the index after a power cut")
        self.test.equal(tpm.pcr_read(PCR_DEBUG), bytes(32), "PCR after a power cut")
