"""Who is put to the test: daemons that keep a TPM's state in a folder of a file system, and small
writers whose verdict is known beforehand.

A subject works in a folder: work(diary) does what a host and its guest do, and notes in the diary when
something was begun, when it was acknowledged, and what must then be found. find(folder) tells what is
there after a power cut: an Outcome.
"""

import json
import os
import signal
import socket
import subprocess
import time

from harness.process import Failure, run
from harness.tpm import Tpm2, TpmError, command2, shutdown_command, u32

INDEX, SMALL, COUNTER, EXTRA, SPARE = range(0x01500001, 0x01500006)
INDEX_BYTES = 900
PERSISTENT = 0x81000010
SOUND, ANYTHING = "sound", "whatever is found"  # what a subject is wanted to be
SET_DATAFD, INIT, SHUTDOWN = 0x10, 2, 3


class Outcome:
    """`state`: what was found, equal to what the diary has when it is the same; None: nothing there,
    or, with `why`, something that does not open. `stuck`: why it cannot go on from here. `unsound`:
    what a checking tool says."""

    def __init__(self, state=None, why="", stuck="", unsound=""):
        self.state, self.why, self.stuck, self.unsound = state, why, stuck, unsound


class Refused(Failure):
    """A daemon that does not serve its TPM."""


class Daemon:
    """One that speaks swtpm's protocol, with its TPM powered on."""

    def __init__(self, argv, folder, env):
        self.log = os.path.join(folder, "daemon.log")
        path = os.path.join(folder, "ctrl")
        for name in (self.log, path):
            if os.path.exists(name):
                os.unlink(name)
        with open(self.log, "wb") as log:
            self.child = subprocess.Popen(
                [*argv, "--ctrl", f"type=unixio,path={path}"], stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, env={**os.environ, **env})
        self.control = self.data = None
        try:
            self._connect(path)
        except BaseException:
            self.kill()
            raise
        self.tpm = Tpm2(self.send)

    def _connect(self, path):
        end = time.monotonic() + 30
        self.control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        while True:
            try:
                self.control.connect(path)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if self.child.poll() is not None or time.monotonic() > end:
                    raise Refused(f"no daemon ({self.child.poll()}): {self.said()}") from None
                time.sleep(0.001)
        self.control.settimeout(30)
        self.data, theirs = socket.socketpair()
        self.data.settimeout(30)
        socket.send_fds(self.control, [u32(SET_DATAFD)], [theirs.fileno()])
        theirs.close()
        self._result("SET_DATAFD")
        self.control.sendall(u32(INIT) + u32(0))
        self._result("INIT")

    def _result(self, what):
        answer = self.control.recv(4)
        if answer != bytes(4):
            raise Refused(f"{what}: {answer.hex()}: {self.said()}")

    def said(self):
        with open(self.log, encoding="utf-8", errors="replace") as f:
            return f.read().strip()[-300:]

    def send(self, command):
        self.data.sendall(command)
        answer = self.data.recv(4096)
        while len(answer) >= 6 and len(answer) < int.from_bytes(answer[2:6], "big"):
            answer += self.data.recv(4096)
        return answer

    def kill(self):
        self.child.send_signal(signal.SIGKILL)
        self.end()

    def end(self):
        for end in (self.control, self.data):
            if end:
                end.close()
        self.child.wait(30)

    def shut_down(self):
        """In order, as QEMU does it."""
        self.tpm.run("Shutdown", shutdown_command())
        self.control.sendall(u32(SHUTDOWN))
        self.control.recv(4)
        self.child.wait(30)
        self.end()


def handles(tpm, first):
    r = tpm.run("GetCapability", command2(0x17A, params=u32(1) + u32(first) + u32(64)))
    r.take(5)
    return [r.u32() for _ in range(r.u32())]


def nv_bytes(tpm, index):
    public = tpm.run("NV_ReadPublic", command2(0x169, [index]))
    size = int.from_bytes(public.sized()[-2:], "big")
    try:
        return tpm.nv_read(index, size)
    except TpmError as e:
        if e.rc != 0x14A:  # never written
            raise
        return None


def who(tpm):
    """Which TPM this is: a key that follows from its seed."""
    key = tpm.create_primary()
    name = tpm.name(key)
    tpm.flush(key)
    return name.hex()[:16]


def content(tpm):
    """All that is in it."""
    return (tuple((i, nv_bytes(tpm, i)) for i in handles(tpm, 0x01000000)),
            tuple((h, tpm.name(h)) for h in handles(tpm, 0x81000000)))


def go_on(tpm):
    """The next commit."""
    index = COUNTER if COUNTER in handles(tpm, 0x01000000) else SPARE
    if index == SPARE:
        tpm.nv_define_counter(SPARE)
    data = nv_bytes(tpm, index)
    tpm.nv_increment(index)
    if data is not None and tpm.nv_counter(index) != int.from_bytes(data, "big") + 1:
        raise Failure("a counter that does not count")
    return content(tpm)


def define(tpm, index, size=0):
    if size:
        tpm.nv_define(index, size)
    else:
        tpm.nv_define_counter(index)


def persist(tpm):
    key = tpm.create_primary()
    tpm.evict(key, PERSISTENT)
    tpm.flush(key)


# Every one of these changes the state.
COMMANDS = (
    lambda tpm, i: tpm.nv_write(INDEX, i.to_bytes(4, "big") * (INDEX_BYTES // 4)),
    lambda tpm, i: tpm.nv_increment(COUNTER),
    lambda tpm, i: tpm.nv_write(SMALL, i.to_bytes(8, "big")),
    lambda tpm, i: define(tpm, EXTRA, 600),
    lambda tpm, i: tpm.nv_write(INDEX, i.to_bytes(4, "big"), 400),
    lambda tpm, i: tpm.nv_undefine(EXTRA),
    lambda tpm, i: persist(tpm),
    lambda tpm, i: tpm.nv_increment(COUNTER),
    lambda tpm, i: tpm.evict(PERSISTENT, PERSISTENT),
)


class TpmSubject:
    """n: how many commands of each kind are run in the first of three lives of the daemon."""

    wanted = SOUND

    def __init__(self, name, folder, n):
        self.name, self.n = name, n
        self.env = {}
        self.tools = folder  # for sockets and logs: outside of the file system in question

    def argv(self, folder):
        raise NotImplementedError

    def start(self, folder):
        daemon = Daemon(self.argv(folder), self.tools, self.env)
        try:
            daemon.tpm.startup()
        except BaseException:
            daemon.kill()
            raise
        return daemon

    def made(self, folder, diary):
        """Before the first start."""

    def look(self, folder):
        """At the end of the first life."""

    def work(self, folder, diary):
        self.made(folder, diary)
        diary.begin()
        daemon = self.start(folder)
        self.note(daemon, diary)
        for index, size in ((INDEX, INDEX_BYTES), (SMALL, 8), (COUNTER, 0)):
            diary.begin()
            define(daemon.tpm, index, size)
            self.note(daemon, diary)
        for life in range(3):
            self.commands(daemon, diary, life, self.n if life == 0 else 1)
            diary.begin()
            if life == 0:
                self.look(folder)
                daemon.shut_down()
            else:
                daemon.kill()
            if life < 2:
                daemon = self.start(folder)
                self.note(daemon, diary)

    def commands(self, daemon, diary, life, rounds):
        for i in range(rounds * len(COMMANDS)):
            diary.begin()
            COMMANDS[i % len(COMMANDS)](daemon.tpm, 1 + i + (life << 16))
            self.note(daemon, diary)

    def note(self, daemon, diary):
        at = diary.position()
        diary.acknowledged((who(daemon.tpm), content(daemon.tpm)), at)

    def there(self, folder):
        return bool(os.listdir(folder))

    def another(self, found, known):
        """Not the TPM that was there before."""
        return found[0] not in [state[0] for state in known]

    def find(self, folder, deep):
        if not self.there(folder):
            return Outcome()
        try:
            daemon = self.start(folder)
        except (Failure, OSError) as e:
            return Outcome(why=str(e))
        try:
            state = (who(daemon.tpm), content(daemon.tpm))
        except (Failure, OSError) as e:
            daemon.kill()
            return Outcome(why=str(e))
        try:
            after = go_on(daemon.tpm)
        except (Failure, OSError) as e:
            return Outcome(state, stuck=f"next commit: {e}")
        finally:
            daemon.kill()
        stuck = self.goes_on(folder, (state[0], after)) if deep else ""
        return Outcome(state, stuck=stuck, unsound=self.unsound(folder, deep))

    def goes_on(self, folder, wanted):
        """Started once more, it has what was committed after the cut."""
        try:
            daemon = self.start(folder)
        except (Failure, OSError) as e:
            return f"next start: {e}"
        try:
            if (who(daemon.tpm), content(daemon.tpm)) != wanted:
                return "next start: another state than was left"
        except (Failure, OSError) as e:
            return f"next start: {e}"
        finally:
            daemon.kill()
        return ""

    def unsound(self, folder, deep):
        return ""


class Nvkeep(TpmSubject):
    """broken: "serve" or "create": that command's flushes do nothing, of "create" those of directories;
    which must be found out."""

    FOUND = {"": SOUND, "serve": "ack-lost", "create": "lost"}

    def __init__(self, name, folder, n, broken=""):
        super().__init__(name, folder, n)
        self.program = os.environ["NVKEEP"]
        self.wanted = self.FOUND[broken]
        self.create_env = {}
        if broken:
            shim = os.path.join(folder, "no_sync.so")
            subprocess.run(["cc", "-shared", "-fPIC", "-o", shim,
                            os.path.join(os.path.dirname(__file__), "no_sync.c")], check=True)
        if broken == "serve":
            self.env = {"LD_PRELOAD": shim}
        if broken == "create":
            self.create_env = {"LD_PRELOAD": shim, "NO_SYNC": "directories"}

    def image(self, folder):
        return os.path.join(folder, "tpm.qcow2")

    def key(self, folder):
        return "file=" + os.path.join(folder, "tpm.key")

    def argv(self, folder):
        return [self.program, "serve", self.image(folder), "--key", self.key(folder)]

    def made(self, folder, diary):
        """The smallest disk: its log is full soonest. A key that is stretched but little: there are
        many starts."""
        diary.begin()
        done = run([self.program, "create", self.image(folder), "--new-key",
                    os.path.join(folder, "tpm.key"), "--size", "484K", "--iter-time", "1"],
                   env=self.create_env)
        if done.rc:
            raise Failure(f"nvkeep create: {done}")
        diary.acknowledged_of_new(diary.position())

    def look(self, folder):
        """The longer workloads are to go around the end of the log."""
        done = run([self.program, "info", self.image(folder), "--key", self.key(folder), "--json"])
        n_records = json.loads(done.out)["inside"]["log_records"]
        if self.n >= 10 and n_records >= self.n * len(COMMANDS):
            raise Failure(f"the log was never full: {done.out}")

    def there(self, folder):
        return os.path.exists(self.image(folder))

    def unsound(self, folder, deep):
        image = self.image(folder)
        done = run([self.program, "check", image, "--key", self.key(folder)])
        if done.rc or not deep:
            return f"nvkeep check: {done}" if done.rc else ""
        done = run(["qemu-img", "check", "--object", f"secret,id=k,{self.key(folder)}",
                    "--image-opts", f"driver=qcow2,file.filename={image},encrypt.key-secret=k"])
        return f"qemu-img check: {done}" if done.rc else ""


class Swtpm(TpmSubject):
    """Stock swtpm, as libvirt starts it. how: "dir" or "file"."""

    wanted = ANYTHING

    def __init__(self, name, folder, n, how="dir", keyed=False):
        super().__init__(name, folder, n)
        self.how = how
        self.key = []
        if keyed:
            path = os.path.join(folder, "swtpm.key")
            with open(path, "wb") as f:
                f.write(b"a passphrase of this test")
            self.key = ["--key", f"pwdfile={path},mode=aes-256-cbc"]

    def argv(self, folder):
        where = f"dir={folder}" if self.how == "dir" else f"backend-uri=file://{folder}/state"
        return ["swtpm", "socket", "--tpm2", "--tpmstate", where, *self.key]


class Writer:
    """A number in a file of 8 KiB, all of it made of that number. how:

    durable    new file, fsync, renamed, directory synced: what a careful program does
    lazy       the same without any of the syncs: must lose what it acknowledged
    in place   over the old one, then fsync: two blocks, of which one may arrive alone
    emptied    cut to nothing, fsync, written, fsync: what an ordinary rewrite does when power fails
    """

    FOUND = {"durable": SOUND, "lazy": "ack-lost", "in place": "mixed",
             "emptied": "lost"}

    def __init__(self, name, folder, n, how="durable"):
        del folder
        self.name, self.n, self.how = name, 8 * n, how
        self.wanted = self.FOUND[how]

    def work(self, folder, diary):
        path = os.path.join(folder, "number")
        for i in range(1, self.n):
            diary.begin()
            getattr(self, self.how.replace(" ", "_"))(path, i.to_bytes(4, "big") * 2048)
            diary.acknowledged(i, diary.position())

    @staticmethod
    def put(path, data, flags, sync=True):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600)
        if sync and flags & os.O_TRUNC:
            os.fsync(fd)
        os.write(fd, data)
        if sync:
            os.fsync(fd)
        os.close(fd)

    def durable(self, path, data, sync=True):
        self.put(path + ".new", data, 0, sync)
        os.rename(path + ".new", path)
        if sync:
            folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
            os.fsync(folder)
            os.close(folder)

    def lazy(self, path, data):
        self.durable(path, data, False)

    def in_place(self, path, data):
        self.put(path, data, 0)

    def emptied(self, path, data):
        self.put(path, data, os.O_TRUNC)

    def another(self, found, known):
        return False

    def find(self, folder, deep):
        del deep
        try:
            with open(os.path.join(folder, "number"), "rb") as f:
                data = f.read()
        except FileNotFoundError:
            return Outcome()
        if len(data) != 8192:
            return Outcome(why=f"{len(data)} bytes")
        number = int.from_bytes(data[:4], "big")
        return Outcome(number if data == data[:4] * 2048 else ("mixed", data))
