"""What libvirt does to a machine and its TPM, on one host. A chain is a generator of (row, outcome):
the outcome is what the guest found in its TPM, in numbers, and is compared with what is wanted."""

import hashlib

from libvirt_host import BANKS, COUNTER, ENCRYPTION, emulator
from harness.process import Failure, wait_until
from harness.tpm import PCR_DEBUG, command12, pcr_selection, command2

KEPT = "state kept"
SECOND_SECRET = b"another secret"


def must(condition, what):
    if not condition:
        raise Failure(what)


def counts(host):
    """A counter at its first value on a running machine."""
    host.tpm.nv_define_counter(COUNTER)
    return count(host)


def count(host):
    host.tpm.nv_increment(COUNTER)
    return host.tpm.nv_counter(COUNTER)


def measure(host):
    """Something that a power cycle forgets, and nothing else does."""
    host.tpm.pcr_extend(PCR_DEBUG, b"m" * (20 if host.version == "1.2" else 32))
    return host.tpm.pcr_read(PCR_DEBUG)


def is_measured(host, value):
    return host.tpm.pcr_read(PCR_DEBUG) == value


def identity(host):
    """Of a TPM 1.2: the endorsement key's public half (its answer has a nonce in front of nothing)."""
    r = host.tpm.run("TPM_ReadPubek", command12(0x7C, bytes(20)))
    return hashlib.sha1(r.take(len(r.data) - 10 - 20)).hexdigest()


def outcome(host, wanted, measured, still):
    """Of a step after which the counter shall be what it was, and the PCR still (or not) extended."""
    found = host.tpm.nv_counter(COUNTER)
    if found == wanted and is_measured(host, measured) == still:
        return KEPT
    return f"counter {found} for {wanted}, PCR {'' if is_measured(host, measured) else 'not '}extended"


def life(host):
    host.define()
    host.start()
    n = counts(host)
    yield "start", KEPT
    m = measure(host)
    host.do("reset", "vm")
    host.ready()
    yield "reset", outcome(host, n, m, False)
    m = measure(host)
    host.do("destroy", "vm")
    host.start()
    yield "destroy, start", outcome(host, n, m, False)
    n, m = count(host), measure(host)
    host.console.send("poweroff")
    wait_until("the machine off", lambda: host.do("domstate", "vm").startswith("shut off"), 60, 0.1)
    host.start()
    yield "guest powers off, start", outcome(host, n, m, False)
    host.undefine("--keep-tpm", "--keep-nvram")
    host.define()
    host.start()
    yield "undefine --keep-tpm --keep-nvram, define, start", outcome(host, n, m, False)
    host.undefine()
    host.define()
    host.start()
    yield "undefine, define, start", f"a new TPM, counter {counts(host) - n:+}"
    host.undefine()


def saving(host, backend=None):
    """save/restore and managedsave: the state travels in the file, and comes back from it."""
    kind = ", encrypted" if backend and "encryption" in backend else ""
    host.define(backend)
    host.start()
    first, m = counts(host), measure(host)
    host.do("save", "vm", host.path("saved"))
    host.do("restore", host.path("saved"))
    yield "save, restore" + kind, outcome(host, first, m, True)
    n = count(host)
    host.do("managedsave", "vm")
    host.do("start", "vm")
    yield "managedsave, start" + kind, outcome(host, n, m, True)
    n = count(host)
    host.do("destroy", "vm")
    host.start()
    yield "and a cold start after that" + kind, outcome(host, n, m, False)
    host.do("destroy", "vm")
    host.do("restore", host.path("saved"))
    yield "restore of an older file" + kind, outcome(host, first, m, True)
    if kind:
        n, m = count(host), measure(host)
        host.do("save", "vm", host.path("saved"))
        host.give_secret(SECOND_SECRET)
        done = host.virsh("restore", host.path("saved"))
        host.give_secret()
        host.do("restore", host.path("saved"))
        must(done.rc != 0, "a machine was restored with a wrong secret")
        yield "restore with a wrong secret, then the right one", outcome(host, n, m, True)
    host.undefine()


def snapshots(host):
    host.define(disk=True)
    host.start()
    n, m = counts(host), measure(host)
    host.do("snapshot-create-as", "vm", "s1")
    count(host)
    measure(host)
    host.do("snapshot-revert", "vm", "s1")
    yield "internal snapshot of a running machine, revert", outcome(host, n, m, True)
    n = count(host)
    host.do("destroy", "vm")
    host.start()
    yield "a cold start after the revert", outcome(host, n, m, False)
    host.do("destroy", "vm")
    host.do("snapshot-create-as", "vm", "s2")
    host.start()
    newest = count(host)
    host.do("destroy", "vm")
    host.do("snapshot-revert", "vm", "s2")
    host.start()
    found = host.tpm.nv_counter(COUNTER)
    yield "internal snapshot of a machine that is off, revert", \
        f"TPM {'at its newest state' if found == newest else 'reverted'}, counter {found - n:+}"
    host.undefine()


def banks_of(host):
    """Whether a bank answers: sha1, sha256."""
    def has(alg):
        r = host.tpm.run("PCR_Read", command2(0x17E, params=pcr_selection(0, alg)))
        r.take(4 + 4 + 2)
        return r.take(r.u8()) != bytes(3)
    return " ".join(name for name, alg in (("sha1", 4), ("sha256", 11), ("sha384", 12)) if has(alg))


def encryption(host):
    host.give_secret()
    host.define(emulator(ENCRYPTION + BANKS))
    host.start()
    n, m = counts(host), measure(host)
    yield "encrypted, with PCR banks: start", f"banks {banks_of(host)}"
    host.do("destroy", "vm")
    host.start()
    yield "encrypted: destroy, start", outcome(host, n, m, False)
    host.do("destroy", "vm")
    host.define(emulator(ENCRYPTION))
    host.give_secret(SECOND_SECRET)
    done = host.virsh("start", "vm")
    must(done.rc != 0, "it started with a wrong secret")
    must(host.whose != "ours" or "KEY_WRONG" in host.log(), f"no KEY_WRONG in the log: {host.log()}")
    must(done.seconds < 30, f"it took {done.seconds:.0f} s")
    host.define(emulator())
    plain = host.virsh("start", "vm")
    must(plain.rc != 0, "it started without the secret")
    host.give_secret()
    host.define(emulator(ENCRYPTION))
    host.start()
    yield "wrong secret, no secret: refused; right one", outcome(host, n, m, False)
    host.undefine()
    yield from saving(host, emulator(ENCRYPTION))


def tpm12(host):
    host.define(emulator(version="1.2"), "tpm-tis")
    host.start()
    who, m = identity(host), measure(host)
    host.do("destroy", "vm")
    host.start()
    yield "TPM 1.2: destroy, start", \
        KEPT if identity(host) == who and not is_measured(host, m) else "another TPM"
    m = measure(host)
    host.do("save", "vm", host.path("saved"))
    host.do("restore", host.path("saved"))
    yield "TPM 1.2: save, restore", \
        KEPT if identity(host) == who and is_measured(host, m) else "another TPM"
    host.undefine()


CHAINS = (life, saving, snapshots, encryption, tpm12)
