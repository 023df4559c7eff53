"""Random TPMs of swtpm, imported, used, exported and started by swtpm again: the same endorsement key,
keys, NV indices, counters and persistent objects each time.

    import_many.py [--long] [--seed N] [--trials N]

Each trial draws the kind of TPM, where swtpm keeps it (a directory or a linear store), how it is
encrypted on either side, what is in it, how swtpm ended, and whether a volatile state was stored. The
source must have the same bytes and times afterwards. Short: 5 trials, --long: 1,000.
"""

import argparse
import collections
import hashlib
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "qemu"))
sys.dont_write_bytecode = True

from harness import tpm as t  # noqa: E402

RH_ENDORSEMENT = 0x4000000B
NVKEEP = os.path.abspath(os.environ.get("NVKEEP", "build/bin/nvkeep"))

# What follows --key of swtpm, --source-key and --target-key; @ is the number of a descriptor.
KEYS = [
    ("file=hex128", None),
    ("file=hex128,format=hex,mode=aes-cbc", None),
    ("file=hex256,mode=aes-256-cbc", None),
    ("file=binary128,format=binary,mode=aes-128-cbc", None),
    ("file=binary256,format=binary,mode=aes-256-cbc", None),
    ("fd=@,mode=aes-256-cbc", "hex256"),
    ("fd=@,format=binary", "binary128"),
    ("pwdfile=pass", None),
    ("pwdfile=pass,mode=aes-256-cbc,kdf=pbkdf2", None),
    ("pwdfile=pass,mode=aes-256-cbc,kdf=sha512", None),
    ("pwdfile=pass,kdf=sha512", None),
    ("pwdfd=@,mode=aes-256-cbc", "pass"),
]


class Different(Exception):
    pass


class Key:
    """An option with a key in it, for one program: its descriptor is open as long as this is."""

    def __init__(self, option, form):
        self.argv, self.fds = [], []
        if form is None:
            return
        text, name = form
        if name:
            self.fds = [os.open(name, os.O_RDONLY)]
            text = text.replace("@", str(self.fds[0]))
        self.argv = [option, text]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for fd in self.fds:
            os.close(fd)


class Daemon:
    """A TPM on a unix socket."""

    def __init__(self, argv, fds=()):
        for name in ("c", "d"):
            if os.path.exists(name):
                os.unlink(name)
        self.log = open("daemon.log", "wb")
        self.child = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL"] + argv + ["--ctrl", "type=unixio,path=c", "--server",
             "type=unixio,path=d", "--flags", "not-need-init"], stdin=subprocess.DEVNULL,
            stdout=self.log, stderr=self.log, pass_fds=fds)
        self.data = self.connect("d")

    def connect(self, path):
        end = time.monotonic() + 60
        while time.monotonic() < end:
            s = socket.socket(socket.AF_UNIX)
            try:
                s.connect(path)
                return s
            except OSError:
                s.close()
            if self.child.poll() is not None:
                break
            time.sleep(0.005)
        with open("daemon.log", encoding="utf-8", errors="replace") as f:
            raise Different(f"{self.child.args}: does not start: {f.read()}")

    def send(self, command):
        self.data.sendall(command)
        got = b""
        while len(got) < 10 or len(got) < int.from_bytes(got[2:6], "big"):
            more = self.data.recv(4096)
            if not more:
                raise Different(f"{self.child.args}: hung up")
            got += more
        return got

    def control(self, code):
        with self.connect("c") as s:
            s.sendall(t.u32(code))
            answer = s.recv(4)
        if answer != bytes(4):
            raise Different(f"control command {code}: {answer.hex()}")

    def end(self, how="shutdown"):
        if how == "shutdown":
            self.control(3)
        elif self.child.poll() is None:
            self.child.kill()
        self.child.wait(60)
        self.data.close()
        self.log.close()


def ek_command():
    """An ECC primary key of the endorsement hierarchy: it tells the seed."""
    c = bytearray(t.create_primary_command())
    c[10:14] = t.u32(RH_ENDORSEMENT)
    return bytes(c)


class Tpm20:
    flag = "--tpm2"

    def __init__(self, dice):
        self.indices, self.counters, self.keys = {}, {}, []
        self.dice = dice

    def begin(self, send):
        tpm = t.Tpm2(send)
        rc = t.response_code(send(t.startup_command()))
        if rc not in (0, t.RC_INITIALIZE):
            raise Different(f"Startup: {rc:#x}")
        return tpm

    def fill(self, send):
        tpm, dice = self.begin(send), self.dice
        for index in dice.sample(range(0x01500000, 0x01510000), dice.randrange(4)):
            size = dice.randrange(1, 800)
            self.indices[index] = size
            tpm.nv_define(index, size)
            tpm.nv_write(index, dice.randbytes(size))
        for index in dice.sample(range(0x01600000, 0x01610000), dice.randrange(3)):
            self.counters[index] = None
            tpm.nv_define_counter(index)
            for _ in range(dice.randrange(1, 6)):
                tpm.nv_increment(index)
        for i in range(dice.randrange(4)):
            handle = tpm.create_primary(dice.randbytes(32))
            tpm.evict(handle, 0x81000000 + i)
            tpm.flush(handle)
            self.keys.append(0x81000000 + i)
        if dice.randrange(2):
            send(t.shutdown_command(dice.randrange(2)))

    def use(self, send):
        """A change, which must be in what is exported."""
        tpm = self.begin(send)
        for index in self.counters:
            tpm.nv_increment(index)
        tpm.nv_define(0x01700001, 16)
        tpm.nv_write(0x01700001, self.dice.randbytes(16))
        self.indices[0x01700001] = 16

    def facts(self, send):
        tpm = self.begin(send)
        found = {}
        ek = tpm.run("CreatePrimary", ek_command()).u32()
        found["endorsement key"] = tpm.name(ek).hex()
        tpm.flush(ek)
        owner = tpm.create_primary()
        found["storage key"] = tpm.name(owner).hex()
        tpm.flush(owner)
        for first, what in ((0x01000000, "indices"), (0x81000000, "persistent objects")):
            found[what] = send(t.command2(0x17A, params=t.u32(1) + t.u32(first) + t.u32(64))).hex()
        for handle in self.keys:
            found[hex(handle)] = tpm.name(handle).hex()
        for index, size in self.indices.items():
            found[hex(index)] = tpm.nv_read(index, size).hex()
        for index in self.counters:
            found[hex(index)] = tpm.nv_counter(index)
        return found


class Tpm12:
    flag = "--tpm12"

    def __init__(self, dice):
        self.indices = {}
        self.dice = dice

    def begin(self, send):
        rc = t.response_code(send(t.command12(0x99, t.u16(1))))
        if rc not in (0, 0x26):
            raise Different(f"TPM_Startup: {rc:#x}")
        return t.Tpm12(send)

    def fill(self, send):
        tpm, dice = self.begin(send), self.dice
        parms = t.u32(1) + t.u16(3) + t.u16(1) + t.u32(12) + t.u32(2048) + t.u32(2) + t.u32(0)
        tpm.run("TPM_CreateEndorsementKeyPair", t.command12(0x78, bytes(20) + parms))
        for i in range(dice.randrange(1, 4)):
            size, index = dice.randrange(1, 200), 0x00011000 + i
            self.indices[index] = size
            tpm.nv_define(index, size)
            tpm.nv_write(index, dice.randbytes(size))

    def use(self, send):
        tpm = self.begin(send)
        for index, size in self.indices.items():
            tpm.nv_write(index, self.dice.randbytes(size))

    def facts(self, send):
        tpm = self.begin(send)
        pubek = tpm.run("TPM_ReadPubek", t.command12(0x7C, bytes(20))).rest()
        found = {"endorsement key": pubek[:-20].hex()}
        for index, size in self.indices.items():
            found[hex(index)] = tpm.nv_read(index, size).hex()
        return found


def nvkeep(*argv, key=None):
    done = subprocess.run([NVKEEP, *argv, *(key.argv if key else ())], stdin=subprocess.DEVNULL,
                          capture_output=True, pass_fds=key.fds if key else (), timeout=120)
    if done.returncode:
        raise Different(f"nvkeep {' '.join(argv)}: {done.returncode}: {done.stderr.decode()}")


def swtpm(kind, uri, form):
    with Key("--key", form) as key:
        flag = ["--tpm2"] if kind is Tpm20 else []
        return Daemon(["swtpm", "socket", "--tpmstate", f"backend-uri={uri}", *flag, *key.argv],
                      key.fds)


def serve():
    return Daemon([NVKEEP, "serve", "image", "--key", "file=pass"])


def same(what, before, after):
    for name in {**before, **after}:
        if before.get(name) != after.get(name):
            raise Different(f"{what}: {name}: {before.get(name)} became {after.get(name)}")
    return len(before)


def digest(path):
    """Of every byte and time of change of what is there."""
    h = hashlib.sha256()
    names = [path] + [os.path.join(path, n) for n in sorted(os.listdir(path))
                      ] if os.path.isdir(path) else [path]
    for name in names:
        st = os.stat(name)
        h.update(f"{name} {st.st_mtime_ns} {st.st_mode}".encode())
        if not os.path.isdir(name):
            with open(name, "rb") as f:
                h.update(f.read())
    return h.hexdigest()


def place(dice, name):
    is_store = dice.randrange(3) == 0
    if not is_store:
        os.mkdir(name)
    return os.path.abspath(name), ("file://" if is_store else "dir://") + os.path.abspath(name)


def make_source(dice, kind, tpm, uri, form):
    daemon = swtpm(kind, uri, form)
    tpm.fill(daemon.send)
    before = tpm.facts(daemon.send)
    if dice.randrange(4) == 0:
        daemon.control(10)  # the volatile state is stored, too
    daemon.end("shutdown" if dice.randrange(4) else "kill")
    return before


def note(seen, kind, uri, form, tpm=None):
    """What was tried, for the last lines."""
    seen["TPM 1.2" if kind is Tpm12 else "TPM 2.0"] += 1
    seen[uri.partition(":")[0]] += 1
    seen[form[0] if form else "in clear"] += 1
    if tpm:
        for name, n in (("indices", len(tpm.indices)), ("counters", len(getattr(tpm, "counters", ()))),
                        ("persistent objects", len(getattr(tpm, "keys", ())))):
            seen[name] += n


def trial(dice, number, seen):
    """What was compared. `seen`: what was tried, on the way in and on the way out."""
    kind = Tpm12 if dice.randrange(5) == 0 or number == 2 else Tpm20
    tpm = kind(dice)
    forms = [dice.choice(KEYS + [None] * 4) for _ in range(2)]
    path, uri = place(dice, "source")
    before = make_source(dice, kind, tpm, uri, forms[0])
    note(seen[0], kind, uri, forms[0], tpm)

    was = digest(path)
    with Key("--source-key", forms[0]) as key:
        nvkeep("import", uri, "image", "--key", "file=pass", "--iter-time", "1",
               *([kind.flag] if dice.randrange(2) else []), key=key)
    if digest(path) != was:
        raise Different("the source was changed")

    daemon = serve()
    n = same("imported", before, tpm.facts(daemon.send))
    if dice.randrange(2):
        tpm.use(daemon.send)
    before = tpm.facts(daemon.send)
    daemon.end()

    path, uri = place(dice, "target")
    note(seen[1], kind, uri, forms[1])
    with Key("--target-key", forms[1]) as key:
        nvkeep("export", "image", uri, "--key", "file=pass",
               *([] if forms[1] else ["--plaintext"]), key=key)
    daemon = swtpm(kind, uri, forms[1])
    n += same("exported", before, tpm.facts(daemon.send))
    daemon.end()
    return n


def make_keys():
    binary = bytes((0xD3 + 17 * i) % 256 for i in range(32))
    for name, content in (("hex128", binary[:16].hex().encode()),
                          ("hex256", b"0x" + binary.hex().encode() + b"\n"),
                          ("binary128", binary[:16]), ("binary256", binary),
                          ("pass", b"correct horse\n")):
        with open(name, "wb") as f:
            f.write(content)


def clear():
    for name in ("source", "target"):
        if os.path.isdir(name):
            shutil.rmtree(name)
        elif os.path.exists(name):
            os.unlink(name)
    if os.path.exists("image"):
        os.unlink("image")


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--long", action="store_true")
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("--trials", type=int)
    a = args.parse_args()
    n_trials = a.trials or (1000 if a.long else 5)
    folder = tempfile.mkdtemp(prefix="nvkeep-import-", dir=os.environ.get("TMPDIR"))
    os.chdir(folder)
    make_keys()
    failed = compared = 0
    seen = collections.Counter(), collections.Counter()
    for i in range(n_trials):
        try:
            compared += trial(random.Random(f"{a.seed} {i}"), i, seen)
        except (Different, t.Failure, OSError, subprocess.TimeoutExpired) as e:
            failed += 1
            print(f"trial {i} of seed {a.seed}: {e}", flush=True)
        clear()
    os.chdir("/")
    shutil.rmtree(folder)
    for what, counts in zip(("from", "to"), seen):
        print(f"{what} swtpm:", ", ".join(f"{n} {name}" for name, n in sorted(counts.items())))
    print(f"{n_trials} TPMs imported and exported, {compared} facts compared, {failed} differences")
    return 1 if failed or compared == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
