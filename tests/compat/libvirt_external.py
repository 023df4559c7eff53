"""<backend type='external'>: somebody else starts the daemon, and QEMU shuts it down whenever it ends.
One process of ours outlives that; swtpm's does not."""

import os
import subprocess

from libvirt_host import NOBODY, external
from libvirt_moves import DIRECT
from libvirt_rows import KEPT, count, counts, measure, must, outcome
from sides import Running
from harness.process import Failure, wait_until

GONE = "refused: the daemon has ended"


class Daemon:
    """As the host's user, by the name of swtpm; encrypted."""

    def __init__(self, host, name="tpm", state=None, options=()):
        self.host = host
        self.ctrl = host.path(name + ".sock")
        self.state = state or host.path(name + "-state")
        if not state:
            os.mkdir(self.state, 0o700)
            os.chown(self.state, NOBODY, NOBODY)
        with open(host.path("pass"), "wb") as f:
            f.write(b"a passphrase of management")
        keep = ["--keep-listening"] if host.whose == "ours" else []
        self.process = subprocess.Popen(
            [*host.prefix, "swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.state}", "--key",
             f"pwdfile={host.path('pass')}", "--ctrl", f"type=unixio,path={self.ctrl},mode=0600",
             "--log", f"file={host.path(name + '.log')}", *keep, *options],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        host.test.started(Running(self.process))
        wait_until("the daemon's socket", self._there, 60)

    def _there(self):
        if self.process.poll() is not None:
            raise Failure(f"the daemon ended: {self.process.stderr.read().decode()}")
        return os.path.exists(self.ctrl)

    def lives(self):
        return self.process.poll() is None


def one_process(host):
    daemon = Daemon(host)
    host.define(external(daemon.ctrl), disk=True)
    host.start()
    n, m = counts(host), measure(host)
    host.do("destroy", "vm")
    again = host.virsh("start", "vm")
    if again.rc != 0:
        must("Failed to connect" in again.err and not daemon.lives(), again.err)
        yield "external: start, destroy, start", GONE
        host.undefine()
        return
    host.console.skip()
    host.do("reset", "vm")
    host.ready()
    yield "external: start, destroy, start", outcome(host, n, m, False)
    first, m = n, measure(host)
    host.do("save", "vm", host.path("saved"))
    host.do("restore", host.path("saved"))
    yield "external: save, restore", outcome(host, n, m, True)
    n = count(host)
    host.do("managedsave", "vm")
    host.do("start", "vm")
    yield "external: managedsave, start", outcome(host, n, m, True)
    host.do("snapshot-create-as", "vm", "s1")
    count(host)
    host.do("snapshot-revert", "vm", "s1")
    yield "external: internal snapshot, revert", outcome(host, n, m, True)
    host.kill("qemu-system")
    wait_until("the machine off", lambda: "shut off" in host.do("domstate", "vm"), 60, 0.1)
    host.start()
    yield "external: QEMU is killed, start", outcome(host, n, m, False)
    count(host)
    host.do("destroy", "vm")
    host.do("restore", host.path("saved"))
    yield "external: restore of an older file", outcome(host, first, m, True)
    must(daemon.lives(), "the daemon has ended")
    host.undefine()


def migration(pair):
    """Separate states, then one state for both: here the daemon waits for what comes."""
    daemons = [Daemon(host, "moving") for host in pair.hosts]
    pair.backends = [external(d.ctrl) for d in daemons]
    pair.begin()
    n, m = counts(pair.here), measure(pair.here)
    pair.moved(DIRECT)
    yield "external: migration", outcome(pair.here, n, m, True)
    n = count(pair.here)
    back = pair.move(DIRECT)
    if back.rc != 0:
        must(not all(d.lives() for d in daemons), back.err)
        yield "external: and back, to the same process", GONE
        pair.undefine()
        return
    yield "external: and back, to the same process", outcome(pair.here, n, m, True)
    n = count(pair.here)
    pair.here.do("destroy", "vm")
    pair.here.start()
    yield "external: a cold start after migrations", outcome(pair.here, n, m, False)
    must(all(d.lives() for d in daemons), "a daemon has ended")
    pair.undefine()


def migration_shared(pair):
    """One image, two daemons."""
    first = Daemon(pair.here, "one")
    # The socket is there before the image that a first start makes.
    wait_until("the image", lambda: os.path.exists(os.path.join(first.state, "tpm2-00.qcow2")), 60)
    second = Daemon(pair.there, "two", first.state, ("--migration", "incoming"))
    pair.backends = [external(first.ctrl), external(second.ctrl)]
    pair.begin()
    n, m = counts(pair.here), measure(pair.here)
    for name in ("there", "back", "there again"):
        pair.moved(DIRECT)
        yield f"external, shared image: migration {name}", outcome(pair.here, n, m, True)
        n = count(pair.here)
    pair.here.do("destroy", "vm")
    pair.here.start()
    yield "external, shared image: a cold start there", outcome(pair.here, n, m, False)
    pair.here.do("destroy", "vm")
    must(first.lives() and second.lives(), "a daemon has ended")
    pair.undefine()
