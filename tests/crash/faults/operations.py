"""What is asked of a daemon in service while something fails, and what it may answer then."""

import json
import socket

from harness.process import Failure
from harness.tpm import NV_ACCESS, PCR_DEBUG, TpmError, extended, u32

from .commands import INDEX
from .service import GIVE_UP_S, NV_BYTES, PATIENCE_S, Control, Lost
from .serving import Data

NV_UNAVAILABLE, RETRY = 0x923, 0x922


class AnythingBut(frozenset):
    """libtpms makes many things of a lack of memory, a curve that it does not know among them."""

    def __contains__(self, code):
        return not super().__contains__(code)


NO_MEMORY = AnythingBut({0x101})  # FAILURE: never
CTRL_REFUSALS = {0x09, 0x1F}  # FAIL, IOERROR
OTHER_INDEX = INDEX + 1


class Operation:
    """do() gives 0 or what the daemon answered, or raises Lost. after() is what the values become when it
    was done."""

    commits = False  # changes what is stored

    def __init__(self, name):
        self.name = name
        self.n = 0

    def next(self):
        """The next one is to be another one."""
        self.n += 1

    def after(self, values):
        return values

    def refusals(self, fault):
        del fault
        return CTRL_REFUSALS

    def run(self, service, passing=True):
        """do() in a bounded time; whatever happens to the connection is Lost. While a fault lasts there may be
        no answer at all; one that passes leaves none without an answer or the end of the connection."""
        service.patience = PATIENCE_S if passing else GIVE_UP_S
        service.set_patience(service.patience)
        try:
            return self.do(service)
        except TpmError as e:
            return e.rc
        except TimeoutError:
            raise Lost("neither an answer nor the end of the connection") from None
        except (OSError, Failure) as e:
            raise Lost("") from e


class OnTpm(Operation):
    def refusals(self, fault):
        return NO_MEMORY if fault.call == "allocation" else {NV_UNAVAILABLE, RETRY}


class NvWrite(OnTpm):
    commits = True

    def content(self):
        return b"write %010d" % self.n

    def do(self, service):
        service.tpm.nv_write(INDEX, self.content())
        return 0

    def after(self, values):
        return (self.content(), values[1])


class NvDefine(OnTpm):
    """Made, and taken away again."""

    commits = True

    def do(self, service):
        try:
            service.tpm.nv_define(OTHER_INDEX, 8)
        except TpmError as e:
            if e.rc != 0x14C:  # NV_DEFINED: it was there
                raise
        service.tpm.nv_undefine(OTHER_INDEX)
        return 0


class NvRead(OnTpm):
    def do(self, service):
        if service.tpm.nv_read(INDEX, NV_BYTES) != service.content:
            raise Failure("another content was read")
        return 0


class PcrExtend(OnTpm):
    def do(self, service):
        service.tpm.pcr_extend(PCR_DEBUG, b"\7" * 32)
        return 0

    def after(self, values):
        return (values[0], extended(values[1], b"\7" * 32))


class SelfTest(OnTpm):
    """Writes nothing, and needs memory."""

    def do(self, service):
        service.tpm.self_test()
        service.tpm.hash(b"abc")
        service.tpm.get_random(8)
        return 0


class CreatePrimary(OnTpm):
    def do(self, service):
        key = service.tpm.create_primary(b"%d" % self.n)
        service.tpm.flush(key)
        return 0


class OnControl(Operation):
    def __init__(self, name, code, body=b"", commits=False):
        super().__init__(name)
        self.code, self.body, self.commits = code, body, commits

    def do(self, service):
        return service.ctrl.result(self.code, self.body)


class Hash(Operation):
    """A measured launch: resets and extends PCR 17, and sets the flag that it happened."""

    commits = True

    def do(self, service):
        for code, body in ((0x06, b""), (0x07, u32(5) + b"hello"), (0x08, b"")):
            result = service.ctrl.result(code, body)
            if result:
                return result
        return 0


class Connect(Operation):
    """Newcomers on both channels."""

    def do(self, service):
        ctrl = Control(service.path("c"), service.patience)
        result = ctrl.result(0x01)
        ctrl.close()
        return result


class Admin(Operation):
    """One command on a connection of its own."""

    def __init__(self, name, *commands):
        super().__init__(name)
        self.commands = commands

    def refusals(self, fault):
        return {"STORAGE_ERROR"}

    def do(self, service):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(service.patience)
        try:
            sock.connect(service.path("a"))
            stream = sock.makefile("rw", encoding="utf-8", newline="\n")
            self.line(stream, "QMP")
            for command in ("qmp_capabilities",) + self.commands:
                stream.write(json.dumps({"execute": command}) + "\n")
                stream.flush()
                answer = self.line(stream, "return", "error")
                if "error" in answer:
                    return answer["error"]["class"]
            return 0
        except ValueError as e:
            raise Failure(f"not JSON: {e}") from None
        finally:
            sock.close()

    @staticmethod
    def line(stream, *wanted):
        while True:
            text = stream.readline()
            if not text:
                raise Failure("the admin connection was closed")
            answer = json.loads(text)
            if any(w in answer for w in wanted):
                return answer


class PowerCycle(Operation):
    """STOP and INIT: the TPM is off and on again. What was loaded is gone then, in order."""

    commits = True
    cold = True

    def do(self, service):
        for code, body in ((0x0E, b""), (0x02, u32(0))):
            result = service.ctrl.result(code, body)
            if result:
                return result
        service.tpm.startup()
        return 0

    def refusals(self, fault):
        if fault.call == "allocation":
            return NO_MEMORY
        return CTRL_REFUSALS | {NV_UNAVAILABLE, RETRY}


class HandOver(Operation):
    """Out, and back again to the same daemon, as after a migration that failed."""

    commits = True
    cold = True

    def do(self, service):
        for kind in (1, 2, 3):
            result, _, _ = service.ctrl.get_state(kind)
            if result and not (kind == 3 and result == 0x800):
                return result
        result = service.ctrl.result(0x13, u32(0))
        if result:
            return result
        service.tpm.pcr_read(PCR_DEBUG)
        return 0

    def refusals(self, fault):
        return CTRL_REFUSALS | {NV_UNAVAILABLE, RETRY}


def all_operations():
    yield NvWrite("NV_Write")
    yield NvRead("NV_Read")
    yield PcrExtend("PCR_Extend")
    yield SelfTest("SelfTest, Hash, GetRandom")
    yield NvDefine("NV_DefineSpace, NV_UndefineSpace")
    yield CreatePrimary("CreatePrimary, FlushContext")
    yield OnControl("GET_TPMESTABLISHED", 0x04)
    yield Hash("HASH_START, HASH_DATA, HASH_END")
    yield OnControl("RESET_TPMESTABLISHED", 0x0B, b"\3", commits=True)
    yield OnControl("STORE_VOLATILE", 0x0A, commits=True)
    yield Connect("a newcomer")
    yield Admin("query-status", "query-status")
    yield Admin("prepare-outgoing, migrate-abort", "prepare-outgoing", "migrate-abort")
    yield PowerCycle("STOP, INIT, Startup")
    yield HandOver("GET_STATEBLOB, LOCK_STORAGE")
