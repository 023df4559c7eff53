"""A daemon in service under tool_inject.c: its clients, what its guest has in the TPM, and whether it is
still there after something failed."""

import os
import signal
import socket
import struct
import time

from harness.process import Failure
from harness.tpm import PCR_DEBUG, Tpm2, command2, flush_command, response_code, sized, u16, u32

from .commands import INDEX, Broken
from .inject import Injected
from .serving import SOCKETS, Data

LIMIT_S = 10  # nothing takes longer, whatever fails
PATIENCE_S = 8  # with an answer, or the end of a connection, after a fault that passed
GIVE_UP_S = 0.6  # how long a fault lasts when nothing answers
NV_BYTES = 16


def create_sealed_command(key):
    """Something only the loaded key can do."""
    attributes = 1 << 1 | 1 << 4 | 1 << 6 | 1 << 10  # fixedTPM fixedParent userWithAuth noDA
    public = u16(8) + u16(0xB) + u32(attributes) + sized(b"") + u16(0x10) + sized(b"")
    sensitive = sized(sized(b"") + sized(b"sealed"))
    return command2(0x153, [key], sensitive + sized(public) + sized(b"") + u32(0), auths=1)


class Lost(Exception):
    """The connection ended, or nothing came in time: nobody knows whether it was done."""


class Control:
    """A client of the control channel."""

    REPLY_BYTES = {0x01: 8, 0x04: 8, 0x0C: 16, 0x0F: 8, 0x11: 16}

    def __init__(self, path, timeout=LIMIT_S):
        self.data = Data(path, timeout)

    def ask(self, code, body=b""):
        self.data.sock.sendall(u32(code) + body)
        return self.data.receive(self.REPLY_BYTES.get(code, 4))

    def result(self, code, body=b""):
        return int.from_bytes(self.ask(code, body)[:4], "big")

    def get_state(self, kind):
        """(result, flags, bytes) of a whole blob."""
        head = self.ask(0x0C, u32(1) + u32(kind) + u32(0))
        result, flags, total, n = struct.unpack(">4I", head)
        blob = self.data.receive(n)
        return result, flags, blob if total == n else b""

    def set_state(self, kind, flags, blob):
        self.data.sock.sendall(u32(0x0D) + u32(flags) + u32(kind) + u32(len(blob)) + blob)
        return int.from_bytes(self.data.receive(4), "big")

    def close(self):
        self.data.close()


class Service:
    """The daemon, and a guest that loaded a key and began a session."""

    def __init__(self, tools, control, folder, options=(), output="service"):
        self.tools, self.control, self.folder = tools, control, folder
        self.options, self.output = options, os.path.join(folder + "." + output)
        self.log_path = self.output + ".calls"
        self.run = self.data = self.ctrl = None
        self.content = b"sixteen bytes..."
        self.n_starts = 0

    def path(self, name):
        return os.path.join(self.folder, name)

    # Coming and going.

    def start(self):
        self.control.clear()
        self.run = Injected(
            self.tools, self.control,
            [self.tools.nvkeep, "serve", "i", "--key", "file=k", *SOCKETS, "--admin",
             "type=unixio,path=a", "--log", "file=l", *self.options], self.folder,
            self.output, self.log_path, preload=not self.tools.sanitized)
        self.n_starts += 1
        end = time.monotonic() + 30
        while not self.log_says("ready"):
            if self.run.ended() or time.monotonic() > end:
                raise Broken(f"the daemon does not start: {self.run.err()}")
            time.sleep(0.002)
        return self

    def log(self):
        with open(self.path("l"), encoding="utf-8", errors="replace") as f:
            return f.read()

    def log_says(self, text):
        return os.path.exists(self.path("l")) and text in self.log()

    def connect(self):
        self.hang_up()
        self.ctrl = Control(self.path("c"))
        self.data = Data(self.path("d"))

    def hang_up(self):
        for client in (self.data, self.ctrl):
            if client:
                client.close()
        self.data = self.ctrl = None

    def settle(self):
        """The guest's TPM, from the beginning."""
        self.connect()
        # What STORE_VOLATILE kept is resumed once; then it is gone.
        for code, body in ((0x02, u32(1)), (0x0E, b""), (0x02, u32(0))):
            if self.ctrl.result(code, body) != 0:
                raise Broken("INIT and STOP without faults")
        tpm = self.tpm
        tpm.startup()
        self.key = tpm.create_primary()
        self.name = tpm.name(self.key)
        self.session = tpm.start_session()
        tpm.policy_pcr(self.session, PCR_DEBUG)
        self.digest = tpm.policy_digest(self.session)
        self.pcr = tpm.pcr_read(PCR_DEBUG)

    @property
    def tpm(self):
        return Tpm2(self.data.send)

    def end(self):
        """In order: its exit code."""
        self.hang_up()
        self.run.signal_program(signal.SIGTERM)
        code = self.run.wait_ended(LIMIT_S)
        self.run.kill()
        os.rename(self.path("l"), self.path("l.before"))
        return code

    def kill(self):
        """As when the power goes."""
        self.hang_up()
        self.run.kill()
        for name in ("c", "d", "a", "l"):
            if os.path.exists(self.path(name)):
                os.unlink(self.path(name))

    def died(self):
        return self.run.ended()

    def wait_if_dying(self):
        """An answer did not come: it is about to end, unless it answers somebody new."""
        try:
            somebody = Control(self.path("c"))
            try:
                somebody.result(0x01)
            finally:
                somebody.data.close()
        except (Failure, OSError):
            self.run.wait_ended(LIMIT_S)

    def set_patience(self, seconds=LIMIT_S):
        for client in (self.data, self.ctrl.data):
            client.sock.settimeout(seconds)

    def tidy(self):
        """What a command may have left loaded whose answer was lost."""
        for handle in (0x80000000, 0x80000001, 0x80000002):
            if handle != self.key:
                self.data.send(flush_command(handle))

    # What is still there.

    def disarm(self):
        self.control.set(armed=0)

    def complaint(self):
        """None, or what the guest misses."""
        try:
            return self._look()
        except (OSError, Failure) as e:
            return f"it serves no more: {e}; its log ends: {self.log()[-300:]}"

    def _look(self):
        tpm = self.tpm
        if tpm.name(self.key) != self.name:
            return "the loaded key is another one"
        rc = response_code(tpm.send(create_sealed_command(self.key)))
        if rc != 0:
            return f"the loaded key cannot be used: {rc:#x}"
        if tpm.policy_digest(self.session) != self.digest:
            return "the session is another one"
        if self.ctrl.result(0x01) != 0:
            return "the control channel refuses GET_CAPABILITY"
        return None

    def values(self):
        """What commands change: NV, PCR."""
        return (self.tpm.nv_read(INDEX, NV_BYTES), self.tpm.pcr_read(PCR_DEBUG))
