"""TPM commands. *_command functions give bytes; Tpm2 and Tpm12 send them and read the answers."""

import hashlib
import struct

from .process import Failure

ALG_RSA, ALG_SHA1, ALG_AES, ALG_SHA256 = 0x0001, 0x0004, 0x0006, 0x000B
ALG_NULL, ALG_ECC, ALG_CFB = 0x0010, 0x0023, 0x0043
RH_OWNER, RH_NULL, RS_PW = 0x40000001, 0x40000007, 0x40000009
NV_COUNTER, NV_ORDERLY = 1 << 4, 1 << 26
# owner write, auth write, owner read, auth read, no dictionary attack protection
NV_ACCESS = 1 << 1 | 1 << 2 | 1 << 17 | 1 << 18 | 1 << 25
RC_INITIALIZE, RC_FAILURE, RC_CANCELED, RC_NV_UNAVAILABLE = 0x100, 0x101, 0x909, 0x923
PCR_DEBUG = 16  # a PCR that firmware does not touch


class TpmError(Failure):
    def __init__(self, what, rc):
        super().__init__(f"{what}: the TPM answered {rc:#x}")
        self.rc = rc


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        if self.at + n > len(self.data):
            raise Failure(f"a response ends early: {self.data.hex()}")
        self.at += n
        return self.data[self.at - n:self.at]

    def u8(self):
        return self.take(1)[0]

    def u16(self):
        return int.from_bytes(self.take(2), "big")

    def u32(self):
        return int.from_bytes(self.take(4), "big")

    def sized(self):
        return self.take(self.u16())

    def rest(self):
        return self.take(len(self.data) - self.at)


def u8(v):
    return struct.pack(">B", v)


def u16(v):
    return struct.pack(">H", v)


def u32(v):
    return struct.pack(">I", v)


def sized(b):
    return u16(len(b)) + b


def command2(code, handles=(), params=b"", auths=None):
    """auths: how many password authorizations go along (empty passwords)."""
    body = b"".join(u32(h) for h in handles)
    if auths:
        area = (u32(RS_PW) + sized(b"") + u8(0) + sized(b"")) * auths
        body += u32(len(area)) + area
    body += params
    return u16(0x8002 if auths else 0x8001) + u32(10 + len(body)) + u32(code) + body


def startup_command(kind=0):
    return command2(0x144, params=u16(kind))


def shutdown_command(kind=0):
    return command2(0x145, params=u16(kind))


def get_random_command(n):
    return command2(0x17B, params=u16(n))


def self_test_command():
    return command2(0x143, params=u8(1))


def hash_command(data):
    return command2(0x17D, params=sized(data) + u16(ALG_SHA256) + u32(RH_NULL))


def get_capability_command(capability, first, count):
    return command2(0x17A, params=u32(capability) + u32(first) + u32(count))


def read_clock_command():
    return command2(0x181)


def pcr_selection(pcr, alg=ALG_SHA256):
    bits = bytearray(3)
    bits[pcr // 8] = 1 << pcr % 8
    return u32(1) + u16(alg) + u8(3) + bytes(bits)


def pcr_extend_command(pcr, digest):
    return command2(0x182, [pcr], u32(1) + u16(ALG_SHA256) + digest, auths=1)


def pcr_read_command(pcr):
    return command2(0x17E, params=pcr_selection(pcr))


def nv_define_command(index, size, attributes=0):
    public = u32(index) + u16(ALG_SHA256) + u32(NV_ACCESS | attributes) + sized(b"") + u16(size)
    return command2(0x12A, [RH_OWNER], sized(b"") + sized(public), auths=1)


def nv_undefine_command(index):
    return command2(0x122, [RH_OWNER, index], auths=1)


def nv_write_command(index, data, at=0):
    return command2(0x137, [RH_OWNER, index], sized(data) + u16(at), auths=1)


def nv_read_command(index, size, at=0):
    return command2(0x14E, [RH_OWNER, index], u16(size) + u16(at), auths=1)


def nv_increment_command(index):
    return command2(0x134, [RH_OWNER, index], auths=1)


def create_primary_command(rsa_bits=0, unique=b""):
    """A storage key under the owner: ECC P-256, or RSA (slow: that is what it is good for)."""
    # fixedTPM fixedParent sensitiveDataOrigin userWithAuth noDA restricted decrypt
    attributes = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 10 | 1 << 16 | 1 << 17
    aes = u16(ALG_AES) + u16(128) + u16(ALG_CFB)
    if rsa_bits:
        kind = ALG_RSA
        params = aes + u16(ALG_NULL) + u16(rsa_bits) + u32(0) + sized(unique)
    else:
        kind = ALG_ECC
        params = aes + u16(ALG_NULL) + u16(3) + u16(ALG_NULL) + sized(unique) + sized(b"")
    public = u16(kind) + u16(ALG_SHA256) + u32(attributes) + sized(b"") + params
    sensitive = sized(sized(b"") + sized(b""))
    return command2(0x131, [RH_OWNER], sensitive + sized(public) + sized(b"") + u32(0), auths=1)


def evict_command(handle, persistent):
    return command2(0x120, [RH_OWNER, handle], u32(persistent), auths=1)


def read_public_command(handle):
    return command2(0x173, [handle])


def flush_command(handle):
    return command2(0x165, params=u32(handle))


def context_save_command(handle):
    return command2(0x162, [handle])


def context_load_command(context):
    return command2(0x161, params=context)


def start_session_command(policy=True):
    return command2(0x176, [RH_NULL, RH_NULL], sized(bytes(range(16))) + sized(b"")
                    + u8(1 if policy else 0) + u16(ALG_NULL) + u16(ALG_SHA256))


def policy_pcr_command(session, pcr):
    return command2(0x17F, [session], sized(b"") + pcr_selection(pcr))


def policy_digest_command(session):
    return command2(0x189, [session])


def response_code(response):
    if len(response) < 10 or int.from_bytes(response[2:6], "big") != len(response):
        raise Failure(f"not a TPM response: {response.hex()}")
    return int.from_bytes(response[6:10], "big")


def extended(pcr_value, digest):
    return hashlib.sha256(pcr_value + digest).digest()


class Tpm2:
    def __init__(self, send):
        self.send = send  # bytes to bytes

    def run(self, what, command):
        """A reader behind the header."""
        response = self.send(command)
        rc = response_code(response)
        if rc:
            raise TpmError(what, rc)
        return Reader(response[10:])

    def run_parameters(self, what, command):
        """The same behind the parameter size that a response with sessions has."""
        r = self.run(what, command)
        r.u32()
        return r

    def startup(self, kind=0):
        self.run("Startup", startup_command(kind))

    def self_test(self):
        self.run("SelfTest", self_test_command())

    def hash(self, data):
        return self.run("Hash", hash_command(data)).sized()

    def get_random(self, n):
        return self.run("GetRandom", get_random_command(n)).sized()

    def pcr_extend(self, pcr, digest):
        self.run("PCR_Extend", pcr_extend_command(pcr, digest))

    def pcr_read(self, pcr):
        r = self.run("PCR_Read", pcr_read_command(pcr))
        r.u32()
        if r.u32() != 1:
            raise Failure(f"PCR {pcr}: no selection in the response")
        r.take(6)
        if r.u32() != 1:
            raise Failure(f"PCR {pcr}: no digest in the response")
        return r.sized()

    def nv_define(self, index, size, attributes=0):
        self.run("NV_DefineSpace", nv_define_command(index, size, attributes))

    def nv_define_counter(self, index):
        self.nv_define(index, 8, NV_COUNTER)

    def nv_undefine(self, index):
        self.run("NV_UndefineSpace", nv_undefine_command(index))

    def nv_write(self, index, data, at=0):
        self.run("NV_Write", nv_write_command(index, data, at))

    def nv_read(self, index, size, at=0):
        return self.run_parameters("NV_Read", nv_read_command(index, size, at)).sized()

    def nv_increment(self, index):
        self.run("NV_Increment", nv_increment_command(index))

    def nv_counter(self, index):
        return int.from_bytes(self.nv_read(index, 8), "big")

    def create_primary(self, unique=b""):
        return self.run("CreatePrimary", create_primary_command(unique=unique)).u32()

    def evict(self, handle, persistent):
        self.run("EvictControl", evict_command(handle, persistent))

    def name(self, handle):
        r = self.run("ReadPublic", read_public_command(handle))
        r.sized()
        return r.sized()

    def flush(self, handle):
        self.run("FlushContext", flush_command(handle))

    def context_save(self, handle):
        return self.run("ContextSave", context_save_command(handle)).rest()

    def context_load(self, context):
        return self.run("ContextLoad", context_load_command(context)).u32()

    def start_session(self):
        return self.run("StartAuthSession", start_session_command()).u32()

    def policy_pcr(self, session, pcr):
        self.run("PolicyPCR", policy_pcr_command(session, pcr))

    def policy_digest(self, session):
        return self.run("PolicyGetDigest", policy_digest_command(session)).sized()

    def reset_count(self):
        r = self.run("ReadClock", read_clock_command())
        r.take(16)
        return r.u32()


def command12(ordinal, params=b""):
    return u16(0x00C1) + u32(10 + len(params)) + u32(ordinal) + params


class Tpm12:
    """Without authorization: what a fresh TPM 1.2 allows before its NV area is locked."""

    def __init__(self, send):
        self.send = send

    run = Tpm2.run

    def get_random(self, n):
        r = self.run("TPM_GetRandom", command12(0x46, u32(n)))
        return r.take(r.u32())

    def pcr_extend(self, pcr, sha1):
        return self.run("TPM_Extend", command12(0x14, u32(pcr) + sha1)).take(20)

    def pcr_read(self, pcr):
        return self.run("TPM_PCRRead", command12(0x15, u32(pcr))).take(20)

    def nv_define(self, index, size):
        pcrs = (u16(3) + bytes(3) + u8(0x1F) + bytes(20)) * 2
        public = (u16(0x18) + u32(index) + pcrs + u16(0x17) + u32(1 << 1)  # the owner may write, anyone read
                  + u8(0) * 3 + u32(size))
        self.run("TPM_NV_DefineSpace", command12(0xCC, public + bytes(20)))

    def nv_write(self, index, data, at=0):
        self.run("TPM_NV_WriteValue", command12(0xCD, u32(index) + u32(at) + u32(len(data)) + data))

    def nv_read(self, index, size, at=0):
        r = self.run("TPM_NV_ReadValue", command12(0xCF, u32(index) + u32(at) + u32(size)))
        return r.take(r.u32())
